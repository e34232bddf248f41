"""Facts to findings: run every check whose facts were looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent import knowledge
from agent.config import Config
from agent.model import Check, Fact, Finding, Judged, Moment, Outcome, Seen, Table, Unknown, attempt

Facts = Mapping[type[Fact], Seen]
"""What was looked at, by the type of the fact. A type that is missing was not looked at this time."""


def evaluate(checks: Iterable[Check], facts: Facts, config: Config, moment: Moment) -> tuple[Outcome, ...]:
    """The outcome of every check that had its facts.

    A check of which a fact was not looked at this time has no outcome: it says nothing, good or bad. One of which
    a fact is Unknown, or that raises, is Unknown with that reason. The gaps of a fact are Unknowns of its checks.
    """
    return tuple(
        _judged(check, facts, config, moment)
        for check in checks
        if all(kind in facts for kind in check.needs.values() if issubclass(kind, Fact))
    )


def _judged(check: Check, facts: Facts, config: Config, moment: Moment) -> Outcome:
    seen = {name: facts[kind] for name, kind in check.needs.items() if issubclass(kind, Fact)}
    taken = min((each.taken for each in seen.values()), default=moment.now)
    missing = tuple(each.fact for each in seen.values() if isinstance(each.fact, Unknown))
    if missing:
        return Outcome(check=check.id, taken=taken, unknowns=missing)
    supplied = {name: each.fact for name, each in seen.items()} | _supplied(check, config, moment)
    findings = attempt(lambda: _completed(check, check.judge(**supplied)), what=f"check {check.id}")
    if isinstance(findings, Unknown):
        return Outcome(check=check.id, taken=taken, unknowns=(findings,))
    gaps = tuple(gap for each in seen.values() if isinstance(each.fact, Fact) for gap in each.fact.gaps)
    return Outcome(check=check.id, taken=taken, findings=findings, unknowns=gaps)


def _supplied(check: Check, config: Config, moment: Moment) -> dict[str, Any]:
    """What a check may ask for besides facts: the time, the configuration, a table of knowledge."""
    supplied: dict[str, Any] = {}
    for name, kind in check.needs.items():
        if kind is Moment:
            supplied[name] = moment
        elif kind is Config:
            supplied[name] = config
        elif issubclass(kind, Table):
            supplied[name] = knowledge.load(kind)
    return supplied


def _completed(check: Check, findings: Iterable[Finding]) -> tuple[Judged, ...]:
    """The findings with what the check leaves to us, one a subject, worst first."""
    by_subject: dict[str, Judged] = {}
    for finding in findings:
        judged = Judged(
            check=check.id,
            subject=finding.subject,
            detail=finding.detail,
            evidence=finding.evidence,
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
