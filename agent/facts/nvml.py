"""Asking NVML: which library may be loaded, the child process that loads it, and the values that it answers in."""

from __future__ import annotations

import os
import signal
import stat
import sys

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


class Refused(Value, frozen=True, kw_only=True):
    """What NVML answered instead of a value, as ``NOT_SUPPORTED``. Never to be read as zero."""

    error: str


class GpuProcess(Value, frozen=True, kw_only=True):
    """A process on a GPU; ``memory`` in bytes is None where the driver does not account for it."""

    pid: int
    memory: int | None


Text = str | Refused
Number = int | Refused
Switch = bool | Refused
Processes = tuple[GpuProcess, ...] | Refused


class Gpu(Value, frozen=True, kw_only=True):
    """A GPU as NVML describes it; what NVML refuses says with which error.

    Errors are counted since the driver was loaded (volatile) and over the card's life (aggregate). Newer cards give
    no slowdown temperature, but a margin to it in degrees and the margin at which they slow down.
    """

    index: int
    name: Text
    uuid: Text
    address: Text
    persistence: Switch
    memory_total: Number
    memory_used: Number
    ecc_enabled: Switch
    ecc_pending: Switch
    corrected_volatile: Number
    corrected_aggregate: Number
    uncorrected_volatile: Number
    uncorrected_aggregate: Number
    temperature: Number
    slowdown_temperature: Number
    margin: Number
    slowdown_margin: Number
    utilisation: Number
    compute: Processes
    graphics: Processes
    mps: Processes

    @property
    def key(self) -> str:
        """The stable key: the UUID, else where it sits."""
        return next((name for name in (self.uuid, self.address) if isinstance(name, str) and name), f"gpu/{self.index}")

    def refusals(self) -> dict[str, str]:
        """The fields that NVML refused, and with which error."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value.error for name, value in values.items() if isinstance(value, Refused)}


class Survey(Value, frozen=True, kw_only=True):
    """What the child process prints: the GPUs, or why NVML did not start."""

    driver: Text = ""
    gpus: tuple[Gpu, ...] = ()
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


def survey(host: Host, path: str, *, deadline: float) -> Survey:
    """Ask NVML in a child process, and understand what it says or why it says nothing."""
    command = [sys.executable, "-I", "-m", "agent.nvml", host.place(path)]
    # 16 GPUs with thousands of processes each come to a few MiB.
    answer = host.run(command, deadline=deadline, limit=16 * MEBIBYTE, called="the NVIDIA driver")
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
