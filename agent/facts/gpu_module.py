"""The NVIDIA kernel module: how far it is to be trusted, and how it is set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agent.facts import module_signature
from agent.facts.gpu import DRIVER_SUBJECT, parse_fields
from agent.facts.gpu_files import TrustedFile, first_root, trusted
from agent.facts.module_signature import ModuleFile
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value

# The keys that Ubuntu's shim and DKMS make to sign modules built here: https://wiki.ubuntu.com/UEFI/SecureBoot/DKMS,
# https://github.com/dell/dkms/blob/master/dkms_framework.conf.in
_KEYS = ("/var/lib/shim-signed/mok/MOK.priv", "/var/lib/dkms/mok.key", "/root/mok.priv", "/root/MOK.priv")
_FIRMWARE = "/sys/firmware/efi/efivars"
# The namespace of the specification's own variables: https://uefi.org/specs/UEFI/2.10/03_Boot_Manager.html
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SETTINGS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d")
_MANY = 500
_LONGEST = 500
# What kernel-open/nvidia/nv-reg.h of https://github.com/NVIDIA/open-gpu-kernel-modules describes, as far as it decides
# who may do what, or lets the driver do what it does not do by itself.
_PARAMETERS = (
    "DeviceFileGID",
    "DeviceFileMode",
    "DeviceFileUID",
    "EnableDbgBreakpoint",
    "ExcludedGpus",
    "InitializeSystemMemoryAllocations",
    "ModifyDeviceFiles",
    "OpenRmEnableUnsupportedGpus",
    "PreserveVideoMemoryAllocations",
    "RegistryDwords",
    "RegistryDwordsPerDevice",
    "RmProfilingAdminOnly",
    "TemporaryFilePath",
)
# Debian calls its module nvidia-current, Ubuntu gave each branch a name: the kernel sees - and _ as one.
_OPTIONS = re.compile(r"\s*options\s+nvidia(?:[-_](?:current|\d{3})[\w-]*)?\s+(.*)", re.ASCII)
_OPTION = re.compile(r'NVreg_(\w{1,64})=("[^"]*"|[^\s"]*)', re.ASCII)
_ARGUMENT = re.compile(r'(?<!\S)nvidia(?:[-_]current)?\.NVreg_(\w{1,64})=("[^"]*"|[^\s"]*)', re.ASCII)
_FILE = re.compile(r"^(\S*/nvidia(?:-current)?\.ko(?:\.(?:xz|zst|gz))?):", re.MULTILINE)
_LOCKDOWN = re.compile(r"\[(none|integrity|confidentiality)\]")


class Setting(Value, frozen=True, kw_only=True):
    """A parameter that is set: its name without ``NVreg_``, its value, and the file that sets it."""

    name: str
    value: str
    place: str


class GpuModule(Fact, frozen=True, kw_only=True):
    """The NVIDIA kernel module as it is loaded, and its files; all empty where there is no GPU.

    ``taint`` are the letters by which the kernel says what the module is: out of tree (O), proprietary (P),
    unsigned (E), forced (F). ``parameters`` are those in force, ``settings`` those written down. ``secure_boot`` and
    ``setup_mode`` are what the firmware says, None where it does not. ``keys`` are private keys that sign modules.

    Letters: https://docs.kernel.org/admin-guide/tainted-kernels.html
    """

    taint: str = ""
    kernel_taint: int = 0
    file: ModuleFile | None = None
    lockdown: str = ""
    secure_boot: bool | None = None
    setup_mode: bool | None = None
    keys: tuple[TrustedFile, ...] = ()
    parameters: Mapping[str, str] = {}
    settings: tuple[Setting, ...] = ()
    trusted: tuple[TrustedFile, ...] = ()


def look(host: Host) -> GpuModule:
    """The module of a machine that has a GPU."""
    gaps: list[Unknown] = []
    settings = tuple(_settings(host, gaps))
    file = _file(host, gaps)
    kernel_taint = _line(host, "/proc/sys/kernel/tainted", gaps)
    paths = sorted({each.place for each in settings if each.place.startswith("/etc/")})
    files = [trusted(host, path, gaps) for path in paths]
    if file:
        files.append(trusted(host, file.path, gaps, root=first_root(host)))
    keys = [trusted(host, path, gaps) for path in _KEYS]
    lockdown = _LOCKDOWN.search(_line(host, "/sys/kernel/security/lockdown", gaps))
    return GpuModule(
        taint=shown(_line(host, "/sys/module/nvidia/taint", gaps))[:32],
        kernel_taint=int(kernel_taint) if re.fullmatch(r"\d{1,20}", kernel_taint, re.ASCII) else 0,
        file=file,
        lockdown=lockdown[1] if lockdown else "",
        secure_boot=_firmware(host, "SecureBoot", gaps),
        setup_mode=_firmware(host, "SetupMode", gaps),
        keys=tuple(each for each in keys if each),
        parameters=_parameters(host, gaps),
        settings=settings,
        trusted=tuple(each for each in files if each),
        gaps=tuple(gaps),
    )


def _gap(error: CannotLookError, scope: str) -> Unknown:
    """``scope`` is what nothing can be said about: it may be more than the place that could not be read."""
    return Unknown(reason=error.reason, hint=error.hint, scope=scope)


def _line(host: Host, path: str, gaps: list[Unknown], *, scope: str = DRIVER_SUBJECT) -> str:
    """A short file, as the values of the kernel's; empty where it has no such file."""
    try:
        return host.line(path)
    except AbsentError:
        return ""
    except CannotLookError as error:
        gaps.append(_gap(error, scope))
        return ""


def parse_firmware_switch(content: bytes) -> bool | None:
    """A variable of the firmware that is on or off: four bytes of attributes and one of value; None for any other.

    Format: https://docs.kernel.org/filesystems/efivarfs.html
    """
    return bool(content[4]) if len(content) == 5 and content[4] in {0, 1} else None  # noqa: PLR2004 -- as told above


def _firmware(host: Host, name: str, gaps: list[Unknown]) -> bool | None:
    """A switch of the firmware; one that does not have it, as those without UEFI, has it off."""
    try:
        return parse_firmware_switch(host.read(f"{_FIRMWARE}/{name}-{_GLOBAL}", limit=64))
    except AbsentError:
        return False
    except CannotLookError as error:
        gaps.append(_gap(error, ""))
        return None


def _file(host: Host, gaps: list[Unknown]) -> ModuleFile | None:
    """The file from which the module is loaded, as depmod wrote it down for the running kernel."""
    root = first_root(host)
    try:
        directory = f"/lib/modules/{host.line('/proc/sys/kernel/osrelease')}"
        found = _FILE.search(host.text(f"{root}{directory}/modules.dep", limit=16 * MEBIBYTE))
        if not found:
            return None
        path = found[1] if found[1].startswith("/") else f"{directory}/{found[1]}"
        file = module_signature.read(host, f"{root}{path}")
    except AbsentError:
        return None
    except CannotLookError as error:
        gaps.append(_gap(error, "/lib/modules"))
        return None
    return ModuleFile(path=shown(path), signed=file.signed, signer=file.signer)


def _parameters(host: Host, gaps: list[Unknown]) -> dict[str, str]:
    try:
        fields = parse_fields(host.text("/proc/driver/nvidia/params"))
    except AbsentError:
        return {}
    except CannotLookError as error:
        gaps.append(_gap(error, DRIVER_SUBJECT))
        return {}
    return {name: shown(fields[name].strip('"'))[:_LONGEST] for name in _PARAMETERS if name in fields}


def _settings(host: Host, gaps: list[Unknown]) -> Iterator[Setting]:
    for directory in _SETTINGS:
        try:
            paths = [each.path for each in host.entries(directory, limit=_MANY) if each.name.endswith(".conf")]
        except AbsentError:
            continue
        except CannotLookError as error:
            gaps.append(_gap(error, directory))
            continue
        for path in paths:
            text = _line(host, path, gaps, scope=shown(path))
            if "nvidia" in text:
                yield from parse_settings(text, shown(path))
    yield from parse_arguments(_line(host, "/proc/cmdline", gaps))


def parse_settings(text: str, place: str) -> Iterator[Setting]:
    """What a file of modprobe's sets of the module: https://man7.org/linux/man-pages/man5/modprobe.d.5.html."""
    for line in text.replace("\\\n", " ").splitlines():
        if options := _OPTIONS.match(line):
            yield from _found(_OPTION, options[1], place)


def parse_arguments(text: str) -> Iterator[Setting]:
    """What the kernel's command line sets of the module. Nothing else of it is kept."""
    yield from _found(_ARGUMENT, text, "/proc/cmdline")


def _found(pattern: re.Pattern[str], text: str, place: str) -> Iterator[Setting]:
    for name, value in pattern.findall(text):
        yield Setting(name=name, value=shown(value.strip('"'))[:_LONGEST], place=place)
