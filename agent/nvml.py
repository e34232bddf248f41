"""The NVML child process: asks the driver once, prints one JSON document and ends.

Started as ``python -I -m agent.nvml LIBRARY``. The driver may hang, crash or lie in here: the parent has a deadline,
reads the exit status and decodes what is printed as it would any stranger's. Nothing is ever set on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from agent.facts.nvml import Gpu, GpuProcess, Processes, Refused, Survey
from agent.host import shown

_MOST_GPUS = 1024
_MOST_MEMORY = 1 << 30  # a process list of absurd length ends this child, not the machine
_ERRORS = {
    code: name.removeprefix("NVML_ERROR_") for name, code in vars(pynvml).items() if name.startswith("NVML_ERROR_")
}


def main() -> None:
    """Load the library by its path, ask, print."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (_MOST_MEMORY if most == resource.RLIM_INFINITY else min(_MOST_MEMORY, most), most)
    )
    # What the library itself prints must not mix with the answer, so it goes where errors go.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        try:
            # With the library in place the bindings look for none, so LD_LIBRARY_PATH and the like decide nothing.
            pynvml.nvmlLib = ctypes.CDLL(sys.argv[1])
        except OSError as error:
            sys.exit(f"the library does not load: {error}")
        answer.write(msgspec.json.encode(survey()))


def survey() -> Survey:
    """Everything that is asked, in one go."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Survey(refused=_refused(error))
    try:
        count = _ask(pynvml.nvmlDeviceGetCount)
        if isinstance(count, Refused):
            return Survey(refused=count)
        if count > _MOST_GPUS:
            sys.exit(f"NVML claims {count} GPUs")
        return Survey(driver=_ask(pynvml.nvmlSystemGetDriverVersion), gpus=tuple(map(_gpu, range(count))))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if isinstance(handle, Refused):
        return Gpu(index=index, **dict.fromkeys(Gpu.__struct_fields__[1:], handle))
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    ecc = _ask(pynvml.nvmlDeviceGetEccMode, handle)
    corrected, uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    volatile, aggregate = pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC
    return Gpu(
        index=index,
        name=_ask(pynvml.nvmlDeviceGetName, handle),
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle),
        address=_part(_ask(pynvml.nvmlDeviceGetPciInfo_v3, handle), _address),
        persistence=_part(_ask(pynvml.nvmlDeviceGetPersistenceMode, handle), bool),
        memory_total=_part(memory, lambda said: said.total),
        memory_used=_part(memory, lambda said: said.used),
        ecc_enabled=_part(ecc, lambda said: bool(said[0])),
        ecc_pending=_part(ecc, lambda said: bool(said[1])),
        corrected_volatile=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, corrected, volatile),
        corrected_aggregate=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, corrected, aggregate),
        uncorrected_volatile=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, volatile),
        uncorrected_aggregate=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, aggregate),
        temperature=_temperature(handle),
        slowdown_temperature=_ask(
            pynvml.nvmlDeviceGetTemperatureThreshold, handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        margin=_ask(pynvml.nvmlDeviceGetMarginTemperature, handle),
        slowdown_margin=_ask(_field, handle, pynvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT),
        utilisation=_part(_ask(pynvml.nvmlDeviceGetUtilizationRates, handle), lambda said: said.gpu),
        compute=_processes(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle),
        graphics=_processes(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, handle),
        mps=_processes(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, handle),
    )


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML says, or with which error it refuses; names come out printable."""
    try:
        said = call(*arguments)
    except pynvml.NVMLError as error:
        return _refused(error)
    except UnicodeDecodeError as error:  # the bindings decode names strictly; the bytes are still there
        return shown(error.object)
    return shown(said) if isinstance(said, str) else said


def _part(said: Any, pick: Callable[[Any], Any]) -> Any:
    return said if isinstance(said, Refused) else pick(said)


def _refused(error: pynvml.NVMLError) -> Refused:
    return Refused(error=_ERRORS.get(error.value, f"CODE_{error.value}"))


def _address(pci: Any) -> str:
    """As the kernel writes it, so that the two can be compared; NVML's own text has a longer domain."""
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _temperature(handle: Any) -> Any:
    """The old call, which CUDA 14 is to remove, or its successor."""
    said = _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    if said == Refused(error="FUNCTION_NOT_FOUND"):
        return _ask(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    return said


def _field(handle: Any, field: int) -> int:
    """One field value that is a signed number of degrees."""
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [field])
    if value.nvmlReturn:
        raise pynvml.NVMLError(value.nvmlReturn)
    return int(value.value.siVal)


def _processes(call: Callable[..., Any], handle: Any) -> Processes:
    said = _ask(call, handle)
    if isinstance(said, Refused):
        return said
    found = [GpuProcess(pid=each.pid, memory=each.usedGpuMemory) for each in said]
    return tuple(sorted(found, key=lambda each: each.pid))


if __name__ == "__main__":
    main()
