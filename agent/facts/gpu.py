"""NVIDIA GPUs: the driver as the kernel shows it without waking anything, and the GPUs as NVML describes them."""

from __future__ import annotations

import datetime as dt
import posixpath
import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, TypeVar

import msgspec

from agent.config import Config
from agent.facts import gpu_pause, nvml
from agent.facts.nvml import Card, Confidential, Gpu, Refused, Text
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

DRIVER_SUBJECT = "nvidia-driver"
"""The subject of findings about the driver, and the scope of what could not be seen of it."""

_NVIDIA = "0x10de"
_GPU_CLASSES = ("0x0300", "0x0302")  # VGA and 3D controller, https://pci-ids.ucw.cz/read/PD/03
_VERSION = r"(\d{1,5}(?:\.\d{1,5}){1,2})"
# Both flavours of the line, the open one first: "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release …",
# "NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May …".
_MODULE_LINE = re.compile(rf"NVRM version:.*?(Open )?Kernel Module(?: for \S+)?\s+{_VERSION}\s", re.ASCII)
_VERSIONED_LIBRARY = re.compile(rf"libnvidia-ml\.so\.{_VERSION}", re.ASCII)
# What decides who may do what on the GPUs; names as in kernel-open/nvidia/nv-reg.h of
# https://github.com/NVIDIA/open-gpu-kernel-modules
_PARAMETERS = (
    "DeviceFileGID",
    "DeviceFileMode",
    "DeviceFileUID",
    "InitializeSystemMemoryAllocations",
    "ModifyDeviceFiles",
    "RmProfilingAdminOnly",
)
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class PciGpu(Value, frozen=True, kw_only=True):
    """A GPU on the PCI bus. ``driver`` is the kernel driver that holds it; ``excluded`` by NVreg_ExcludedGpus."""

    address: str
    driver: str = ""
    uuid: str = ""
    excluded: bool = False

    @property
    def is_for_nvidia(self) -> bool:
        """Whether NVIDIA's driver should have it: not excluded, nor given to nouveau or a virtual machine."""
        return self.driver in {"", "nvidia"} and not self.excluded


class Module(Value, frozen=True, kw_only=True):
    """The loaded kernel module."""

    version: str
    flavour: Literal["open", "proprietary", "unknown"] = "unknown"


class Library(Value, frozen=True, kw_only=True):
    """A libnvidia-ml.so.1 on disk and the version of the file that it leads to."""

    path: str
    version: str


class DeviceNode(Value, frozen=True, kw_only=True):
    """A device node of the driver, as ``/dev/nvidia0``, and who may open it."""

    path: str
    owner: int
    group: int
    mode: int


class Driver(Fact, frozen=True, kw_only=True):
    """The NVIDIA driver and its GPUs, seen without opening any of them.

    ``module`` is None when none is loaded; ``libraries`` come in the order in which they are looked for.
    """

    gpus: tuple[PciGpu, ...] = ()
    module: Module | None = None
    libraries: tuple[Library, ...] = ()
    parameters: Mapping[str, str] = {}
    nodes: tuple[DeviceNode, ...] = ()


class Gpus(Fact, frozen=True, kw_only=True):
    """The GPUs as NVML describes them; none on a machine without.

    ``inforom_checked`` is the day on which the cards last checked their InfoROM. ``asked`` is the start of the machine
    and the hour in which NVML was asked, kept only where asking wakes an idle GPU.
    """

    driver: Text = ""
    confidential: Confidential | Refused | None = None
    gpus: tuple[Gpu, ...] = ()
    inforom_checked: dt.date | None = None
    asked: str = ""


def parse_fields(text: str) -> dict[str, str]:
    """The ``Name: value`` lines that the driver writes below /proc/driver/nvidia."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def parse_module(text: str) -> Module | None:
    """Version and flavour from /proc/driver/nvidia/version; None when it names none."""
    found = _MODULE_LINE.search(text)
    return Module(version=found[2], flavour="open" if found[1] else "proprietary") if found else None


_XID = "NVRM: Xid"
"""How the driver reports an error of a GPU: https://docs.nvidia.com/deploy/xid-errors/"""


def _glance(host: Host, _config: Config) -> str:
    """Which driver is loaded."""
    try:
        return host.line("/sys/module/nvidia/version")
    except CannotLookError:
        return ""


def _gpus_glance(host: Host, config: Config) -> Hashable:
    """Which driver is loaded, and whether an operator released the GPUs."""
    return _glance(host, config), gpu_pause.released(host)


@probe(every=dt.timedelta(minutes=10), glance=_glance, kernel_log=_XID)
def driver(host: Host, _config: Config) -> Driver:
    """NVIDIA GPUs on the PCI bus, and the driver in the kernel and on disk."""
    module = _module(host)
    gaps: list[Unknown] = []
    return Driver(
        gpus=on_the_bus(host),
        module=module,
        libraries=tuple(_libraries(host, gaps)),
        parameters=_parameters(host, gaps) if module else {},
        nodes=tuple(_nodes(host)),
        gaps=tuple(gaps),
    )


def on_the_bus(host: Host) -> tuple[PciGpu, ...]:
    """NVIDIA's GPUs, as the kernel lists them."""
    try:
        devices = host.entries("/sys/bus/pci/devices")
    except AbsentError:  # a kernel without PCI
        return ()
    return tuple(gpu for device in devices if (gpu := _pci_gpu(host, device.path, device.name)))


def _pci_gpu(host: Host, path: str, address: str) -> PciGpu | None:
    """The device if it is an NVIDIA GPU; one that was unplugged meanwhile is not."""
    try:
        if host.line(f"{path}/vendor") != _NVIDIA or not host.line(f"{path}/class").startswith(_GPU_CLASSES):
            return None
    except AbsentError:
        return None
    try:
        holder = posixpath.basename(host.link(f"{path}/driver"))
    except AbsentError:
        holder = ""
    try:
        fields = parse_fields(host.text(f"/proc/driver/nvidia/gpus/{address}/information"))
    except AbsentError:
        fields = {}
    uuid = fields.get("GPU UUID", "")  # question marks until the GPU was first opened
    return PciGpu(
        address=shown(address),
        driver=shown(holder),
        uuid=uuid if _UUID.fullmatch(uuid) else "",
        excluded=fields.get("GPU Excluded") == "Yes",
    )


def _module(host: Host) -> Module | None:
    try:
        module = parse_module(host.text("/proc/driver/nvidia/version"))
    except AbsentError:
        try:
            version = host.line("/sys/module/nvidia/version")
        except AbsentError:
            return None
        module = Module(version=version) if re.fullmatch(_VERSION, version, re.ASCII) else None
    if not module:
        raise CannotLookError("the NVIDIA kernel module is loaded, but says no version that is understood")
    return module


def _libraries(host: Host, gaps: list[Unknown]) -> Iterator[Library]:
    for directory in nvml.LIBRARY_DIRECTORIES:
        path = f"{directory}/{nvml.LIBRARY}"
        try:
            if not host.exists(path):
                continue
            version = _library_version(host, path)
        except CannotLookError as error:
            gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=DRIVER_SUBJECT))
            continue
        yield Library(path=path, version=version)


def _library_version(host: Host, path: str) -> str:
    """The version in the name of the file that the links lead to."""
    for _ in range(8):  # Debian's alternatives take three links
        if found := _VERSIONED_LIBRARY.fullmatch(posixpath.basename(path)):
            return found[1]
        if not stat.S_ISLNK(host.stat(path, follow=False).st_mode):
            break
        path = posixpath.join(posixpath.dirname(path), host.link(path))
    raise CannotLookError(f"{shown(path)} carries no driver version in its name")


def _parameters(host: Host, gaps: list[Unknown]) -> dict[str, str]:
    try:
        fields = parse_fields(host.text("/proc/driver/nvidia/params"))
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=DRIVER_SUBJECT))
        return {}
    return {name: shown(fields[name]) for name in _PARAMETERS if name in fields}


def _nodes(host: Host) -> Iterator[DeviceNode]:
    for directory in ("/dev", "/dev/nvidia-caps"):
        try:
            entries = host.entries(directory)
        except AbsentError:
            continue
        for entry in entries:
            if not entry.name.startswith("nvidia") or entry.kind == "directory":
                continue
            try:
                seen = host.stat(entry.path, follow=False)
            except AbsentError:
                continue
            yield DeviceNode(
                path=shown(entry.path), owner=seen.st_uid, group=seen.st_gid, mode=stat.S_IMODE(seen.st_mode)
            )


@probe(every=dt.timedelta(minutes=10), glance=_gpus_glance, kernel_log=_XID)
def gpus(host: Host, config: Config, earlier: Gpus | None = None) -> Gpus:
    """The identity and health of each NVIDIA GPU, as NVML says it.

    NVML is asked in a child process that ends at once, so that a hung driver cannot hang us and no open handle
    blocks a driver update, a reset or a change of MIG. Where persistence mode is off, opening an idle GPU
    initialises it, which may take seconds a GPU: then it is done once an hour by the clock, unless a program
    holds the GPUs. The InfoROM is flash memory, and checked once a day.
    """
    on_bus = [gpu for gpu in on_the_bus(host) if gpu.is_for_nvidia]
    if not on_bus and not config.gpu.library and not host.exists("/proc/driver/nvidia/version"):
        return Gpus()
    if paused := gpu_pause.pause(host):
        if not earlier:
            raise CannotLookError(paused.reason, paused.hint)
        return msgspec.structs.replace(earlier, asked="", gaps=(paused,))
    now = dt.datetime.now(dt.timezone.utc)
    asked = f"{gpu_pause.boot(host)} {now:%Y-%m-%dT%H}"
    if earlier and earlier.asked == asked and not gpu_pause.in_use(host):
        return earlier
    checked = earlier is not None and earlier.inforom_checked == now.date()
    library = nvml.library(host, config.gpu.library)
    question: nvml.Question = "gpus" if checked else "gpus-and-inforom"
    survey = nvml.survey(host, library, question, deadline=config.gpu.deadline_seconds)
    seen = identified(survey.gpus, on_bus)
    if earlier and checked:
        seen = _with_inforom(seen, earlier.gpus)
    return Gpus(
        driver=survey.driver,
        confidential=survey.confidential,
        gpus=seen,
        inforom_checked=now.date(),
        asked=asked if any(gpu.persistence is False for gpu in seen) else "",
        gaps=(*unanswered(seen, _JUDGED, newer=_NEWER), *unseen(seen, on_bus)),
    )


def _with_inforom(gpus: Sequence[Gpu], earlier: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs with what their InfoROMs were found to be earlier; that of a lost GPU is lost with it."""
    valid = {gpu.key: gpu.inforom_valid for gpu in earlier}
    return tuple(
        msgspec.structs.replace(gpu, inforom_valid=valid.get(gpu.key, gpu.inforom_valid))
        if gpu.inforom_valid == nvml.NOT_ASKED
        else gpu
        for gpu in gpus
    )


Kind = TypeVar("Kind", bound=Card)


def identified(gpus: Sequence[Kind], on_bus: Sequence[PciGpu]) -> tuple[Kind, ...]:
    """The GPUs with the identity that the kernel knows where NVML refuses it, as it does for a lost GPU.

    The ones without address are those that are left on the bus, if they are as many.
    """
    named = {gpu.address for gpu in gpus if isinstance(gpu.address, str)}
    left = [gpu.address for gpu in on_bus if gpu.address not in named]
    nameless = [gpu.index for gpu in gpus if isinstance(gpu.address, Refused)]
    places = dict(zip(nameless, left, strict=True)) if len(nameless) == len(left) else {}
    uuids = {gpu.address: gpu.uuid for gpu in on_bus if gpu.uuid}
    found = []
    for gpu in gpus:
        address = places.get(gpu.index, gpu.address)
        uuid = uuids.get(address, gpu.uuid) if isinstance(gpu.uuid, Refused) and isinstance(address, str) else gpu.uuid
        found.append(msgspec.structs.replace(gpu, address=address, uuid=uuid))
    return tuple(found)


# The fields that judgements rest on. A card without the thing says NOT_SUPPORTED, which is an answer; a driver that
# is older than the question says one of the others, and the card is judged by what there is.
_JUDGED = {"uuid", "ecc_enabled", "uncorrected_volatile"}
_NEWER = {"retirement_pending", "remap_failed", "recovery_action", "mig_enabled", "compute_mode", "fabric", "nvlinks"}
_OLD_DRIVER = {"NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT", "ARGUMENT_VERSION_MISMATCH"}


def unanswered(
    gpus: Sequence[Card], judged: AbstractSet[str], *, newer: AbstractSet[str] = frozenset()
) -> Iterator[Unknown]:
    """What NVML refused of that on which judgements rest, a gap for each GPU."""
    for gpu in gpus:
        refused = {
            name: error
            for name, error in gpu.refusals().items()
            if (name in judged and error != "NOT_SUPPORTED") or (name in newer and error not in _OLD_DRIVER)
        }
        if refused:
            # Without the UUID it is not known which earlier findings were about this GPU: none may be resolved.
            yield Unknown(
                reason=f"{gpu.key}: NVML refused {', '.join(f'{name} ({error})' for name, error in refused.items())}",
                scope=gpu.uuid if isinstance(gpu.uuid, str) else "",
            )


def unseen(gpus: Sequence[Card], on_bus: Sequence[PciGpu]) -> Iterator[Unknown]:
    """The GPUs that the kernel lists and NVML does not show."""
    named = {gpu.address for gpu in gpus}
    for gpu in on_bus:
        if gpu.address not in named:
            yield Unknown(reason=f"{gpu.uuid or gpu.address}: NVML does not show this GPU", scope=gpu.uuid)
