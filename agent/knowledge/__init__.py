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
    """One branch, as ``580``, and its end of life; a branch that nothing more is known of is still known to exist."""

    name: str
    end: dt.date | None = None


class DriverBranches(Table, frozen=True, kw_only=True):
    """NVIDIA driver branches for Linux."""

    file: ClassVar[str] = "driver_branches"
    branches: tuple[DriverBranch, ...]


class NvidiaFlaw(Value, frozen=True, kw_only=True):
    """A flaw as a bulletin tells it; the file says what the fields mean."""

    id: str
    score: float
    branches: tuple[str, ...] = ()
    introduced: str = ""
    fixed: str = ""
    only_if: tuple[Literal["not-cdi", "cdi-before-1.17.5", "not-crun", "container-ldconfig"], ...] = ()


class NvidiaBulletin(Value, frozen=True, kw_only=True):
    """What one security bulletin says of one product; of the driver also the fixed version in each branch."""

    product: str
    id: str
    published: dt.date
    fixed: tuple[str, ...] = ()
    flaws: tuple[NvidiaFlaw, ...]

    @property
    def url(self) -> str:
        """Where NVIDIA publishes it."""
        return f"https://nvidia.custhelp.com/app/answers/detail/a_id/{self.id}"

    def __str__(self) -> str:
        """The bulletin as people speak of it."""
        return f"bulletin {self.id} of {self.published:%Y-%m-%d}"


class NvidiaBulletins(Table, frozen=True, kw_only=True):
    """NVIDIA's security bulletins, oldest first for each product."""

    file: ClassVar[str] = "nvidia_bulletins"
    bulletins: tuple[NvidiaBulletin, ...]

    def about(self, product: str) -> tuple[NvidiaBulletin, ...]:
        """The bulletins about one product."""
        return tuple(each for each in self.bulletins if each.product == product)


class OlderXid(Value, frozen=True, kw_only=True):
    """What differs for GPUs before Ampere; empty where nothing does."""

    meaning: str
    fix: str = ""


class XidRule(Value, frozen=True, kw_only=True):
    """What errors with these codes mean, and who has to act.

    ``kind`` is ``application`` (whoever runs the program), ``warning`` and ``memory`` (nobody yet), ``reset`` (the GPU
    needs one), ``host`` (the VM must leave its hardware), ``link`` (a reset where the error is fatal), ``security``, or
    ``test``. ``threat`` says why one of another kind is a matter of security besides.
    """

    codes: tuple[int, ...]
    meaning: str
    kind: Literal["application", "warning", "memory", "reset", "host", "link", "security", "test"]
    severity: Severity
    fix: str = ""
    threat: str = ""
    before_ampere: OlderXid | None = None


class RecoveryAction(Value, frozen=True, kw_only=True):
    """What the driver asks for with Xid 154, by its number; 0 is nothing."""

    number: int
    meaning: str
    need: Literal["reset", "host"]
    fix: str = ""


class LinkReason(Value, frozen=True, kw_only=True):
    """Why an NVLink 5 link went down, by the numbers in its error."""

    numbers: tuple[int, ...]
    meaning: str


class XidCodes(Table, frozen=True, kw_only=True):
    """Error codes of NVIDIA GPUs, and the words by which the names of cards before Ampere are known."""

    file: ClassVar[str] = "xid"
    cards_before_ampere: tuple[str, ...]
    rules: tuple[XidRule, ...]
    actions: tuple[RecoveryAction, ...]
    link_reasons: tuple[LinkReason, ...]


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


class RepairedRange(Value, frozen=True, kw_only=True):
    """Affected versions, as in an advisory: empty ends are open."""

    introduced: str = ""
    fixed: str = ""
    last_affected: str = ""


class RepairedBound(Value, frozen=True, kw_only=True):
    """What to read for every version of PyPI that ``match``, a regular expression, finds something wrong in."""

    match: str
    becomes: str
    why: str
    source: str


class RepairedRecord(Value, frozen=True, kw_only=True):
    """What to read instead of the versions that a record names for a package; no range means none of its versions."""

    id: str
    package: str
    ranges: tuple[RepairedRange, ...]
    why: str
    source: str


class AdvisoryRepairs(Table, frozen=True, kw_only=True):
    """Published advisories whose versions cannot be understood as they are, and what they mean."""

    file: ClassVar[str] = "advisory_repairs"
    bounds: tuple[RepairedBound, ...]
    records: tuple[RepairedRecord, ...]


class AdvisorySource(Value, frozen=True, kw_only=True):
    """Who publishes the records whose ids begin with one of ``prefixes``, and what may be done with them."""

    name: str
    prefixes: tuple[str, ...]
    url: str
    licence: str
    attribution: str


class KnownFlaw(Value, frozen=True, kw_only=True):
    """A flaw that any good database has: ``id`` in ``package``."""

    ecosystem: str
    package: str
    id: str


class AdvisorySources(Table, frozen=True, kw_only=True):
    """Where the advisory database comes from, which file of it is about what, and what must be in it."""

    file: ClassVar[str] = "advisory_sources"
    shards: Mapping[str, tuple[str, ...]]
    publishers: tuple[AdvisorySource, ...]
    known: tuple[KnownFlaw, ...]


class AdvisoryKeys(Table, frozen=True, kw_only=True):
    """Ed25519 public keys, in base64, whose signature on an advisory database is believed."""

    file: ClassVar[str] = "advisory_keys"
    keys: tuple[str, ...]


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
