"""Dated tables with their source: what ages, apart from the code that uses it.

Each table is a TOML file here, read into a ``Table`` type by the one loader below. A check asks for a table as it
asks for a fact: by naming its type.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.resources
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

import msgspec

from agent.model import Severity, Table, Value

T = TypeVar("T", bound=Table)


@functools.cache
def load(kind: type[T]) -> T:
    """The table of this type. A table that does not decode is a defect of the package and raises."""
    name = f"{kind.file}.toml"  # type: ignore[attr-defined]  # every table below names its file
    text = importlib.resources.files(__name__).joinpath(name).read_bytes()
    return msgspec.toml.decode(text, type=kind)


class Support(Value, frozen=True, kw_only=True):
    """When support of something ends."""

    name: str
    end: dt.date
    note: str = ""


class OperatingSystems(Table, frozen=True, kw_only=True):
    """End of free security support per release, keyed as in os-release: ``ID VERSION_ID``."""

    file: ClassVar[str] = "operating_systems"
    releases: tuple[Support, ...]


class PythonReleases(Table, frozen=True, kw_only=True):
    """End of support per Python release, as ``3.10``."""

    file: ClassVar[str] = "python_releases"
    releases: tuple[Support, ...]


class DriverBranch(Value, frozen=True, kw_only=True):
    """One branch, as ``580``: its end of life and the version that has all fixes of the newest bulletin."""

    name: str
    end: dt.date | None = None
    fixed: str = ""


class Bulletin(Value, frozen=True, kw_only=True):
    """A security bulletin."""

    id: str
    published: dt.date
    url: str


class DriverBranches(Table, frozen=True, kw_only=True):
    """NVIDIA driver branches for Linux and the newest security bulletin about them."""

    file: ClassVar[str] = "driver_branches"
    bulletin: Bulletin
    branches: tuple[DriverBranch, ...]


class ImageFamily(Value, frozen=True, kw_only=True):
    """The image families whose names have all these parts between hyphens, and their two dates."""

    parts: tuple[str, ...]
    end_of_patch: dt.date
    end_of_availability: dt.date | None = None


class RetiredLine(Value, frozen=True, kw_only=True):
    """A whole line of image families, those whose names have any of these parts, that is no longer made."""

    name: str
    parts: tuple[str, ...]


class ImageLifecycle(Table, frozen=True, kw_only=True):
    """Deep Learning VM image families and when their patches and their availability end, and where images come from."""

    file: ClassVar[str] = "image_lifecycle"
    projects: tuple[str, ...]
    workbench_projects: tuple[str, ...]
    accelerator_projects: tuple[str, ...]
    page_date: dt.date
    current: tuple[str, ...]
    families: tuple[ImageFamily, ...]
    retired: tuple[RetiredLine, ...]


class DeepLearningContainers(Table, frozen=True, kw_only=True):
    """How the names of Google's Deep Learning Containers begin."""

    file: ClassVar[str] = "deep_learning_containers"
    prefixes: tuple[str, ...]


class ExpectedPort(Value, frozen=True, kw_only=True):
    """A port that any good machine may show, as ``tcp/22``, and what holds it."""

    port: str
    holder: str


class Service(Value, frozen=True, kw_only=True):
    """A service that people run on GPU machines.

    It is known by a process or program called as one of ``commands``, in which ``*`` stands for any text and may
    match the program's whole path, or, less surely, by one of its usual ``ports`` if a process of its ``runtime``
    listens there. ``risk`` is how bad it is to be reachable with the authentication that it has out of the box.
    ``many_ports`` says that it opens more ports than can be named.
    """

    id: str
    name: str
    ports: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    runtime: Literal["", "python", "node", "java"] = ""
    many_ports: bool = False
    risk: Severity
    why: str
    fix: str
    source: str


class Services(Table, frozen=True, kw_only=True):
    """Services that hand out code execution or data when reachable, and ports that any VM has.

    ``runtimes`` names the processes that run programs of a kind; ``proxies`` those that listen for containers.
    """

    file: ClassVar[str] = "services"
    expected: tuple[ExpectedPort, ...]
    runtimes: Mapping[str, tuple[str, ...]]
    proxies: tuple[str, ...]
    services: tuple[Service, ...]


class ExposedPackage(Value, frozen=True, kw_only=True):
    """Binary packages whose name matches ``match`` (a shell pattern), and what a flaw in them opens."""

    match: str
    reason: str


class ExposedPackages(Table, frozen=True, kw_only=True):
    """Debian packages that guard a border of the machine, so that their security updates are urgent."""

    file: ClassVar[str] = "exposed_packages"
    packages: tuple[ExposedPackage, ...]


class Vendor(Value, frozen=True, kw_only=True):
    """Who makes packages, by the domains or whole addresses of maintainers."""

    name: str
    domains: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class Rebuild(Value, frozen=True, kw_only=True):
    """Who builds others' packages anew: a regular expression that is found in the versions."""

    name: str
    version: str


class Vendors(Table, frozen=True, kw_only=True):
    """Who makes Debian packages; the file says what the fields mean and how they are made."""

    file: ClassVar[str] = "vendors"
    vendors: tuple[Vendor, ...]
    rebuilds: tuple[Rebuild, ...]
    debian_maintainers: str


class ModelPlace(Value, frozen=True, kw_only=True):
    """A place where models are usually kept; the file says what the fields mean."""

    path: str
    why: str
    each: str = ""
    holding: bool = False


class ModelPlaces(Table, frozen=True, kw_only=True):
    """Well-known places of models, and the suffixes by which a model file is known elsewhere."""

    file: ClassVar[str] = "model_places"
    suffixes: tuple[str, ...]
    places: tuple[ModelPlace, ...]


class Framework(Value, frozen=True, kw_only=True):
    """What GPU work is done with; the file says what the fields mean."""

    id: str
    name: str
    kind: Literal["framework", "serving", "notebook", "simulation", "security", "graphics", "tool"]
    files: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    source: str


class Frameworks(Table, frozen=True, kw_only=True):
    """How frameworks are known by the files that a process has mapped, and NVIDIA's libraries by their names."""

    file: ClassVar[str] = "frameworks"
    libraries: Mapping[str, tuple[str, ...]]
    frameworks: tuple[Framework, ...]


class Mark(Value, frozen=True, kw_only=True):
    """What a program that is started for misuse is called or told; the file says what the fields mean."""

    id: str
    programs: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    source: str


class Misuse(Table, frozen=True, kw_only=True):
    """How programs that take GPU time for others are known."""

    file: ClassVar[str] = "misuse"
    marks: tuple[Mark, ...]
