"""Facts to findings: run every check whose facts were looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent import knowledge
from agent.advisories.advisory import Advisories
from agent.config import Config
from agent.model import Check, Fact, Finding, Judged, Moment, Outcome, Seen, Table, Unknown, attempt

Facts = Mapping[type[Fact], Seen]
"""What was looked at, by the type of the fact. A type that is missing was not looked at this time."""

_NO_ADVISORIES = Unknown(reason="no advisory database was opened")


def evaluate(
    checks: Iterable[Check],
    facts: Facts,
    config: Config,
    moment: Moment,
    advisories: Advisories | Unknown = _NO_ADVISORIES,
) -> tuple[Outcome, ...]:
    """The outcome of every check that had its facts.

    A check of which a fact was not looked at this time has no outcome: it says nothing, good or bad. One of which
    a fact is Unknown, or that raises, is Unknown with that reason. The gaps of a fact are Unknowns of its checks.
    """
    return tuple(
        _judged(check, facts, {Config: config, Moment: moment, Advisories: advisories})
        for check in checks
        if all(kind in facts for kind in check.needs.values() if issubclass(kind, Fact))
    )


def _judged(check: Check, facts: Facts, others: Mapping[type, Any]) -> Outcome:
    """``others`` is what a check may ask for besides facts and tables of knowledge."""
    seen = {name: facts[kind] for name, kind in check.needs.items() if issubclass(kind, Fact)}
    taken = min((each.taken for each in seen.values()), default=others[Moment].now)
    supplied: dict[str, Any] = {name: each.fact for name, each in seen.items()}
    for name, kind in check.needs.items():
        if name not in seen:
            supplied[name] = _newest(kind, others[Advisories]) if issubclass(kind, Table) else others[kind]
    missing = tuple(each for each in supplied.values() if isinstance(each, Unknown))
    if missing:
        return Outcome(check=check.id, taken=taken, unknowns=missing)
    for name, kind in check.wants.items():
        supplied[name] = facts[kind].fact if kind in facts else Unknown(reason=f"{kind.__name__} was not looked at")
    said = attempt(lambda: tuple(check.judge(**supplied)), what=f"check {check.id}")
    if isinstance(said, Unknown):
        return Outcome(check=check.id, taken=taken, unknowns=(said,))
    gaps = tuple(gap for each in seen.values() if isinstance(each.fact, Fact) for gap in each.fact.gaps)
    unjudged = tuple(each for each in said if isinstance(each, Unknown))
    findings = _completed(check, (each for each in said if isinstance(each, Finding)))
    return Outcome(check=check.id, taken=taken, findings=findings, unknowns=gaps + unjudged)


def _newest(kind: type[Table], advisories: Advisories | Unknown) -> Table | Unknown:
    """The program's own table, or the edition of the advisory database where that is newer."""
    own: Table = knowledge.load(kind)
    if isinstance(advisories, Unknown):
        return own
    fetched = attempt(lambda: advisories.table(kind), what=f"table {kind.__name__}")
    if fetched is None or isinstance(fetched, Unknown):
        return fetched or own
    return max(own, fetched, key=lambda table: table.updated)


def _completed(check: Check, findings: Iterable[Finding]) -> tuple[Judged, ...]:
    """The findings with what the check leaves to us, one a subject, worst first."""
    by_subject: dict[str, Judged] = {}
    for finding in findings:
        judged = Judged(
            check=check.id,
            subject=finding.subject,
            detail=finding.detail,
            evidence=finding.evidence,
            instances=finding.instances,
            severity=finding.severity or check.severity,
            fix=finding.fix or check.fix,
        )
        known = by_subject.get(judged.subject)
        # Two findings of one identity would flap between scans: the worse one stands, then the first in order.
        if known is None or _order(judged) < _order(known):
            by_subject[judged.subject] = judged
    return tuple(sorted(by_subject.values(), key=_order))


def _order(finding: Judged) -> tuple[int, str, str]:
    return (finding.severity.rank, finding.subject, finding.detail)
