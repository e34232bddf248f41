"""Outcomes as checks would give them, for everything that comes after the checks."""

from __future__ import annotations

import datetime as dt

from agent.model import Judged, Outcome, Severity, Unknown

TAKEN = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc)


def judged(subject: str, *, check: str = "door-open", detail: str = "", severity: Severity = Severity.HIGH) -> Judged:
    return Judged(
        check=check, subject=subject, detail=detail or f"{subject} is open", severity=severity, fix="Close it."
    )


def outcome(
    *subjects: str, check: str = "door-open", unknown: tuple[Unknown, ...] = (), taken: dt.datetime = TAKEN
) -> Outcome:
    return Outcome(
        check=check, taken=taken, findings=tuple(judged(each, check=check) for each in subjects), unknowns=unknown
    )
