"""The driver's libraries: whether what programs load, and what tells how the GPUs are, is NVIDIA's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from agent.facts.gpu import DRIVER_SUBJECT, Driver, Gpus
from agent.facts.gpu_libraries import CONFIGURATION, PRELOAD, GpuLibraries, GpuLibrary
from agent.model import Duty, Finding, Severity, check

_SMALLEST = 1 << 20
"""NVIDIA's libnvidia-ml has more than a MiB in every branch that is in use, and libcuda much more."""
_REINSTALL = "Find out how it came there; if nobody knows, take the VM for taken over: keep its disk, make it anew."


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REINSTALL)
def gpu_library_changed(libraries: GpuLibraries) -> Iterator[Finding]:
    """A library of the NVIDIA driver is not the file that was installed.

    Whoever replaces libnvidia-ml decides what nvidia-smi and every monitor show: miners do it so that a busy GPU looks
    idle. Whoever replaces libcuda is inside every program that uses a GPU. The file is compared with the list of the
    Debian package that brought it, or else with what it was when it was first seen here. Who is root can falsify the
    list as well; a driver of the same version that was installed anew over a package's is shown too.
    """
    for each in libraries.libraries:
        if each.packaged:
            expected, whose = each.packaged, f"the one of package {each.package}"
            fix = f"See why: dpkg --verify {shlex.quote(each.package)}. {_REINSTALL}"
        else:
            expected, whose, fix = each.first, "the one that was first seen here", ""
        if each.digest != expected:
            evidence = {"md5": each.digest, "expected": expected, "package": each.package}
            yield Finding(subject=each.path, detail=f"{each.path} is not {whose}", evidence=evidence, fix=fix)


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REINSTALL)
def gpu_library_implausible(libraries: GpuLibraries) -> Iterator[Finding]:
    """What programs load as a library of the NVIDIA driver does not look like one.

    NVIDIA's libraries are larger than a MiB and carry the driver's version in the name of their file. A small one
    in their place is a wrapper: it can show an idle GPU while the GPU works for somebody else. The stubs of the CUDA
    toolkit, which serve to build programs, are such files without harm, but have no place where the loader looks.
    """
    for each in libraries.libraries:
        strange = ", ".join(_strange(each))
        if not strange:
            continue
        is_stub = "/stubs/" in each.path
        yield Finding(
            subject=each.path,
            detail=f"{each.names[0]}: the file {strange}" + (", as a stub for building programs" if is_stub else ""),
            evidence={"size": each.size, "package": each.package},
            severity=Severity.MEDIUM if is_stub else None,
            fix=f"Take its directory out of {CONFIGURATION} and its .d directory, then sudo ldconfig"
            if is_stub
            else "",
        )


def _strange(library: GpuLibrary) -> Iterator[str]:
    if not library.bits:
        yield "is no library"
        return
    if library.size < _SMALLEST:
        yield f"has {library.size} bytes only"
    if not library.version:
        yield "has no driver version in its name"


@check(
    severity=Severity.MEDIUM,
    duty=Duty.MONITORING,
    fix="Remove the one that the installed driver did not bring, then sudo ldconfig",
)
def gpu_library_second(libraries: GpuLibraries) -> Iterator[Finding]:
    """There is a second libnvidia-ml where the loader looks.

    Which of them a program gets depends on the order of directories, so that monitors may ask another library than
    the driver's. That is how a falsified one gets in without touching the real one; left-overs of an old
    installation do the same by accident. Libraries for 32-bit programs are not counted.
    """
    found = [each for each in libraries.libraries if each.is_for_nvml and each.bits != 32]  # noqa: PLR2004 -- bits
    for each in found[1:]:
        yield Finding(
            subject=each.path,
            detail=f"{each.names[0]} leads to {each.path}, besides {found[0].path}",
            evidence={"version": each.version, "first": found[0].path},
        )


@check(severity=Severity.MEDIUM, duty=Duty.MONITORING, fix=f"If nobody knows what it is for, remove it from {PRELOAD}.")
def gpu_preloaded_library(libraries: GpuLibraries) -> Iterator[Finding]:
    """A library is loaded into every program of this GPU machine.

    What /etc/ld.so.preload names can change what any program sees: it is how user-space rootkits hide processes and
    how NVML is falsified without touching its file. Some monitoring products put themselves there on purpose.
    """
    for path in libraries.preloaded:
        yield Finding(subject=path, detail=f"{PRELOAD} names {path}")


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REINSTALL)
def gpu_nvml_contradicts_kernel(driver: Driver, gpus: Gpus) -> Iterator[Finding]:
    """NVML and the kernel tell different things about the same GPUs.

    Both ask the same driver, so a true NVML cannot name another driver version, another identity for a GPU, or a GPU
    that is not on the bus: the library between may be a falsified one. A driver that waits for a restart is no such
    thing, and GPUs that NVML leaves out are told by gpu-missing.
    """
    if not driver.module:
        return
    installed = {each.version for each in driver.libraries}
    if isinstance(gpus.driver, str) and gpus.driver not in {"", driver.module.version, *installed}:
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail=f"NVML names driver {gpus.driver}, the kernel runs {driver.module.version}",
            evidence={"nvml": gpus.driver, "kernel": driver.module.version},
        )
    on_bus = {each.address: each for each in driver.gpus}
    for each in gpus.gpus:
        if not isinstance(each.address, str) or not isinstance(each.uuid, str):
            continue
        known = on_bus.get(each.address)
        if not known:
            said = f"NVML shows a GPU at {each.address}, where the bus has none"
        elif known.uuid and known.uuid != each.uuid:
            said = f"NVML calls the GPU at {each.address} {each.uuid}, the kernel {known.uuid}"
        else:
            continue
        yield Finding(subject=each.uuid, detail=said, evidence={"address": each.address})
