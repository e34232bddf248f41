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
SOURCE = Path(__file__).with_name("nvml.c")
Answers = Mapping[str, str | bytes]

# What each card says when all is well and nobody uses it. Memory and limits are those of the data sheets: power in
# milliwatts, links as "generation,width", "fabric" as state, status and health. Rules of the values: nvml.c.
T4: Answers = {
    "name": "Tesla T4", "architecture": "6", "capability": "7,5", "vbios": "90.04.38.00.03",
    "memory": f"{15360 << 20},0", "persistence": "1", "computemode": "0", "accounting": "0", "display": "0",
    "virtualisation": "1", "gsp": "1,1", "gspversion": VERSION, "ecc": "1,1", "corrected": "0,0",
    "uncorrected": "0,0", "field29": "0", "field30": "0",
    "field31": "0", "field230": "0", "inforom": "0", "powerlimit": "70000", "powerdefault": "70000", "power": "9500",
    "energy": "123456", "temperature": "40", "thresholds": "96,93", "utilisation": "0,0", "pstate": "8", "reasons": "1",
    "link": "1,16", "linkmax": "3,16", "replays": "0",
}  # fmt: skip
_NO_RETIREMENT = {"field29", "field30", "field31"}
# Since Ada the fixed thresholds are gone: a margin, and the margin at which the card slows down (field 194).
L4: Answers = {
    **{key: value for key, value in T4.items() if key not in {*_NO_RETIREMENT, "thresholds"}},
    "name": "NVIDIA L4", "architecture": "8", "capability": "8,9", "memory": f"{23034 << 20},0", "rows": "0,0,0,0",
    "powerlimit": "72000", "powerdefault": "72000", "linkmax": "4,16", "margin": "40", "field194": "-2",
}  # fmt: skip
A100: Answers = {
    **{key: value for key, value in T4.items() if key not in _NO_RETIREMENT},
    "name": "NVIDIA A100-SXM4-40GB", "architecture": "7", "capability": "8,0", "memory": f"{40960 << 20},{432 << 20}",
    "thresholds": "92,89", "rows": "0,0,0,0", "powerlimit": "400000", "powerdefault": "400000", "linkmax": "4,16",
    "mig": "0,0", "migmax": "7", "field91": "12", "links": ",".join("1" * 12), "linkerrors": "0,0,0,0",
}  # fmt: skip
A100_MIG: Answers = {
    **{key: value for key, value in A100.items() if key != "utilisation"}, "mig": "1,1", "compute": "1,700,4096",
    "mig0.uuid": "MIG-00000000-0000-5000-8000-000000000000", "mig0.name": "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    "mig0.instance": "1,0", "mig0.memory": f"{19968 << 20},0", "mig0.compute": "1,700,4096",
    "mig2.uuid": "MIG-00000000-0000-5000-8000-000000000002", "mig2.name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "mig2.instance": "9,0", "mig2.memory": f"{4864 << 20},0",
}  # fmt: skip
H100: Answers = {
    **{key: value for key, value in A100.items() if key != "thresholds"},
    "name": "NVIDIA H100 80GB HBM3", "architecture": "9", "capability": "9,0", "memory": f"{81559 << 20},{519 << 20}",
    "margin": "50", "field194": "-2", "powerlimit": "700000", "powerdefault": "700000", "linkmax": "5,16",
    "field91": "18", "links": ",".join("1" * 18), "field214": ",".join("0" * 18), "fabric": "3,0,0x1aa",
}  # fmt: skip
H200: Answers = {**H100, "name": "NVIDIA H200", "memory": f"{143771 << 20},{620 << 20}"}
B200: Answers = {
    **H100, "name": "NVIDIA B200", "architecture": "10", "capability": "10,0", "memory": f"{183359 << 20},{700 << 20}",
    "powerlimit": "1000000", "powerdefault": "1000000", "encryption": "0,0",
}  # fmt: skip
PROFILES = {"T4": T4, "L4": L4, "A100": A100, "A100 with MIG": A100_MIG, "H100": H100, "H200": H200, "B200": B200}


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
         f"-Wl,--version-script={script}", "-o", str(library), str(SOURCE), "-ldl"],
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
        said = {"uuid": uuid(index), "pci": f"0,{index},0", "minor": str(index), **gpu}
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
