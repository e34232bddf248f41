"""What a GPU is and how well: identity, error counters, limits and modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pynvml

from agent.facts.nvml import NOT_ASKED, Confidential, Fabric, Gpu, MigInstance, NvLink, Refused
from agent.nvml.asking import address, ask, error_name, fields, mig_handles, named, part

# https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html
_ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper",
    10: "Blackwell", 13: "Rubin",
}  # fmt: skip
_COMPUTE_MODES = {0: "default", 1: "exclusive-thread", 2: "prohibited", 3: "exclusive-process"}
_VIRTUALISATION = {0: "none", 1: "pass-through", 2: "vgpu", 3: "host-vgpu", 4: "host-vsga"}
_RECOVERY = {
    0: "none", 1: "reset the GPU", 2: "reboot", 3: "drain peer-to-peer traffic", 4: "drain and reset the GPU",
    5: "recover the IMEX domain", 6: "reset the bus", 7: "reboot",
}  # fmt: skip
_ENVIRONMENTS = {0: "unavailable", 1: "simulation", 2: "production"}
_FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}
_FABRIC_TRUE = 1
# Two bits each, of which 1 says yes, in healthMask of nvmlGpuFabricInfoV_t; then four of a configuration that is wrong.
_FABRIC_TROUBLES = {
    "bandwidth is degraded": pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
    "a route is being recovered": pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY,
    "a route is unhealthy": pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY,
    "an access timeout is being recovered": pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY,
}
_FIELDS = {
    "pages_retired": pynvml.NVML_FI_DEV_RETIRED_SBE,
    "pages_retired_uncorrected": pynvml.NVML_FI_DEV_RETIRED_DBE,
    "retirement_pending": pynvml.NVML_FI_DEV_RETIRED_PENDING,
    "recovery_action": pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    "slowdown_margin": pynvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT,
}


def gpu(index: int, *, inforom: bool) -> Gpu:
    """One GPU; ``inforom`` has the card check its InfoROM, which is in flash memory and slow."""
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if isinstance(handle, Refused):
        return Gpu(index=index, **dict.fromkeys(Gpu.__struct_fields__[1:], handle))
    return Gpu(
        index=index,
        **_identity(handle),
        **_modes(handle),
        **_errors(handle),
        **_repairs(handle),
        **_limits(handle),
        inforom_valid=_inforom(handle) if inforom else NOT_ASKED,
        nvlinks=_nvlinks(handle),
        fabric=_fabric(handle),
        mig=part(mig_handles(handle), lambda handles: tuple(map(_instance, handles))),
    )


def confidential() -> Confidential | Refused:
    """Confidential computing, which is a matter of the whole machine."""
    said = ask(pynvml.nvmlSystemGetConfComputeState)
    if isinstance(said, Refused):
        return said
    return Confidential(
        environment=named(said.environment, _ENVIRONMENTS),
        enabled=said.ccFeature == pynvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
        developer_tools=said.devToolsMode == pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON,
    )


def _identity(handle: Any) -> dict[str, Any]:
    return {
        "name": ask(pynvml.nvmlDeviceGetName, handle),
        "uuid": ask(pynvml.nvmlDeviceGetUUID, handle),
        "address": address(ask(pynvml.nvmlDeviceGetPciInfo_v3, handle)),
        "architecture": named(ask(pynvml.nvmlDeviceGetArchitecture, handle), _ARCHITECTURES),
        "compute_capability": part(
            ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle), lambda said: f"{said[0]}.{said[1]}"
        ),
        "vbios": ask(pynvml.nvmlDeviceGetVbiosVersion, handle),
        "minor": ask(pynvml.nvmlDeviceGetMinorNumber, handle),
        "memory_total": part(ask(pynvml.nvmlDeviceGetMemoryInfo, handle), lambda said: said.total),
    }


def _modes(handle: Any) -> dict[str, Any]:
    gsp = ask(pynvml.nvmlDeviceGetGspFirmwareMode, handle)
    mig = ask(pynvml.nvmlDeviceGetMigMode, handle)
    return {
        "persistence": _switch(pynvml.nvmlDeviceGetPersistenceMode, handle),
        "compute_mode": named(ask(pynvml.nvmlDeviceGetComputeMode, handle), _COMPUTE_MODES),
        "accounting": _switch(pynvml.nvmlDeviceGetAccountingMode, handle),
        "display_active": _switch(pynvml.nvmlDeviceGetDisplayActive, handle),
        "virtualisation": named(ask(pynvml.nvmlDeviceGetVirtualizationMode, handle), _VIRTUALISATION),
        "gsp": part(gsp, lambda said: bool(said[0])),
        "gsp_version": ask(pynvml.nvmlDeviceGetGspFirmwareVersion, handle),
        "dram_encryption": part(ask(pynvml.nvmlDeviceGetDramEncryptionMode, handle), lambda said: bool(said[0])),
        "mig_enabled": part(mig, lambda said: bool(said[0])),
        "mig_pending": part(mig, lambda said: bool(said[1])),
    }


def _switch(call: Callable[..., Any], handle: Any) -> Any:
    return part(ask(call, handle), bool)


def _errors(handle: Any) -> dict[str, Any]:
    ecc = ask(pynvml.nvmlDeviceGetEccMode, handle)
    corrected, uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    volatile, aggregate = pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC
    return {
        "ecc_enabled": part(ecc, lambda said: bool(said[0])),
        "ecc_pending": part(ecc, lambda said: bool(said[1])),
        "corrected_volatile": ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, corrected, volatile),
        "corrected_aggregate": ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, corrected, aggregate),
        "uncorrected_volatile": ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, volatile),
        "uncorrected_aggregate": ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, aggregate),
    }


def _repairs(handle: Any) -> dict[str, Any]:
    rows = ask(pynvml.nvmlDeviceGetRemappedRows, handle)
    said: dict[str, Any] = dict(zip(_FIELDS, fields(handle, _FIELDS.values()), strict=True))
    said["retirement_pending"] = part(said["retirement_pending"], bool)
    said["recovery_action"] = named(said["recovery_action"], _RECOVERY)
    return said | {
        "rows_remapped": part(rows, lambda each: each[0]),
        "rows_remapped_uncorrected": part(rows, lambda each: each[1]),
        "remap_pending": part(rows, lambda each: bool(each[2])),
        "remap_failed": part(rows, lambda each: bool(each[3])),
    }


def _limits(handle: Any) -> dict[str, Any]:
    return {
        "power_limit": ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
        "power_default": ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
        "slowdown_temperature": ask(
            pynvml.nvmlDeviceGetTemperatureThreshold, handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        "pcie_generation_max": ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        "pcie_width_max": ask(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
    }


def _inforom(handle: Any) -> bool | Refused:
    """Whether the card finds its own InfoROM in order; the call answers by its return code alone."""
    said = ask(pynvml.nvmlDeviceValidateInforom, handle)
    if said == Refused(error="CORRUPTED_INFOROM"):
        return False
    return said if isinstance(said, Refused) else True


def _nvlinks(handle: Any) -> tuple[NvLink, ...] | Refused:
    (count,) = fields(handle, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])
    if isinstance(count, Refused):
        return count
    links = range(min(count, pynvml.NVML_NVLINK_MAX_LINKS))
    failed = pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS
    failures = fields(handle, [(failed, link) for link in links]) if links else []
    return tuple(_nvlink(handle, link, failures[link]) for link in links)


def _nvlink(handle: Any, link: int, failures: Any) -> NvLink:
    def counted(counter: int) -> Any:
        return ask(pynvml.nvmlDeviceGetNvLinkErrorCounter, handle, link, counter)

    return NvLink(
        active=part(ask(pynvml.nvmlDeviceGetNvLinkState, handle, link), bool),
        replays=counted(pynvml.NVML_NVLINK_ERROR_DL_REPLAY),
        recoveries=counted(pynvml.NVML_NVLINK_ERROR_DL_RECOVERY),
        crc_errors=counted(pynvml.NVML_NVLINK_ERROR_DL_CRC_DATA),
        failed_recoveries=failures,
    )


def _fabric(handle: Any) -> Fabric | Refused:
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    said = ask(pynvml.nvmlDeviceGetGpuFabricInfoV, handle, pynvml.byref(info))
    if isinstance(said, Refused):
        return said
    return Fabric(
        state=named(info.state, _FABRIC_STATES),
        status=error_name(info.status),
        troubles=tuple(_fabric_troubles(info.healthMask)),
    )


def _fabric_troubles(mask: int) -> Iterator[str]:
    for trouble, shift in _FABRIC_TROUBLES.items():
        if mask >> shift & 0x3 == _FABRIC_TRUE:
            yield trouble
    wrong = mask >> pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION & 0xF
    if wrong > pynvml.NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_NONE:
        yield f"its configuration is wrong, number {wrong}"


def _instance(handle: Any) -> MigInstance:
    name = ask(pynvml.nvmlDeviceGetName, handle)
    return MigInstance(
        uuid=ask(pynvml.nvmlDeviceGetUUID, handle),
        # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
        profile=part(name, lambda said: said.rpartition(" MIG ")[2]),
        gpu_instance=ask(pynvml.nvmlDeviceGetGpuInstanceId, handle),
        compute_instance=ask(pynvml.nvmlDeviceGetComputeInstanceId, handle),
        memory_total=part(ask(pynvml.nvmlDeviceGetMemoryInfo, handle), lambda said: said.total),
    )
