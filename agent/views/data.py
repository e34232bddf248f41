"""What a program gets: the same values as JSON, in a form that is documented and stays. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.model import Check, Event, Judged, Listed, Unknown
from agent.views.summary import Summary, counted


def encoded(value: Any) -> str:
    """JSON, indented for people who look at it all the same."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def scan(summary: Summary) -> dict[str, Any]:
    """A scan, as ``dlvmguard scan --format json`` prints it."""
    return {
        "schema": "dlvmguard.scan/1",
        "agent_version": summary.agent_version,
        "machine": summary.machine,
        "taken": summary.taken,
        "seconds": round(summary.seconds, 3),
        "counts": {severity.value: count for severity, count in counted(summary.findings).items()},
        "findings": [finding(each, summary.checks) for each in summary.findings],
        "unknown": [{"check": each.check, "reasons": unknowns(each.unknowns)} for each in summary.unknown],
        "passed": list(summary.passed),
        "topics": [
            {"topic": each.name, "seconds": round(each.seconds, 3), "unknown": unknowns(each.unknowns)}
            for each in summary.topics
        ],
        "notices": list(summary.notices),
    }


def finding(found: Judged, checks: Mapping[str, Listed]) -> dict[str, Any]:
    """A finding with what its check says about it; of a check that is gone only what the finding itself says."""
    check = checks.get(found.check)
    return {
        "id": found.id,
        "check": found.check,
        "title": check.title if check else "",
        "duty": check.duty.value if check else "",
        "severity": found.severity.value,
        "subject": found.subject,
        "detail": found.detail,
        "evidence": dict(found.evidence),
        "instances": [{"place": each.place, "version": each.version, "fix": each.fix} for each in found.instances],
        "fix": found.fix,
    }


def unknowns(found: tuple[Unknown, ...]) -> list[dict[str, Any]]:
    """What could not be seen."""
    return [{"reason": each.reason, "hint": each.hint, "scope": each.scope} for each in found]


def event(happened: Event, checks: Mapping[str, Listed]) -> dict[str, Any]:
    """One event."""
    previous = happened.change.previous
    return {
        "sequence": happened.sequence,
        "uid": happened.uid,
        "time": happened.time,
        "event": happened.change.kind.value,
        "initial": happened.initial,
        "reason": happened.change.reason,
        "previous_severity": previous.value if previous else None,
        "finding": finding(happened.change.finding, checks),
    }


def check(each: Check) -> dict[str, Any]:
    """A check, as ``dlvmguard checks --format json`` prints it."""
    return {
        "check": each.id,
        "title": each.title,
        "severity": each.severity.value,
        "duty": each.duty.value,
        "topic": each.topic,
        "manual": each.manual,
        "fix": each.fix,
    }
