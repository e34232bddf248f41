"""Known flaws in what is installed, worst first by what is exploited, in use and to be fixed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from agent.advisories.advisory import Advisories, Advisory
from agent.advisories.findings import REFRESH, UseOf, few, finding, findings, unjudged
from agent.advisories.matching import Match, match
from agent.advisories.suppression import LONGEST, Suppressions, is_expired, is_too_long, key
from agent.config import Config
from agent.facts.conda import CondaPackages
from agent.facts.containers import Containers
from agent.facts.machine import Machine
from agent.facts.packages import Packages
from agent.facts.python import PythonEnvironments
from agent.facts.rpm import RpmPackages
from agent.facts.use import SoftwareUse, Use
from agent.facts.vex import Vex
from agent.inventory import OWNER_UNKNOWN, Component, rpm_packages
from agent.inventory import containers as contained
from agent.inventory import packages as debian_packages
from agent.inventory import python_environments as python_components
from agent.model import Duty, Finding, Instance, Moment, Scalar, Severity, Unknown, check

_STALE, _DEGRADED = dt.timedelta(days=3), dt.timedelta(days=7)
"""Flaws of packages are published every day; most scanners fetch theirs daily and warn within days."""
_INCIDENT = (
    "Treat it as an incident: cut the machine off, keep its disk, change every secret that it had, then build it anew."
)


@check(severity=Severity.MEDIUM, duty=Duty.APPLICATIONS, fix="Install a version without the flaw.")
def python_package_vulnerable(  # noqa: PLR0913 -- the parameters of a check are what it takes
    *,
    python_environments: PythonEnvironments,
    packages: Packages | Unknown,
    conda: CondaPackages | Unknown,
    use: SoftwareUse | Unknown,
    vex: Vex | Unknown,
    advisories: Advisories,
    config: Config,
    moment: Moment,
) -> Iterator[Finding | Unknown]:
    """An installed Python package has a known flaw.

    Every environment is compared with the advisory database as PEP 440 orders versions. How urgent it is follows from
    known exploitation, the severity that the advisory gives, whether a fix exists, and whether a process uses the
    package; docs/vulnerabilities.md has the table. Packages that the distributor brought are judged as its own.
    """
    components = tuple(python_components(python_environments, packages, conda))
    matched = match(components, advisories)
    yield from unjudged(matched, "pypi", advisories)
    for place in sorted({each.place for each in components if each.left_out == OWNER_UNKNOWN}):
        yield Unknown(reason=f"{OWNER_UNKNOWN}: the Debian packages were not looked at", scope=place)
    yield from findings(matched, _use_of(use), Suppressions(config.advisories.suppress, vex, moment.now))
    others = sum(len(each.packages) for each in conda.environments) if isinstance(conda, CondaPackages) else 0
    if others:
        reason = f"{others} conda packages are compared with nothing: no advisories are published for conda"
        yield Unknown(reason=reason, hint="The Python packages among them are compared as such.", scope="conda:")


def _use_of(use: SoftwareUse | Unknown) -> UseOf:
    return lambda each: use.of(each.place, each.name) if isinstance(use, SoftwareUse) else None


@check(severity=Severity.MEDIUM, duty=Duty.LATEST_IMAGES, fix="sudo apt-get update && sudo apt-get upgrade")
def debian_package_vulnerable(
    packages: Packages, machine: Machine, vex: Vex | Unknown, advisories: Advisories, config: Config, moment: Moment
) -> Iterator[Finding | Unknown]:
    """An installed Debian or Ubuntu package has a known flaw.

    The distributor's own advisories are compared with the source package and its version, as dpkg orders versions, so
    that what was fixed by a backport counts as fixed. Of kernels only the running one and the newest of each kind
    count. Packages of other makers are not compared: the distributor's advisories do not speak of them.
    """
    matched = match(debian_packages(packages, machine.release, machine.kernel), advisories)
    yield from unjudged(matched, "deb", advisories)
    yield from findings(matched, _kernel_use(machine), Suppressions(config.advisories.suppress, vex, moment.now))


@check(severity=Severity.MEDIUM, duty=Duty.LATEST_IMAGES, fix="sudo dnf upgrade --security")
def rpm_package_vulnerable(
    packages: RpmPackages, machine: Machine, vex: Vex | Unknown, advisories: Advisories, config: Config, moment: Moment
) -> Iterator[Finding | Unknown]:
    """An installed RPM package has a known flaw.

    The distributor's own advisories are compared with the package and its source, as rpm orders versions, stream by
    stream where a package is of a module. Packages of other makers are not compared.
    """
    matched = match(rpm_packages(packages, machine.release, machine.kernel), advisories)
    yield from unjudged(matched, "rpm", advisories)
    yield from findings(matched, _kernel_use(machine), Suppressions(config.advisories.suppress, vex, moment.now))


def _kernel_use(machine: Machine) -> UseOf:
    """Of system packages only the kernel's use is known: it runs."""

    def use(component: Component) -> Use | None:
        release = f"{component.version.rpartition(':')[2]}.{component.architecture}"  # of an rpm
        runs = component.name.endswith(f"-{machine.kernel}") or (
            component.name.startswith("kernel") and release == machine.kernel
        )
        return Use.LOADED if runs else None

    return use


@check(severity=Severity.MEDIUM, duty=Duty.APPLICATIONS, fix="Build the image anew and start the container from it.")
def container_package_vulnerable(
    containers: Containers, vex: Vex | Unknown, advisories: Advisories, config: Config, moment: Moment
) -> Iterator[Finding | Unknown]:
    """A package in a running container has a known flaw.

    What is installed in a container is compared as on the machine itself, with the advisories of the container's own
    distribution. A running container cannot be mended for good: the image is built anew, and it is started from that.
    """
    matched = match(contained(containers), advisories)
    yield from unjudged(matched, "", advisories)
    for container in containers.containers:
        yield from container.gaps
    suppressions = Suppressions(config.advisories.suppress, vex, moment.now)
    yield from findings(matched, lambda _: Use.ENVIRONMENT, suppressions)


@check(severity=Severity.CRITICAL, duty=Duty.MONITORING, fix=_INCIDENT)
def package_malicious(  # noqa: PLR0913 -- the parameters of a check are what it takes
    *,
    python_environments: PythonEnvironments,
    packages: Packages | Unknown,
    conda: CondaPackages | Unknown,
    containers: Containers | Unknown,
    vex: Vex | Unknown,
    advisories: Advisories,
    config: Config,
    moment: Moment,
) -> Iterator[Finding | Unknown]:
    """A package is installed that was published to do harm.

    Its code ran as whoever installed it, when it was installed or imported: credentials that the account could read
    have to be taken for stolen. It is suppressed only by an entry that names its very id, never by a package or place.
    """
    if not any(_tells_malicious(each.name) for shard in advisories.shards for each in shard.sources):
        yield Unknown(reason="no list of malicious packages is on this machine", hint=REFRESH)
    components = [*python_components(python_environments, packages, conda)]
    if isinstance(containers, Containers):
        components += (each for each in contained(containers) if each.ecosystem == "PyPI")
    suppressions = Suppressions(config.advisories.suppress, vex, moment.now)

    def about(ecosystem: str, name: str) -> tuple[Advisory, ...]:
        return tuple(each for each in advisories.about(ecosystem, name) if each.malicious)

    matched = match(components, Advisories(advisories.shards, about, problems=advisories.problems))
    yield from unjudged(matched, "pypi", advisories)
    for found in matched.vulnerabilities:
        if found.affected:
            yield finding(found, lambda _: None, suppressions, fix=_INCIDENT)


def _tells_malicious(source: str) -> bool:
    """Whether a source, by its name, lists malicious packages: https://github.com/ossf/malicious-packages."""
    return "malicious" in source.casefold()


@check(severity=Severity.INFO, duty=Duty.APPLICATIONS, fix="Update the package that carries the copy.")
def bundled_copy_vulnerable(
    python_environments: PythonEnvironments, packages: Packages | Unknown, advisories: Advisories
) -> Iterator[Finding]:
    """A Python package carries a copy of another one in which a flaw is known.

    pip, setuptools, ray and others bring packages along for themselves, use a part of them, and mend them in ways that
    the version does not tell. So the flaw may not be reachable; and the copy cannot be updated alone.
    """
    nothing = Unknown(reason="not needed")
    copies = (each for each in python_components(python_environments, packages, nothing) if each.inside)
    carried: dict[str, list[Match]] = {}
    for each in match(copies, advisories).inside:
        carried.setdefault(each.component.inside, []).append(each)
    for carrier, matches in sorted(carried.items()):
        flaws: dict[str, set[str]] = {}
        for each in matches:
            flaws.setdefault(f"{each.component.name} {each.version}", set()).add(each.advisory.id)
        places = {f"{each.component.place}#{carrier}": each.fix for each in matches}
        yield Finding(
            subject=f"pypi:{carrier}#inside",
            detail=f"{carrier} carries " + few(f"{name} ({few(sorted(ids))})" for name, ids in sorted(flaws.items())),
            evidence={"copies": len(flaws), "flaws": len({each.advisory.id for each in matches})},
            instances=tuple(Instance(place=place, fix=fix) for place, fix in sorted(places.items())),
            fix=matches[0].fix,
        )


@check(
    severity=Severity.LOW,
    duty=Duty.MONITORING,
    fix="sudo dlvmguard advisories refresh, with advisories.url set; or install a newer version of dlvmguard",
)
def advisories_stale(advisories: Advisories, moment: Moment) -> Iterator[Finding | Unknown]:
    """The advisory database is too old to know of the newest flaws.

    Hundreds of flaws become known every week. What came with this version of dlvmguard is as old as the version, and
    is good for the first look alone. After three days it is low, after seven medium; it is used all the same.
    """
    for problem in advisories.problems:
        yield Unknown(reason=problem, hint=REFRESH)
    old = sorted((each for each in advisories.shards if moment.now - each.built > _STALE), key=lambda each: each.built)
    if old:
        oldest = old[0]
        yield Finding(
            subject="advisories",
            detail=f"{few(each.name for each in old)}: the oldest is of {oldest.built:%Y-%m-%d} ({oldest.origin})",
            evidence={"oldest": oldest.name, "built": f"{oldest.built:%Y-%m-%d}", "origin": oldest.origin},
            instances=tuple(
                Instance(place=f"advisories:{each.name}", version=f"{each.built:%Y-%m-%d}")
                for each in sorted(old, key=lambda each: each.name)
            ),
            severity=Severity.MEDIUM if moment.now - oldest.built > _DEGRADED else None,
        )


@check(severity=Severity.LOW, duty=Duty.COMPLIANCE, fix="Fix the flaw, or judge it anew and give a new day.")
def suppression_expired(_documents: Vex, config: Config, moment: Moment) -> Iterator[Finding]:
    """A suppressed finding is no longer suppressed: its day has passed, or is too far away.

    What somebody answers for is looked at again after half a year at the latest. An entry whose last day has passed
    has no effect, nor has one that would last longer than 180 days: the findings are there again.
    """
    # Documents name no last day; what of them could not be read is said here.
    today = moment.now.date()
    for entry in config.advisories.suppress:
        evidence: dict[str, Scalar] = {"owner": entry.owner, "until": entry.until.isoformat()}
        what = f"{key(entry).partition(':')[2]}: suppressed by {entry.owner} until {entry.until:%Y-%m-%d}"
        if is_expired(entry, today):
            yield Finding(subject=key(entry), detail=f"{what}, which has passed", evidence=evidence)
        elif is_too_long(entry, today):
            detail = f"{what} is refused: at most {LONGEST.days} days are allowed"
            yield Finding(subject=key(entry), detail=detail, evidence=evidence)
