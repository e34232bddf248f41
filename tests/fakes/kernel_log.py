"""The kernel's log as a file of records, and a machine with GPUs that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.host import Host
from tests.fakes.nvml import address, uuid
from tests.fakes.trees import plant

BOOT = "8f1d0c86-0000-4000-8000-000000000000"
LOADED = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
SECOND = 1_000_000


def escaped(text: str) -> bytes:
    """A text as the kernel writes it into a record."""
    return b"".join(
        bytes([each]) if 32 <= each < 127 and each != 92 else b"\\x%02x" % each
        for each in text.encode("utf-8", "surrogateescape")
    )


def record(text: str, *, sequence: int, at: int, facility: int = 0) -> bytes:
    """A record; ``at`` is in microseconds since the boot."""
    return b"%d,%d,%d,-;%s\n" % (facility << 3 | 3, sequence, at, escaped(text))


def log(*texts: str, begin: int = 0, at: int = 60 * SECOND, facility: int = 0) -> bytes:
    """Records one after the other, a minute apart, each of the kernel's unless said otherwise."""
    return b"".join(
        record(text, sequence=begin + number, at=at + number * 60 * SECOND, facility=facility)
        for number, text in enumerate(texts)
    )


def files(content: bytes | None, *, models: Iterable[str] = ("NVIDIA H100 80GB HBM3",)) -> Mapping[str, str | bytes]:
    """A machine with these GPUs."""
    found: dict[str, str | bytes] = {
        "/proc/driver/nvidia/version": "NVRM version: …",
        "/proc/sys/kernel/random/boot_id": f"{BOOT}\n",
    }
    if content is not None:
        found["/dev/kmsg"] = content
    for index, model in enumerate(models):
        text = f"Model: \t\t {model}\nIRQ:   \t\t 11\nGPU UUID: \t {uuid(index)}\n"
        found[f"/proc/driver/nvidia/gpus/{address(index)}/information"] = text
    return found


def machine(root: Path, content: bytes | None, *, models: Iterable[str] = ("NVIDIA H100 80GB HBM3",)) -> Host:
    """The machine as a tree of files."""
    return plant(root, files(content, models=models))
