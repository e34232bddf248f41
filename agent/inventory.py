"""Everything that is installed, from the facts, in the words of those who publish advisories. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from agent.facts.conda import CondaPackages
from agent.facts.containers import Containers
from agent.facts.kernels import superseded_kernel_rpms, superseded_kernels
from agent.facts.machine import ecosystem
from agent.facts.nvidia_software import NvidiaSoftware
from agent.facts.packages import Package, Packages
from agent.facts.python import Environment, PythonEnvironments
from agent.facts.python_distributions import Distribution, normalised
from agent.facts.rpm import RpmPackage, RpmPackages
from agent.facts.snaps import Snaps
from agent.model import Fact, Unknown, Value


class Component(Value, frozen=True, kw_only=True):
    """One installed thing.

    ``ecosystem`` is OSV's name for where it comes from: ``PyPI``, ``Debian:12``, ``Ubuntu:24.04:LTS``,
    ``Rocky Linux:9``, ``AlmaLinux:9``; or ``conda``, ``snap``, ``NVIDIA``, of which OSV has none. ``version`` is the
    thing's own; ``source`` and ``source_version`` are those of the source package where advisories go by it.
    ``place`` is where it is: an environment's path, ``deb``, ``rpm``, ``snap``, or a path in a container
    (``container:IMAGE:/path``, ``container:IMAGE:deb``). ``kind`` says what sort of place: system, venv, conda, deb, …
    ``owner`` is the key of the package that brought it (``deb:python3-yaml:all``, ``conda:pytorch``); ``built`` is
    ``release``, or ``editable``, ``vcs``, ``local`` where the version is only a hint; ``inside`` is the distribution
    that carries a copy of it. ``module`` is an rpm's stream (``nodejs:18``). ``left_out`` says why advisories are not
    asked about it, where they are not; it is part of the inventory all the same.
    """

    ecosystem: str
    name: str
    version: str
    place: str
    kind: str
    source: str = ""
    source_version: str = ""
    architecture: str = ""
    installer: str = ""
    interpreter: str = ""
    owner: str = ""
    built: str = "release"
    inside: str = ""
    path: str = ""
    module: str = ""
    left_out: str = ""

    @property
    def key(self) -> str:
        """Where it is as subjects are written: ``/opt/venv#torch``, ``deb:libssl3:amd64``, ``snap:lxd``."""
        if self.kind in {"deb", "rpm"}:
            return f"{self.place}:{self.name}:{self.architecture}"
        return f"{self.place}{':' if self.kind == 'snap' else '#'}{self.name}"


DISTRIBUTOR = "its distributor's advisories speak of the package that brought it"
THIRD_PARTY = "its maker is not the distributor, whose advisories alone are known"
OWNER_UNKNOWN = "nobody knows whether the distributor brought it"
NO_KERNEL = "holds no kernel that runs"
SUPERSEDED = "an older kernel, neither running nor the one that the next boot takes"

_DEBIAN_VENDORS = ("Debian", "Ubuntu")
_RPM_VENDORS = ("Rocky", "AlmaLinux")
_KERNEL = re.compile(r"linux-(image|modules)(-unsigned|-extra)?-\d.*")
_ABOUT_KERNELS = re.compile(
    r"linux-(?:.+-)?(?:headers|tools|kbuild|compiler|config|source|doc|libc-dev|perf|support)(?:-.+)?|bpftool"
    r"|kernel(?:-.+)?-(?:headers|devel|tools|doc|abi-stablelists|srpm-macros)(?:-.+)?|perf|python3-perf"
)
_KERNEL_SOURCES = re.compile(r"linux-(?:meta|signed|latest)(?:-.+)?")

_Superseded = Collection[tuple[str, str]]
"""Subject and version of the packages of kernels that neither run nor are the newest."""


def python_environments(
    found: PythonEnvironments, packages: Packages | Unknown, conda: CondaPackages | Unknown
) -> Iterator[Component]:
    """The distributions of every environment; with the packages that brought some of them."""
    debs = {each.subject: each for each in packages.packages} if isinstance(packages, Packages) else None
    by_prefix = conda.environments if isinstance(conda, CondaPackages) else ()
    names = {each.prefix: {package.name: package.version for package in each.packages} for each in by_prefix}
    for environment in found.environments:
        yield from _distributions(environment, debs, names.get(prefix(environment.path), {}))


def _distributions(
    environment: Environment, debs: dict[str, Package] | None, conda: dict[str, str], *, within: str = ""
) -> Iterator[Component]:
    """``within`` is the container that the environment is in."""
    for each in environment.distributions:
        owner = each.owner or _conda_owner(each, conda)
        yield Component(
            ecosystem="PyPI",
            name=normalised(each.name),
            version=each.version,
            place=f"{within}:{environment.path}" if within else environment.path,
            kind=environment.kind,
            installer=each.installer,
            interpreter=environment.interpreter,
            owner=owner,
            built=each.built,
            inside=each.inside,
            path=f"{environment.path}/{each.location}",
            left_out=_distribution_left_out(owner, debs),
        )


def _distribution_left_out(owner: str, debs: dict[str, Package] | None) -> str:
    if debs is None:
        return OWNER_UNKNOWN if owner.startswith("deb:") else ""
    return DISTRIBUTOR if owner in debs and debs[owner].vendor.startswith(_DEBIAN_VENDORS) else ""


def prefix(path: str) -> str:
    """What an environment is installed under: ``/opt/conda`` for ``/opt/conda/lib/python3.11/site-packages``."""
    return path.rsplit("/", 3)[0]


def _conda_owner(distribution: Distribution, conda: dict[str, str]) -> str:
    """The conda package that brought a distribution; nothing where pip has put another in its place.

    Where INSTALLER says nothing, conda's own record of that name and version does. Most names are alike; for the
    others: https://github.com/prefix-dev/parselmouth
    """
    name = normalised(distribution.name)
    alike = ("pytorch" if name == "torch" else name, name.replace("-", "_"), f"py-{name}", f"python-{name}")
    known = next((each for each in alike if each in conda), "")
    if distribution.installer == "conda":
        return f"conda:{known}"
    return f"conda:{known}" if known and not distribution.installer and conda[known] == distribution.version else ""


def packages(found: Packages, release: str, kernel: str) -> Iterator[Component]:
    """The Debian packages that are there, on a system of that release (``debian 12``) and that kernel, if known."""
    old = superseded_kernels(found.packages, kernel) if kernel else ()
    return _debs(found.packages, release, "deb", {(each.subject, each.version) for each in old})


def _debs(found: Iterable[Package], release: str, place: str, superseded: _Superseded = ()) -> Iterator[Component]:
    name = _ecosystem(release, _DEBIAN_VENDORS)
    for each in found:
        if each.present:
            source, source_version = _source(each)
            yield Component(
                ecosystem=name,
                name=each.name,
                version=each.version,
                place=place,
                kind="deb",
                source=source,
                source_version=source_version,
                architecture=each.architecture,
                left_out=_deb_left_out(each, superseded),
            )


def _ecosystem(release: str, families: tuple[str, ...]) -> str:
    """Whose advisories are about packages of a format there; debs on Rocky Linux are nobody's."""
    name = ecosystem(release)
    return name if name.startswith(families) else ""


def _source(package: Package) -> tuple[str, str]:
    """The source package that advisories speak of: of a signed kernel that is the kernel that was signed."""
    if package.source.startswith("linux-signed") and _KERNEL.fullmatch(package.name):
        flavour = package.source.removeprefix("linux-signed")
        is_architecture = flavour in {"-amd64", "-arm64", "-i386"}  # Debian's; Ubuntu names the flavour: -gcp
        return f"linux{'' if is_architecture else flavour}", package.version
    return package.source, package.source_version


def _deb_left_out(package: Package, superseded: _Superseded) -> str:
    if package.vendor and not package.vendor.startswith(_DEBIAN_VENDORS):
        return THIRD_PARTY
    is_kernel = bool(_KERNEL.fullmatch(package.name))
    if _ABOUT_KERNELS.fullmatch(package.name) or (_KERNEL_SOURCES.fullmatch(package.source) and not is_kernel):
        return NO_KERNEL
    return SUPERSEDED if (package.subject, package.version) in superseded else ""


def rpm_packages(found: RpmPackages, release: str, kernel: str) -> Iterator[Component]:
    """The packages of rpm, on a system of that release (``rocky 9.4``) under that kernel."""
    old = superseded_kernel_rpms(found.packages, kernel) if kernel else ()
    return _rpms(found.packages, release, "rpm", {(each.subject, each.evr) for each in old})


def _rpms(found: Iterable[RpmPackage], release: str, place: str, superseded: _Superseded = ()) -> Iterator[Component]:
    name = _ecosystem(release, _RPM_VENDORS)
    for each in found:
        yield Component(
            ecosystem=name,
            name=each.name,
            version=each.evr,
            place=place,
            kind="rpm",
            source=each.source,
            source_version=each.evr,
            architecture=each.architecture,
            module=each.module,
            left_out=_rpm_left_out(each, superseded),
        )


def _rpm_left_out(package: RpmPackage, superseded: _Superseded) -> str:
    if package.vendor and not package.vendor.startswith(_RPM_VENDORS):
        return THIRD_PARTY
    if _ABOUT_KERNELS.fullmatch(package.name):
        return NO_KERNEL
    return SUPERSEDED if (package.subject, package.evr) in superseded else ""


def conda_packages(found: CondaPackages) -> Iterator[Component]:
    """What conda installed, its Python packages too, which are distributions besides."""
    for environment in found.environments:
        for each in environment.packages:
            yield Component(
                ecosystem="conda",
                name=each.name,
                version=each.version,
                place=environment.prefix,
                kind="conda",
                installer="conda",
            )


def snaps(found: Snaps) -> Iterator[Component]:
    """The snaps."""
    for each in found.snaps:
        yield Component(ecosystem="snap", name=each.name, version=each.version, place="snap", kind="snap")


def nvidia_software(found: NvidiaSoftware) -> Iterator[Component]:
    """What there is of NVIDIA's, whoever brought it."""
    for each in found.components:
        yield Component(
            ecosystem="NVIDIA",
            name=each.name,
            version=each.version,
            place=each.path,
            kind="nvidia",
            owner=each.owner,
            path=each.path,
        )


def containers(found: Containers) -> Iterator[Component]:
    """What is installed in the running containers."""
    for each in found.containers:
        debs = {package.subject: package for package in each.debs}
        yield from _debs(each.debs, each.release, f"{each.place}:deb")
        yield from _rpms(each.rpms, each.release, f"{each.place}:rpm")
        for environment in each.environments:
            yield from _distributions(environment, debs, {}, within=each.place)


def everything(found: Iterable[Fact | Unknown], release: str, kernel: str) -> Iterator[Component]:
    """All components that these facts tell of; what is Unknown gives none, which whoever asks has to say."""
    seen: dict[type, Any] = {type(each): each for each in found}
    nothing = Unknown(reason="it was not looked at")
    if python := seen.get(PythonEnvironments):
        yield from python_environments(python, seen.get(Packages, nothing), seen.get(CondaPackages, nothing))
    if debs := seen.get(Packages):
        yield from packages(debs, release, kernel)
    if rpms := seen.get(RpmPackages):
        yield from rpm_packages(rpms, release, kernel)
    for kind, components in _OTHERS.items():
        if fact := seen.get(kind):
            yield from components(fact)


_OTHERS: dict[type, Callable[[Any], Iterator[Component]]] = {
    CondaPackages: conda_packages,
    Snaps: snaps,
    Containers: containers,
    NvidiaSoftware: nvidia_software,
}

INSTALLED = {PythonEnvironments, Packages, RpmPackages, *_OTHERS}
"""The facts that tell of installed things."""
