"""What changed between the findings that are open and the outcomes of now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from agent.model import Change, EventKind, Judged, Outcome, Unknown


def diff(
    open_findings: Iterable[Judged], outcomes: Iterable[Outcome], catalogue: Collection[str]
) -> tuple[Change, ...]:
    """The changes, in a fixed order: checks as given, each with its findings, then what is gone.

    ``catalogue`` holds every check id that exists: an open finding of one that does not is resolved for that
    reason. A check without an outcome changes nothing, and an Unknown resolves nothing that it covers.
    """
    by_check: dict[str, dict[str, Judged]] = {}
    for finding in open_findings:
        by_check.setdefault(finding.check, {})[finding.subject] = finding
    changes = [change for outcome in outcomes for change in _of_check(by_check.get(outcome.check, {}), outcome)]
    for check in sorted(by_check.keys() - set(catalogue)):
        changes += (_resolved(finding, "the check no longer exists") for finding in by_check[check].values())
    return tuple(changes)


def _of_check(before: Mapping[str, Judged], outcome: Outcome) -> Iterator[Change]:
    for found in outcome.findings:
        known = before.get(found.subject)
        finding = _with_hidden(known, found, outcome.unknowns) if known else found
        if known is None:
            yield Change(kind=EventKind.OPENED, finding=finding)
        elif not _says_the_same(known, finding):
            yield Change(kind=EventKind.CHANGED, finding=finding, previous=known.severity)
    now = {finding.subject for finding in outcome.findings}
    for subject in sorted(before.keys() - now):
        if not any(unknown.hides(before[subject]) for unknown in outcome.unknowns):
            yield _resolved(before[subject], "no longer found")


def _with_hidden(before: Judged, now: Judged, unknowns: Iterable[Unknown]) -> Judged:
    """The finding with the places that it had before and that could not be looked at now."""
    seen = {each.place for each in now.instances}
    unseen = [each for each in before.instances if each.place not in seen]
    hidden = [each for each in unseen if any(unknown.covers(each.place) for unknown in unknowns)]
    if not hidden:
        return now
    return msgspec.structs.replace(now, instances=tuple(sorted((*now.instances, *hidden), key=lambda each: each.place)))


def _resolved(finding: Judged, reason: str) -> Change:
    return Change(kind=EventKind.RESOLVED, finding=finding, reason=reason)


def _says_the_same(before: Judged, now: Judged) -> bool:
    """Words of the fix may improve with a release without being news."""
    return _said(before) == _said(now)


def _said(finding: Judged) -> tuple[Any, ...]:
    places = tuple((each.place, each.version) for each in finding.instances)
    return (finding.severity, finding.detail, finding.evidence, places)
