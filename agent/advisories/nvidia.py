"""NVIDIA's security bulletins as advisories: which versions have which flaw. Pure.

The driver goes by branches: what 580.159.03 fixed, 535.309.01 fixed as well, so no one number parts the sound from
the rest. A branch that a bulletin leaves out, though it lists a newer one, is abandoned; later branches began sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agent.advisories.advisory import Advisory, Range
from agent.knowledge import NvidiaBulletin, NvidiaBulletins, NvidiaFlaw
from agent.model import Severity

ECOSYSTEM = "NVIDIA"
"""What these advisories are filed under, by product: ``driver``, ``container-toolkit``, ``cuda-toolkit``, …"""

_VERSION = re.compile(r"\d+(?:\.\d+)*", re.ASCII)
_LAST = "99999"
"""Above every release within a branch: the parts of a driver's version have at most three digits."""
_CONDITIONS = {
    "not-cdi": "unless devices are given by CDI alone",
    "cdi-before-1.17.5": "before 1.17.5 only with CDI",
    "not-crun": "unless crun is the low-level runtime",
    "container-ldconfig": "only if the container's own ldconfig is run",
}
# https://www.first.org/cvss/v3.1/specification-document#Qualitative-Severity-Rating-Scale
_RATINGS = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM))


def numbers(version: str) -> tuple[int, ...]:
    """A version as what sorts; ``1.17.0`` is ``1.17``. ValueError where it is not made of numbers."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"{version or 'no version'} is not made of numbers")
    parts = [*map(int, version.split("."))]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def rating(score: float) -> Severity:
    """How bad a CVSS score is called."""
    return next((severity for least, severity in _RATINGS if score >= least), Severity.LOW)


def branch(version: str) -> str:
    """The branch of a driver."""
    return version.partition(".")[0]


def ranges(bulletin: NvidiaBulletin, flaw: NvidiaFlaw) -> Iterator[Range]:
    """The versions that have a flaw, by what this bulletin says."""
    if not bulletin.fixed:
        yield Range(introduced=flaw.introduced, fixed=flaw.fixed)
        return
    fixed = {int(branch(version)): version for version in bulletin.fixed}
    affected = {*map(int, flaw.branches)} or {*fixed}
    after, older = 0, -1
    for name, version in sorted(fixed.items()):
        # Nothing is said of the branches in between. They are taken to have the flaw if a neighbour has it.
        if name > after and not affected.isdisjoint((older, name)):
            yield Range(introduced=str(after) if after else "", last_affected=f"{name - 1}.{_LAST}")
        if name in affected:
            yield Range(introduced=str(name), fixed=version)
        after, older = name + 1, name


def holds(bounds: Range, version: str) -> bool:
    """Whether the version is in the range. ValueError where it is not made of numbers."""
    place = numbers(version)
    if bounds.introduced and place < numbers(bounds.introduced):
        return False
    if bounds.fixed:
        return place < numbers(bounds.fixed)
    return not bounds.last_affected or place <= numbers(bounds.last_affected)


def open_flaws(table: NvidiaBulletins, product: str, version: str) -> dict[NvidiaBulletin, tuple[NvidiaFlaw, ...]]:
    """The flaws that this version of a product has, by bulletin. ValueError where it is not made of numbers."""
    found = {
        bulletin: tuple(flaw for flaw in bulletin.flaws if any(holds(each, version) for each in ranges(bulletin, flaw)))
        for bulletin in table.about(product)
    }
    return {bulletin: flaws for bulletin, flaws in found.items() if flaws}


def counted(scores: Mapping[str, float]) -> str:
    """Flaws in words: how many, and how bad the worst is."""
    return f"{len(scores)} known flaw{'' if len(scores) == 1 else 's'}, the worst scored {max(scores.values()):g}"


def advisories(table: NvidiaBulletins) -> Iterator[tuple[str, Advisory]]:
    """Every flaw with the product that has it; what several bulletins say of one flaw is one advisory."""
    told: dict[tuple[str, str], list[tuple[NvidiaBulletin, NvidiaFlaw]]] = {}
    for bulletin in table.bulletins:
        for flaw in bulletin.flaws:
            told.setdefault((bulletin.product, flaw.id), []).append((bulletin, flaw))
    for (product, identifier), each in told.items():
        newest, flaw = each[-1]
        yield (
            product,
            Advisory(
                id=identifier,
                ids=(identifier,),
                summary=f"NVIDIA {newest} for {product}",
                url=newest.url,
                severity=rating(flaw.score),
                score=flaw.score,
                ranges=tuple(dict.fromkeys(bounds for pair in each for bounds in ranges(*pair))),
                condition="; ".join(_CONDITIONS[name] for name in flaw.only_if),
            ),
        )
