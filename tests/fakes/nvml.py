"""A machine with NVIDIA GPUs: a real shared library that answers as NVML would, and the kernel's files beside it.

NVIDIA's own bindings load the library, which is compiled once from nvml.c and takes its answers from a text file.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.host import Host
from tests.fakes.trees import plant

DIRECTORY = "/usr/lib/x86_64-linux-gnu"
LIBRARY = f"{DIRECTORY}/libnvidia-ml.so.1"
VERSION = "580.178.04"
Answers = Mapping[str, str | bytes]

T4: Answers = {
    "name": "Tesla T4", "memory": f"{15360 << 20},0", "ecc": "1,1", "corrected": "0,0", "uncorrected": "0,0",
    "temperature": "40", "thresholds": "96,93", "utilisation": "0,0", "persistence": "0",
}  # fmt: skip
A100: Answers = {
    **T4, "name": "NVIDIA A100-SXM4-40GB", "memory": f"{40960 << 20},{432 << 20}", "thresholds": "92,89",
    "persistence": "1",
}  # fmt: skip
# Since Ada the fixed thresholds are gone: a margin, and the margin at which the card slows down (field 194).
H100: Answers = {
    **{key: value for key, value in A100.items() if key != "thresholds"},
    "name": "NVIDIA H100 80GB HBM3", "memory": f"{81559 << 20},{519 << 20}", "margin": "50", "field194": "-2",
}  # fmt: skip


def uuid(index: int) -> str:
    """The UUID of a GPU of the fake machine."""
    return f"GPU-00000000-0000-4000-8000-{index:012x}"


def address(index: int) -> str:
    """Where a GPU of the fake machine sits on the bus."""
    return f"0000:{index:02x}:00.0"


@functools.cache
def compiled(without: tuple[str, ...] = ()) -> Path:
    """The library; ``without`` leaves functions out, as an old driver would."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler for the stand-in of NVML: apt-get install gcc")
    directory = Path(tempfile.mkdtemp(prefix="dlvmguard-nvml-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    script, library = directory / "symbols", directory / "libnvidia-ml.so.1"
    script.write_text("{ local: " + " ".join(f"{name};" for name in (*without, "none")) + " };")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wno-unused-result", "-Wl,-soname,libnvidia-ml.so.1",
         f"-Wl,--version-script={script}", "-o", str(library), str(Path(__file__).with_name("nvml.c")), "-ldl"],
        check=True,
    )  # fmt: skip
    return library


def kernel(count: int, *, version: str = VERSION, driver: str = "nvidia") -> dict[str, str]:
    """What the kernel shows of a machine with so many GPUs and the open module loaded."""
    files = {
        "/proc/driver/nvidia/version": f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release\n",
        "/proc/driver/nvidia/params": 'RmProfilingAdminOnly: 1\nDeviceFileMode: 438\nRegistryDwords: ""\n',
        "/dev/nvidiactl": "",
    }  # fmt: skip
    for index in range(count):
        device = f"/sys/bus/pci/devices/{address(index)}"
        information = f"Model: \t\t Tesla\nGPU UUID: \t {uuid(index)}\nGPU Excluded:\t No\n"
        files |= {
            f"{device}/vendor": "0x10de\n",
            f"{device}/class": "0x030200\n",
            f"{device}/driver": f"-> ../../../bus/pci/drivers/{driver}",
            f"/proc/driver/nvidia/gpus/{address(index)}/information": information,
            f"/dev/nvidia{index}": "",
        }
    return files


def machine(
    root: Path,
    gpus: Sequence[Answers],
    *,
    without: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    **answers: Any,
) -> Host:
    """A machine with these GPUs, whose NVML is at LIBRARY; ``answers``, text or bytes, hold for all of them."""
    lines: dict[str, str | bytes] = {"count": str(len(gpus)), "driver": VERSION, **answers}
    for index, gpu in enumerate(gpus):
        said = {"uuid": uuid(index), "pci": f"0,{index},0", **gpu}
        lines |= {f"{index}.{key}": value for key, value in said.items()}
    text = b"".join(
        b"%s=%s\n" % (key.encode(), value.encode() if isinstance(value, str) else value) for key, value in lines.items()
    )
    host = plant(root, {f"{DIRECTORY}/nvml.answers": text, **(kernel(len(gpus)) if files is None else files)})
    library = root / f"{DIRECTORY}/libnvidia-ml.so.{VERSION}".lstrip("/")
    shutil.copyfile(compiled(without), library)
    library.chmod(0o644)
    (root / LIBRARY.lstrip("/")).symlink_to(library.name)
    return host
