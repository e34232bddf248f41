"""NVIDIA software on the disk: driver files, CUDA toolkits, libraries, the container toolkit and services.

Nothing of it is started or loaded: versions are those in the names of files, in dpkg's database and in the file that
a CUDA toolkit carries. So this needs no GPU, and no driver that works.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import posixpath
import re
from collections.abc import Iterable, Iterator

import msgspec

from agent.config import Config
from agent.facts import nvidia_container_toolkit, nvidia_wheels
from agent.facts.debian_control import STATUS
from agent.facts.nvidia_container_toolkit import CONFIGURATION, ToolkitConfiguration
from agent.facts.packages import Package, parse_status
from agent.host import MEBIBYTE, Host
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

_LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",  # Debian's own packages, which alternatives point to
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
)
_LIBRARIES = {
    "nvidia-ml": "driver",
    "cuda": "driver",
    "cudnn": "cudnn",
    "nccl": "nccl",
    "nvinfer": "tensorrt",
    "nvidia-container": "container-toolkit",
    "dcgm": "dcgm",
}
"""What the library of this name belongs to, whose version is written behind it."""
_LIBRARY = re.compile(rf"lib({'|'.join(_LIBRARIES)})\.so\.(\d{{1,5}}(?:\.\d{{1,5}}){{1,3}})", re.ASCII)
_PACKAGES = (
    (r"nvidia-container-toolkit(?:-base)?", "container-toolkit", "/usr/bin/nvidia-ctk"),
    (r"(?:nvidia|cuda)-fabric-?manager(?:-\d+)?", "fabric-manager", "/usr/bin/nv-fabricmanager"),
    (r"datacenter-gpu-manager(?:-\d+-core)?", "dcgm", "/usr/bin/nv-hostengine"),
    (r"datacenter-gpu-manager-exporter", "dcgm-exporter", "/usr/bin/dcgm-exporter"),
)
"""Packages whose version is that of what they bring, and a program of it."""
_PROGRAMS = {
    "persistenced": "nvidia-persistenced",
    "mps": "nvidia-cuda-mps-control",
    "fabric-manager": "nv-fabricmanager",
    "container-toolkit": "nvidia-ctk",
}
"""Programs that come with the driver, or whose files tell no version."""
_STANZA = re.compile(rb"Package: (?:lib)?(?:nvidia|cuda|cudnn|nccl|nvinfer|datacenter-gpu-manager)")
_UPSTREAM = re.compile(r"(?:\d+:)?(\d[^-]*)(?:-.*)?")
_TOOLKIT_DIRECTORY = re.compile(r"cuda(?:-\d+(?:\.\d+)?)?", re.ASCII)
_SOURCES = re.compile(r"nvidia-(\d{1,5}(?:\.\d{1,5}){1,2})", re.ASCII)
_VERSION_LINE = re.compile(r"CUDA Version (\d{1,5}(?:\.\d{1,8}){1,3})", re.ASCII)
_NUMBERS = re.compile(r"\d{1,5}(?:\.\d{1,8}){1,3}", re.ASCII)
_MANY = 1000
"""Components; real machines have some dozen."""


class NvidiaComponent(Value, frozen=True, kw_only=True):
    """One thing of NVIDIA's: ``name`` as in ``driver``, ``cuda-toolkit``, ``cudnn``, ``nccl``, ``container-toolkit``.

    ``path`` is where it lies; ``owner`` the key of the package that put it there (``deb:…``), or the environment's
    distribution (``/opt/conda/lib/python3.11/site-packages#nvidia-cudnn-cu12``), empty where nothing tells.
    ``version`` is empty where no file tells it.
    """

    name: str
    version: str
    path: str
    owner: str = ""


class NvidiaSoftware(Fact, frozen=True, kw_only=True):
    """What there is of NVIDIA's, by name and path.

    ``toolkit`` is how the container toolkit is configured; None where there is no such toolkit, or where that cannot
    be seen, of which ``toolkit_unseen`` is the reason.
    """

    components: tuple[NvidiaComponent, ...] = ()
    toolkit: ToolkitConfiguration | None = None
    toolkit_unseen: str = ""


def _glance(host: Host, _config: Config) -> tuple[object, ...]:
    """Whether a package, a driver, a toolkit in /usr/local or the configuration is another one."""
    loaded = ""
    with contextlib.suppress(CannotLookError):
        loaded = host.line("/sys/module/nvidia/version")
    places = (STATUS, "/usr/local", *_LIBRARY_DIRECTORIES, CONFIGURATION)
    return (loaded, *map(host.signature, places))


@probe(every=dt.timedelta(hours=6), glance=_glance)
def nvidia_software(host: Host, _config: Config) -> NvidiaSoftware:
    """NVIDIA's software: driver, CUDA, cuDNN, NCCL, TensorRT, container toolkit and services."""
    gaps: list[Unknown] = []
    packages = _packages(host, gaps)
    found = [*_loaded(host), *_of_packages(packages), *_libraries(host, _LIBRARY_DIRECTORIES, gaps)]
    found += [*_sources(host, gaps), *_toolkits(host, gaps), *_copies(host, gaps)]
    found = list(_without_twins(found))
    told = {each.name for each in found}
    found += [each for each in _programs(host, gaps) if each.name not in told]
    if len(found) > _MANY:
        gaps.append(Unknown(reason=f"there are {len(found)} things of NVIDIA's; {_MANY} of them were kept"))
    components = tuple(
        sorted(_owned(host, found[:_MANY], packages), key=lambda each: (each.name, each.path, each.version))
    )
    has_toolkit = any(each.name == "container-toolkit" for each in components)
    settings = nvidia_container_toolkit.configuration(host) if has_toolkit else None
    if isinstance(settings, Unknown):
        return NvidiaSoftware(components=components, toolkit_unseen=settings.reason, gaps=tuple(gaps))
    return NvidiaSoftware(components=components, toolkit=settings, gaps=tuple(gaps))


def _packages(host: Host, gaps: list[Unknown]) -> tuple[Package, ...]:
    """The Debian packages that bring NVIDIA's software. Only their stanzas are taken apart."""
    try:
        stanzas = host.read(STATUS, limit=64 * MEBIBYTE).split(b"\n\n")
    except AbsentError:
        return ()
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint))
        return ()
    seen = parse_status(b"".join(each + b"\n\n" for each in stanzas if _STANZA.match(each.lstrip(b"\n"))))
    gaps += seen.gaps
    return tuple(package for package in seen.packages if package.present)


def _loaded(host: Host) -> Iterator[NvidiaComponent]:
    """The driver that the kernel runs."""
    path = "/sys/module/nvidia/version"
    with contextlib.suppress(CannotLookError):  # whether one is loaded that tells no version is judged elsewhere
        version = host.line(path)
        if _NUMBERS.fullmatch(version):
            yield NvidiaComponent(name="driver", version=version, path=path)


def _of_packages(packages: Iterable[Package]) -> Iterator[NvidiaComponent]:
    for package in packages:
        for pattern, name, program in _PACKAGES:
            version = _UPSTREAM.fullmatch(package.version)
            if version and re.fullmatch(pattern, package.name):
                yield NvidiaComponent(name=name, version=version[1], path=program, owner=package.subject)


def _libraries(host: Host, directories: Iterable[str], gaps: list[Unknown]) -> Iterator[NvidiaComponent]:
    """Libraries by the version in their file's name; the links to them say no more."""
    for directory in directories:
        for name in _names(host, directory, gaps, kinds=("file",)):
            if match := _LIBRARY.fullmatch(name):
                yield NvidiaComponent(name=_LIBRARIES[match[1]], version=match[2], path=f"{directory}/{name}")


def _names(host: Host, directory: str, gaps: list[Unknown], *, kinds: tuple[str, ...]) -> Iterator[str]:
    # A system without merged /usr has links in their place, and the same files would be there twice.
    yield from (entry.name for entry in nvidia_wheels.listed(host, directory, gaps) if entry.kind in kinds)


def _sources(host: Host, gaps: list[Unknown]) -> Iterator[NvidiaComponent]:
    """Sources of the kernel module, from which DKMS builds it for each kernel."""
    for name in _names(host, "/usr/src", gaps, kinds=("directory",)):
        if match := _SOURCES.fullmatch(name):
            yield NvidiaComponent(name="driver-source", version=match[1], path=f"/usr/src/{name}")


def _toolkits(host: Host, gaps: list[Unknown]) -> Iterator[NvidiaComponent]:
    """CUDA toolkits, with the libraries that were unpacked into them."""
    names = _names(host, "/usr/local", gaps, kinds=("directory",))
    for root in (*(f"/usr/local/{name}" for name in names if _TOOLKIT_DIRECTORY.fullmatch(name)), "/usr/lib/cuda"):
        try:
            found = _toolkit(host, root)
        except CannotLookError as error:
            gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=root))
            continue
        if found:
            yield found
            targets = (f"{root}/targets/{kind}/lib" for kind in ("x86_64-linux", "sbsa-linux"))
            yield from _libraries(host, (f"{root}/lib64", *targets), gaps)


class _Named(msgspec.Struct):
    version: str = ""


class _VersionFile(msgspec.Struct):
    cuda: _Named


def _toolkit(host: Host, root: str) -> NvidiaComponent | None:
    """The toolkit in this directory; None where there is none."""
    for name in ("version.json", "version.txt"):
        path = f"{root}/{name}"
        try:
            version = parse_version_file(host.read(path, limit=65536))
        except AbsentError:
            continue
        if not version:
            raise CannotLookError(f"{path} tells no version of CUDA")
        return NvidiaComponent(name="cuda-toolkit", version=version, path=root)
    return None


def parse_version_file(content: bytes) -> str:
    """The version of a CUDA toolkit by its version.json, or by the version.txt of older ones; empty if neither."""
    try:
        version = msgspec.json.decode(content, type=_VersionFile).cuda.version
    except (msgspec.DecodeError, ValueError, RecursionError):
        match = _VERSION_LINE.match(content.decode("utf-8", "replace").strip())
        version = match[1] if match else ""
    return version if _NUMBERS.fullmatch(version) else ""


def _copies(host: Host, gaps: list[Unknown]) -> Iterator[NvidiaComponent]:
    for each in nvidia_wheels.find(host, gaps):
        yield NvidiaComponent(name=each.name, version=each.version, path=each.path, owner=each.owner)


def _programs(host: Host, gaps: list[Unknown]) -> Iterator[NvidiaComponent]:
    there = {*_names(host, "/usr/bin", gaps, kinds=("file", "link"))}
    for name, program in _PROGRAMS.items():
        if program in there:
            yield NvidiaComponent(name=name, version="", path=f"/usr/bin/{program}")


def _without_twins(found: Iterable[NvidiaComponent]) -> Iterator[NvidiaComponent]:
    """Each once: neither a second package nor a library of what a package brought says anything new."""
    packaged: dict[str, set[str]] = {}
    for each in found:
        versions = packaged.get(each.name, set())
        if each.version in versions or (versions and not each.owner):
            continue
        if each.owner.startswith("deb:"):
            packaged.setdefault(each.name, set()).add(each.version)
        yield each


def _owned(host: Host, found: Iterable[NvidiaComponent], packages: Iterable[Package]) -> Iterator[NvidiaComponent]:
    """The components with the Debian package that brought their file, as far as dpkg's own lists tell."""
    paths = {each.path: "" for each in found if not each.owner and posixpath.basename(each.path).startswith("lib")}
    for package in packages if paths else ():
        for name in (package.name, f"{package.name}:{package.architecture}"):
            with contextlib.suppress(CannotLookError):
                listed = {
                    *host.read(f"/var/lib/dpkg/info/{name}.list", limit=4 * MEBIBYTE)
                    .decode("utf-8", "replace")
                    .splitlines()
                }
                paths.update((path, package.subject) for path in paths if path in listed)
    for each in found:
        yield msgspec.structs.replace(each, owner=paths.get(each.path) or each.owner)
