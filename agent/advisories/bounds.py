"""From the events of a record to ranges of versions, with what is wrong with them repaired or said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from packaging.version import InvalidVersion, Version

from agent.advisories.advisory import Range
from agent.advisories.records import Affected, Event
from agent.knowledge import AdvisoryRepairs, RepairedBound, RepairedRecord
from agent.model import Value

_LISTED = 2_000
"""More versions than this are no longer listed one by one."""


class Versions(Value, frozen=True, kw_only=True):
    """The affected versions of one package as a record says them; ``repaired`` where the table said what it means."""

    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()
    unclear: str = ""
    repaired: bool = False


def versions(record_id: str, name: str, affected: Affected, repairs: AdvisoryRepairs, *, is_pypi: bool) -> Versions:
    """What a record says of one package.

    Ranges of commits are dropped, and so are the versions that are listed beside ranges, which say the same. Where a
    bound is no version that pip knows and no repair is known, the list stands for the ranges; where there is no list
    either, nobody knows.
    """
    for repair in repairs.records:
        if repair.id == record_id and repair.package == name:
            return Versions(ranges=_said(repair), repaired=True)
    listed = tuple(sorted(affected.versions or ()))
    found = [each.events for each in affected.ranges or () if each.type != "GIT"]
    if not found:
        return _listed(listed, "it names no versions")
    if not is_pypi:
        return Versions(ranges=_distinct(each for events in found for each in _ranges(_pairs(events))))
    repaired = [[(kind, _repaired(version, repairs.bounds)) for kind, version in _pairs(events)] for events in found]
    bad = [version for events in repaired for _, version in events if not _is_version(version)]
    if bad:
        return _listed(listed, f"{bad[0]!r} is no version that pip knows")
    ranges = _distinct(each for events in repaired for each in _ranges(sorted(events, key=_order)))
    return Versions(ranges=ranges, repaired=repaired != [_pairs(events) for events in found])


def _said(repair: RepairedRecord) -> tuple[Range, ...]:
    return tuple(
        Range(introduced=each.introduced, fixed=each.fixed, last_affected=each.last_affected) for each in repair.ranges
    )


def _listed(listed: tuple[str, ...], otherwise: str) -> Versions:
    if not listed:
        return Versions(unclear=otherwise)
    if len(listed) > _LISTED:
        return Versions(unclear=f"{otherwise}, and lists {len(listed)} versions")
    return Versions(versions=listed)


def _pairs(events: Iterable[Event]) -> list[tuple[str, str]]:
    found = []
    for event in events:
        for kind in ("introduced", "fixed", "last_affected"):
            version = getattr(event, kind)
            if version is not None:
                found.append((kind, str(version)))
    return found


def _repaired(version: str, repairs: Sequence[RepairedBound]) -> str:
    if not _is_version(version):
        for repair in repairs:
            version = re.sub(repair.match, repair.becomes, version)
    return version


def _is_version(version: str) -> bool:
    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


def _order(event: tuple[str, str]) -> Version:
    """Events come in any order; those of one version stay in theirs, as what is fixed there may begin there anew."""
    return Version(event[1])


def _ranges(events: Iterable[tuple[str, str]]) -> Iterable[Range]:
    """The schema's evaluation, but for several ``last_affected`` after one beginning, of which the last one counts.

    By the schema it would be the first. Records that have several list each affected version so, and to believe the
    first would be to miss the others. https://ossf.github.io/osv-schema/#evaluation
    """
    begin: str | None = None
    last = ""
    for kind, version in events:
        if kind == "introduced":
            if begin is not None and not last:
                continue
            if begin is not None:
                yield Range(introduced=begin, last_affected=last)
            begin, last = "" if version == "0" else version, ""
        elif begin is not None and kind == "fixed":
            if version not in {begin, "0"}:  # fixed where it begins: no version is affected
                yield Range(introduced=begin, fixed=version)
            begin, last = None, ""
        elif kind == "last_affected":
            last = version
    if begin is not None:
        yield Range(introduced=begin, last_affected=last)


def _distinct(ranges: Iterable[Range]) -> tuple[Range, ...]:
    return tuple(dict.fromkeys(ranges))
