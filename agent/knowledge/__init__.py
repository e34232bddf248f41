"""Dated tables with their source: what ages, apart from the code that uses it.

Each table is a TOML file here, read into a ``Table`` type by the one loader below. A check asks for a table as it
asks for a fact: by naming its type.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.resources
from typing import ClassVar, TypeVar

import msgspec

from agent.model import Table, Value

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
    """One Deep Learning VM image family, or all that contain ``match``, and its two dates."""

    match: str
    end_of_patch: dt.date
    end_of_availability: dt.date | None = None


class ImageLifecycle(Table, frozen=True, kw_only=True):
    """Deep Learning VM image families and when their patches and their availability end."""

    file: ClassVar[str] = "image_lifecycle"
    projects: tuple[str, ...]
    families: tuple[ImageFamily, ...]


class Service(Value, frozen=True, kw_only=True):
    """A service that people run on GPU machines, known by its usual port or its command."""

    name: str
    ports: tuple[int, ...]
    commands: tuple[str, ...] = ()
    risk: str


class Services(Table, frozen=True, kw_only=True):
    """Services that hand out code execution or data when reachable, and ports that any VM has."""

    file: ClassVar[str] = "services"
    expected: tuple[str, ...]
    services: tuple[Service, ...]
