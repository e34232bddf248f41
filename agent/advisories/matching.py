"""Which advisories apply to what is installed, grouped by flaw and package, and what fixes each place. Pure."""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from agent.advisories import fixing, versions
from agent.advisories.advisory import Advisories, Advisory
from agent.inventory import Component
from agent.model import Value


class Status(enum.Enum):
    """Whether a component has a flaw. Those that do not are no match."""

    AFFECTED = "affected"
    UNKNOWN = "unknown"


class Match(Value, frozen=True, kw_only=True):
    """One component and one advisory about it.

    ``fixed`` is the nearest later version without the flaw, ``fixed_in_major`` the same if the major version
    stays, both empty where none is known; ``after`` is the last version with the flaw where that alone is known.
    ``doubt`` says why a match is unknown.
    """

    component: Component
    advisory: Advisory
    status: Status
    version: str
    fixed: str = ""
    fixed_in_major: str = ""
    after: str = ""
    fix: str = ""
    doubt: str = ""

    @property
    def is_fixable(self) -> bool:
        """Whether an update is to be had that is without the flaw, at no further cost."""
        return bool(self.fixed or self.after) and not self.advisory.fix_needs


class Vulnerability(Value, frozen=True, kw_only=True):
    """One flaw in one package, wherever it is installed: what becomes one finding.

    ``kind`` is that of the subject: ``pypi``, ``deb``, ``rpm``. Copies of other packages are not among ``matches``.
    """

    kind: str
    ecosystem: str
    name: str
    advisory: Advisory
    matches: tuple[Match, ...]

    @property
    def subject(self) -> str:
        """Its key, as ``pypi:torch#CVE-2025-32434``."""
        return f"{self.kind}:{self.name}#{self.advisory.id}"

    @property
    def affected(self) -> tuple[Match, ...]:
        """The places that have the flaw for sure."""
        return tuple(each for each in self.matches if each.status is Status.AFFECTED)

    @property
    def unknown(self) -> tuple[Match, ...]:
        """The places that may have it."""
        return tuple(each for each in self.matches if each.status is Status.UNKNOWN)


class Undecided(Value, frozen=True, kw_only=True):
    """A component of whose package flaws are known and whose version does not tell whether it has them."""

    component: Component
    reason: str


class Coverage(Value, frozen=True, kw_only=True):
    """What the answer rests on.

    ``compared`` counts the components that were compared with all that is known; ``left_out`` the others by the
    reason for it, ``without_shard`` by the ecosystem of which nothing is known.
    """

    compared: int = 0
    left_out: Mapping[str, int] = {}
    without_shard: Mapping[str, int] = {}
    undecided: tuple[Undecided, ...] = ()


class Matched(Value, frozen=True, kw_only=True):
    """The answer: flaws by subject, flaws of copies that packages carry inside, and what it rests on."""

    vulnerabilities: tuple[Vulnerability, ...]
    inside: tuple[Match, ...]
    coverage: Coverage


KINDS = {"PyPI": "pypi", "Debian": "deb", "Ubuntu": "deb", "Rocky Linux": "rpm", "AlmaLinux": "rpm"}
"""What subjects begin with, by the family of ecosystems."""

_Group = tuple[str, str, str]
"""Kind, name, advisory id."""


def match(components: Iterable[Component], advisories: Advisories) -> Matched:
    """Compare components with all that is known of their packages."""
    groups: dict[_Group, list[Match]] = {}
    inside, undecided = list[Match](), list[Undecided]()
    compared, left_out, without_shard = 0, Counter[str](), Counter[str]()
    has_shard = functools.cache(lambda ecosystem: advisories.shard(ecosystem) is not None)
    # Hundreds of advisories are about one package, and many components are of the same version.
    ask = functools.cache(functools.partial(_answer, functools.cache(advisories.about)))
    for component in components:
        if component.left_out:
            left_out[component.left_out] += 1
        elif not has_shard(component.ecosystem):
            without_shard[component.ecosystem] += 1
        else:
            compared += 1
            for name, said in _said(component, ask):
                if isinstance(said, Undecided):
                    undecided.append(said)
                elif component.inside and not said.advisory.malicious:
                    inside.append(said)
                else:
                    groups.setdefault((kind_of(component.ecosystem), name, said.advisory.id), []).append(said)
    return Matched(
        vulnerabilities=tuple(_vulnerability(group, groups[group]) for group in sorted(groups)),
        inside=tuple(inside),
        coverage=Coverage(
            compared=compared, left_out=left_out, without_shard=without_shard, undecided=tuple(undecided)
        ),
    )


def kind_of(ecosystem: str) -> str:
    """What the subjects of an ecosystem's packages begin with."""
    family = versions.family(ecosystem)
    return KINDS.get(family, family.lower())


def _vulnerability(group: _Group, matches: list[Match]) -> Vulnerability:
    kind, name, _ = group
    first = matches[0]
    ordered = sorted(matches, key=lambda each: (each.component.key, each.version))
    return Vulnerability(
        kind=kind, ecosystem=first.component.ecosystem, name=name, advisory=first.advisory, matches=tuple(ordered)
    )


class _Verdict(Value, frozen=True, kw_only=True):
    """What one advisory says of one version: affected for certain or perhaps, and what is without the flaw."""

    advisory: Advisory
    certain: bool
    fixed: str = ""
    fixed_in_major: str = ""
    after: str = ""


class _Answer(Value, frozen=True, kw_only=True):
    """What all advisories about a package say of one version; ``problem`` is why some cannot say it."""

    verdicts: tuple[_Verdict, ...] = ()
    problem: str = ""
    is_known: bool = False


def _answer(about: Callable[[str, str], tuple[Advisory, ...]], ecosystem: str, name: str, version: str) -> _Answer:
    advisories = about(ecosystem, name)
    found: dict[str, _Verdict] = {}
    problem = ""
    for advisory in advisories:
        try:
            verdict = _verdict(ecosystem, advisory, version)
        except versions.NotOrderedError as error:
            problem = str(error)
            continue
        known = found.get(advisory.id)
        if verdict and (known is None or verdict.certain > known.certain):
            found[advisory.id] = verdict
    return _Answer(verdicts=tuple(found.values()), problem=problem, is_known=bool(advisories))


def _verdict(ecosystem: str, advisory: Advisory, version: str) -> _Verdict | None:
    is_affected = versions.is_affected(ecosystem, advisory, version)
    if not is_affected:
        return None if is_affected is False else _Verdict(advisory=advisory, certain=False)
    try:
        fixed = versions.nearest_fix(ecosystem, advisory, version)
        after = "" if fixed else versions.last_affected(ecosystem, advisory, version)
    except versions.NotOrderedError:  # all versions are affected, whatever this one is
        fixed, after = "", ""
    keeps = fixed and versions.same_major(ecosystem, version, fixed)
    return _Verdict(advisory=advisory, certain=True, fixed=fixed, fixed_in_major=fixed if keeps else "", after=after)


def _said(component: Component, ask: Callable[[str, str, str], _Answer]) -> Iterator[tuple[str, Match | Undecided]]:
    """The matches of a component, each with the name of the package that the advisory is about."""
    said: set[str] = set()
    for name, version in _asked(component):
        answer, hint = ask(component.ecosystem, name, version), _hint(component)
        if answer.problem or (hint and answer.is_known):
            yield name, Undecided(component=component, reason=hint or answer.problem)
        for verdict in () if hint else answer.verdicts:
            found = _match(component, version, verdict)
            if found and verdict.advisory.id not in said:
                said.add(verdict.advisory.id)
                yield name, found


def _asked(component: Component) -> Iterator[tuple[str, str]]:
    """The names under which advisories know a component: its source package, of an rpm both."""
    if component.kind != "deb":
        yield component.name, component.version
    if component.source and (component.kind == "deb" or component.source != component.name):
        yield component.source, component.source_version


def _hint(component: Component) -> str:
    """Why the version is only a hint; a release built from its own sources has that release's flaws."""
    if component.built == "release" or versions.is_release(component.version):
        return ""
    return f"{component.name} {component.version} was built from sources ({component.built}) that may be of any version"


def _match(component: Component, version: str, verdict: _Verdict) -> Match | None:
    doubt = "" if verdict.certain else verdict.advisory.unclear or "a bound of the affected versions is not a version"
    if verdict.advisory.module != component.module:
        if not _may_be_of_module(component, verdict.advisory.module):
            return None
        doubt = f"the advisory is about {verdict.advisory.module or 'no module'}, the package of {component.module}"
    return Match(
        component=component,
        advisory=verdict.advisory,
        status=Status.UNKNOWN if doubt else Status.AFFECTED,
        version=version,
        fixed=verdict.fixed,
        fixed_in_major=verdict.fixed_in_major,
        after=verdict.after,
        fix=fixing.advice(
            component,
            fixed=verdict.fixed,
            after=verdict.after,
            needs=verdict.advisory.fix_needs,
        ),
        doubt=doubt,
    )


def _may_be_of_module(component: Component, module: str) -> bool:
    """Whether a package and an advisory of different modules may belong together: where one of them names none.

    Versions of different streams cannot be compared. An rpm of a module tells so in its release, in any case.
    https://docs.fedoraproject.org/en-US/modularity/
    """
    if component.module:
        return not module
    return ".module" in component.version
