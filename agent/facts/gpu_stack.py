"""What the GPUs rest on, looked at without waking them: kernel module, libraries, and the ways past the driver."""

from __future__ import annotations

import contextlib
import datetime as dt

from agent.config import Config
from agent.facts import gpu_access, gpu_libraries, gpu_module
from agent.facts.gpu_access import GpuAccess
from agent.facts.gpu_libraries import GpuLibraries
from agent.facts.gpu_module import GpuModule
from agent.facts.nvidia_container_toolkit import CONFIGURATION, SPECIFICATIONS
from agent.facts.nvml import LIBRARY_DIRECTORIES
from agent.host import Host
from agent.model import AbsentError, CannotLookError, probe

_NVIDIA = "0x10de"


def has_gpu(host: Host) -> bool:
    """Whether the driver is loaded or something of NVIDIA's is on the PCI bus."""
    if host.exists("/sys/module/nvidia") or host.exists("/proc/driver/nvidia/version"):
        return True
    try:
        devices = host.entries("/sys/bus/pci/devices")
    except AbsentError:  # a kernel without PCI
        return False
    return any(_vendor(host, device.path) == _NVIDIA for device in devices)


def _vendor(host: Host, device: str) -> str:
    try:
        return host.line(f"{device}/vendor")
    except AbsentError:  # unplugged meanwhile
        return ""


def _module_glance(host: Host, _config: Config) -> tuple[object, ...]:
    """Whether another module is loaded, with other marks, or modprobe is told something else."""
    seen = []
    for path in ("/sys/module/nvidia/version", "/sys/module/nvidia/taint"):
        with contextlib.suppress(CannotLookError):
            seen.append(host.line(path))
    return (*seen, host.signature("/etc/modprobe.d"))


@probe(every=dt.timedelta(hours=1), glance=_module_glance)
def gpu_module_state(host: Host, _config: Config) -> GpuModule:
    """The NVIDIA kernel module: its marks, signature, keys, parameters and where they are set."""
    return gpu_module.look(host) if has_gpu(host) else GpuModule()


def _library_glance(host: Host, _config: Config) -> tuple[object, ...]:
    """Whether a library, the loader's configuration, or what it loads into every program is another one."""
    libraries = (f"{directory}/{name}" for directory in LIBRARY_DIRECTORIES for name in gpu_libraries.NAMES)
    others = (gpu_libraries.PRELOAD, gpu_libraries.CONFIGURATION, "/etc/ld.so.conf.d", "/etc/ld.so.cache")
    return tuple(map(host.signature, (*libraries, *others)))


@probe(every=dt.timedelta(hours=1), glance=_library_glance)
def gpu_library_files(host: Host, _config: Config, earlier: GpuLibraries | None) -> GpuLibraries:
    """The driver's libraries on the loader's path: whose they are, and whether they are as installed."""
    return gpu_libraries.look(host, earlier) if has_gpu(host) else GpuLibraries()


def _access_glance(host: Host, _config: Config) -> tuple[object, ...]:
    """Whether the settings of container runtimes are others."""
    return tuple(map(host.signature, (CONFIGURATION, gpu_access.DOCKER, *SPECIFICATIONS, "/etc/passwd")))


@probe(every=dt.timedelta(minutes=30), glance=_access_glance)
def gpu_access_ways(host: Host, _config: Config) -> GpuAccess:
    """Who gets at GPUs past the driver: container tools and their settings, device specifications, MPS."""
    return gpu_access.look(host) if has_gpu(host) else GpuAccess()
