"""Which GPU, and which part of one, stands behind a device node, as the driver says without being opened."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping

from agent.facts.gpu import parse_fields
from agent.facts.mapped_files import DELETED
from agent.facts.workload import GpuPart, HeldGpu
from agent.host import MEBIBYTE, Host, shown
from agent.model import CannotLookError

_CAPABILITIES = "/proc/driver/nvidia-caps/mig-minors"
_INFORMATION = "/proc/driver/nvidia/gpus"
_GPU = re.compile(r"/dev/nvidia(\d{1,4})", re.ASCII)
_CAPABILITY = re.compile(r"/dev/nvidia-caps/nvidia-cap(\d{1,6})", re.ASCII)
_USED = re.compile(r"/dev/nvidia(?:\d{1,4}|-uvm)|/dev/nvidia-caps/nvidia-cap\d{1,6}", re.ASCII)
# https://docs.nvidia.com/datacenter/tesla/mig-user-guide/ (device nodes and capabilities)
_MINOR = re.compile(r"^gpu(\d{1,4})/gi(\d{1,4})(?:/ci(\d{1,4}))?/access (\d{1,6})$", re.MULTILINE | re.ASCII)


def is_use(target: str) -> bool:
    """Whether an open file is one that only programs that use a GPU have; the control device alone is none."""
    return target.startswith("/dev/nvidia") and _USED.fullmatch(target.removesuffix(DELETED)) is not None


def parse_mig_minors(text: str) -> dict[int, tuple[int, GpuPart]]:
    """The GPU, by its minor number, and the part of it that each capability opens."""
    return {
        int(number): (int(gpu), GpuPart(gpu_instance=int(part), compute_instance=int(compute) if compute else None))
        for gpu, part, compute, number in _MINOR.findall(text)
    }


class GpuNodes:
    """The GPUs of a machine by their device nodes, as they are for the time of one look."""

    def __init__(self, host: Host) -> None:
        """Ask the driver, which may not tell."""
        self._gpus = {gpu.minor: gpu for gpu in _gpus(host)}
        self._parts: Mapping[int, tuple[int, GpuPart]] = {}
        with contextlib.suppress(CannotLookError):
            self._parts = parse_mig_minors(host.text(_CAPABILITIES, limit=MEBIBYTE))

    def held(self, nodes: Iterable[str]) -> tuple[HeldGpu, ...]:
        """The GPUs behind these nodes, each with its parts."""
        parts: dict[int, set[GpuPart]] = {}
        for node in nodes:
            if match := _GPU.fullmatch(node):
                parts.setdefault(int(match[1]), set())
            elif (match := _CAPABILITY.fullmatch(node)) and (part := self._parts.get(int(match[1]))):
                parts.setdefault(part[0], set()).add(part[1])
        return tuple(self._held(minor, parts[minor]) for minor in sorted(parts))

    def _held(self, minor: int, parts: Iterable[GpuPart]) -> HeldGpu:
        known = self._gpus.get(minor, HeldGpu(minor=minor))
        return HeldGpu(minor=minor, address=known.address, uuid=known.uuid, parts=in_order(parts))


def in_order(parts: Iterable[GpuPart]) -> tuple[GpuPart, ...]:
    """The parts of a GPU; a whole GPU instance before what is in it."""
    return tuple(
        sorted(
            parts, key=lambda part: (part.gpu_instance, -1 if part.compute_instance is None else part.compute_instance)
        )
    )


def _gpus(host: Host) -> Iterator[HeldGpu]:
    try:
        addresses = host.directories(_INFORMATION)
    except CannotLookError:
        return
    for address in addresses:
        with contextlib.suppress(CannotLookError, ValueError):
            fields = parse_fields(host.text(f"{_INFORMATION}/{address}/information", limit=65536))
            uuid = fields.get("GPU UUID", "")  # question marks until the GPU was first opened
            yield HeldGpu(
                minor=int(fields.get("Device Minor", "")),
                address=shown(address),
                uuid=shown(uuid) if "?" not in uuid else "",
            )
