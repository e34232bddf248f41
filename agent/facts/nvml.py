"""Asking NVML: which library may be loaded, the child process that loads it, and the values that it answers in."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import Literal

import msgspec

from agent.host import MEBIBYTE, Answer, Host, shown
from agent.model import AbsentError, CannotLookError, Value

LIBRARY = "libnvidia-ml.so.1"
# Debian and Ubuntu, Rocky, others, then Google's container images and Container-Optimized OS.
LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/var/lib/nvidia/lib64",
)
# The errors of nvmlInit that have a remedy of their own.
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html
_NOT_STARTED = {
    "LIB_RM_VERSION_MISMATCH": (
        "NVML does not start: the driver on disk is not the one in the kernel (LIB_RM_VERSION_MISMATCH)",
        "Restart the machine to load the new driver.",
    ),
    "DRIVER_NOT_LOADED": (
        "NVML does not start: the NVIDIA kernel module is not loaded (DRIVER_NOT_LOADED)",
        "Load it with sudo modprobe nvidia, or install the driver for the running kernel.",
    ),
    "NO_PERMISSION": (
        "NVML does not start: the GPU's device nodes may not be opened (NO_PERMISSION)",
        "Run it as root, or allow this user to open /dev/nvidiactl and /dev/nvidia0.",
    ),
    "OPERATING_SYSTEM": (
        "NVML does not start: the system blocks the GPU's device nodes (OPERATING_SYSTEM)",
        "Allow char-nvidia to the service or container that this runs in.",
    ),
}


class Refused(Value, frozen=True, kw_only=True, tag="refused"):
    """What NVML answered instead of a value, as ``NOT_SUPPORTED``. Never to be read as zero."""

    error: str


NOT_ASKED = Refused(error="NOT_ASKED")
"""What stands where NVML was spared a question."""


class GpuProcess(Value, frozen=True, kw_only=True):
    """A process on a GPU, by the process id of the host, also where a container has another one for it.

    ``memory`` in bytes is None where the driver does not account for it, ``utilisation`` in percent where it took no
    sample of it lately. On a GPU that is cut up by MIG the instances say on which part the process runs.
    """

    pid: int
    memory: int | None
    utilisation: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None


Text = str | Refused
Number = int | Refused
Switch = bool | Refused
Processes = tuple[GpuProcess, ...] | Refused


class Card(Value, frozen=True, kw_only=True):
    """What tells one GPU from another. The order of ``index`` may be another one after a restart."""

    index: int
    uuid: Text
    address: Text

    @property
    def key(self) -> str:
        """The stable key: the UUID, else where it sits."""
        return next((name for name in (self.uuid, self.address) if isinstance(name, str) and name), f"gpu/{self.index}")

    def refusals(self) -> dict[str, str]:
        """The fields that NVML refused, and with which error."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value.error for name, value in values.items() if isinstance(value, Refused)}


class Fabric(Value, frozen=True, kw_only=True, tag="fabric"):
    """A GPU's place in an NVLink fabric: how far joining it came, with which result, and what is wrong with it."""

    state: str
    status: str
    troubles: tuple[str, ...] = ()


class NvLink(Value, frozen=True, kw_only=True):
    """One link. Errors are counted since the driver was loaded; newer cards count recoveries that failed."""

    active: Switch
    replays: Number
    recoveries: Number
    crc_errors: Number
    failed_recoveries: Number


class MigInstance(Value, frozen=True, kw_only=True):
    """A part that MIG cut out of a GPU."""

    uuid: Text
    profile: Text
    gpu_instance: Number
    compute_instance: Number
    memory_total: Number


class Gpu(Card, frozen=True, kw_only=True):
    """What a GPU is and how well, as NVML says it; what NVML refuses says with which error.

    It is the same from one look to the next as long as nothing happens. Errors are counted since the driver was loaded
    (volatile) and over the card's life (aggregate). Newer cards give no slowdown temperature, but the margin to their
    limit at which they slow down. Power is in milliwatts, memory in bytes.
    """

    name: Text
    architecture: Text
    compute_capability: Text
    vbios: Text
    minor: Number
    memory_total: Number
    persistence: Switch
    compute_mode: Text
    accounting: Switch
    display_active: Switch
    virtualisation: Text
    gsp: Switch
    gsp_version: Text
    dram_encryption: Switch
    ecc_enabled: Switch
    ecc_pending: Switch
    corrected_volatile: Number
    corrected_aggregate: Number
    uncorrected_volatile: Number
    uncorrected_aggregate: Number
    pages_retired: Number
    pages_retired_uncorrected: Number
    retirement_pending: Switch
    rows_remapped: Number
    rows_remapped_uncorrected: Number
    remap_pending: Switch
    remap_failed: Switch
    recovery_action: Text
    inforom_valid: Switch
    power_limit: Number
    power_default: Number
    slowdown_temperature: Number
    slowdown_margin: Number
    pcie_generation_max: Number
    pcie_width_max: Number
    nvlinks: tuple[NvLink, ...] | Refused
    fabric: Fabric | Refused
    mig_enabled: Switch
    mig_pending: Switch
    mig: tuple[MigInstance, ...] | Refused


def called(gpu: Gpu) -> str:
    """The card as a person finds it: its name and where it sits."""
    name = gpu.name if isinstance(gpu.name, str) else "GPU"
    return f"{name} at {gpu.address if isinstance(gpu.address, str) else f'index {gpu.index}'}"


class Sample(Card, frozen=True, kw_only=True):
    """What a GPU does at a moment: power in milliwatts, energy since the driver was loaded in millijoules.

    ``margin`` is what is left in degrees up to the limit of newer cards, ``clock_reasons`` the bits of what holds the
    clocks down, ``replays`` the PCIe packets sent again since the driver was loaded. The processes of all MIG
    instances are among those of their GPU.
    """

    persistence: Switch
    memory_total: Number
    memory_used: Number
    utilisation: Number
    memory_utilisation: Number
    temperature: Number
    margin: Number
    power: Number
    energy: Number
    performance_state: Number
    clock_reasons: Number
    pcie_generation: Number
    pcie_width: Number
    replays: Number
    compute: Processes
    graphics: Processes
    mps: Processes


class Confidential(Value, frozen=True, kw_only=True, tag="confidential"):
    """Confidential computing: in which environment, whether it is on, and whether it is open to developers' tools."""

    environment: str
    enabled: bool
    developer_tools: bool


class Survey(Value, frozen=True, kw_only=True):
    """What the child process prints: the GPUs or their samples, or why NVML did not start."""

    driver: Text = ""
    confidential: Confidential | Refused | None = None
    gpus: tuple[Gpu, ...] = ()
    samples: tuple[Sample, ...] = ()
    refused: Refused | None = None


def library(host: Host, configured: str) -> str:
    """The library to load: its code runs with our rights, so nobody else may be able to write it."""
    owners = {0, os.geteuid()} if configured else {0}
    doubts: list[str] = []
    for path in [configured] if configured else [f"{directory}/{LIBRARY}" for directory in LIBRARY_DIRECTORIES]:
        try:
            seen = host.stat(path)
        except AbsentError:
            continue
        if not stat.S_ISREG(seen.st_mode):
            doubts.append(f"{shown(path)} is not a regular file")
        elif seen.st_uid not in owners:
            doubts.append(f"{shown(path)} belongs to user {seen.st_uid}, not to root")
        elif seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            doubts.append(f"{shown(path)} can be written by others than its owner")
        else:
            return path
    if doubts:
        raise CannotLookError(f"NVML is not loaded: {'; '.join(doubts)}", "Install NVIDIA's driver anew.")
    place = shown(configured) or "the system's library directories"
    raise CannotLookError(f"NVML is not loaded: no {LIBRARY} in {place}", "Install NVIDIA's driver.")


DRIVER = "the NVIDIA driver"
"""What gives no answer when it hangs."""
Question = Literal["gpus", "gpus-and-inforom", "samples"]


def survey(host: Host, path: str, question: Question, *, deadline: float) -> Survey:
    """Ask NVML in a child process, and understand what it says or why it says nothing.

    The InfoROM is read from the card's flash memory, so that is asked for by itself.
    """
    command = [sys.executable, "-I", "-m", "agent.nvml", host.place(path), question]
    # 16 GPUs with thousands of processes each come to a few MiB.
    answer = host.run(command, deadline=deadline, limit=16 * MEBIBYTE, called=DRIVER)
    said = parse_survey(answer)
    if said.refused:
        reason, hint = _NOT_STARTED.get(said.refused.error, (f"NVML does not start: {said.refused.error}", ""))
        raise CannotLookError(reason, hint)
    return said


def parse_survey(answer: Answer) -> Survey:
    """What the child process said, decoded strictly."""
    if answer.status < 0:
        name = signal.strsignal(-answer.status) or "unknown signal"
        raise CannotLookError(
            f"NVML crashed: signal {-answer.status}, {name.lower()}", "Look for Xid errors with sudo dmesg."
        )
    if answer.status:
        last = (answer.errors.strip().splitlines() or [b"no reason given"])[-1]
        raise CannotLookError(f"NVML could not be asked: {shown(last[:300])}")
    try:
        return msgspec.json.decode(answer.output, type=Survey)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotLookError(f"NVML's answer is not understood: {shown(str(error)[:300])}") from error
