"""What one scan comes to: the value that every way of showing it draws from. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

from agent.model import Check, Duty, Judged, Outcome, Severity, Unknown, Value


class Topic(Value, frozen=True, kw_only=True):
    """One topic as it was looked at."""

    name: str
    seconds: float
    unknowns: tuple[Unknown, ...] = ()


class Summary(Value, frozen=True, kw_only=True):
    """What was found, what could not be judged, and what passed, in one scan."""

    agent_version: str
    machine: str
    taken: dt.datetime
    seconds: float
    topics: tuple[Topic, ...]
    checks: Mapping[str, Check]
    outcomes: tuple[Outcome, ...]
    notices: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Judged, ...]:
        """All findings, worst first."""
        found = (finding for outcome in self.outcomes for finding in outcome.findings)
        return tuple(sorted(found, key=lambda each: (each.severity.rank, each.check, each.subject)))

    @property
    def passed(self) -> tuple[str, ...]:
        """The checks that had nothing to say and saw everything they needed."""
        return tuple(each.check for each in self.outcomes if not each.findings and not each.unknowns)

    @property
    def unknown(self) -> tuple[Outcome, ...]:
        """The checks that could not judge everything."""
        return tuple(each for each in self.outcomes if each.unknowns)

    @property
    def broken(self) -> tuple[tuple[str, Unknown], ...]:
        """What is unknown for a reason that lies in a check itself, not in what could be seen."""
        seen = {unknown for topic in self.topics for unknown in topic.unknowns}
        return tuple((each.check, gap) for each in self.unknown for gap in each.unknowns if gap not in seen)

    def by_duty(self) -> dict[Duty, tuple[Judged, ...]]:
        """The findings under the duty that they belong to, duties in their order, without the empty ones."""
        return {duty: found for duty in Duty if (found := tuple(self._under(duty)))}

    def _under(self, duty: Duty) -> Iterable[Judged]:
        return (finding for finding in self.findings if self.checks[finding.check].duty is duty)

    def fails(self, threshold: Severity) -> bool:
        """Whether something is as bad as the threshold or worse."""
        return any(finding.severity.at_least(threshold) for finding in self.findings)


def counted(findings: Iterable[Judged]) -> dict[Severity, int]:
    """How many there are of each severity, worst first, without the zeroes."""
    found = [finding.severity for finding in findings]
    return {severity: found.count(severity) for severity in Severity if severity in found}


def in_words(counts: Mapping[Severity, int]) -> str:
    """As in ``1 critical, 3 low``."""
    return ", ".join(f"{count} {severity.value}" for severity, count in counts.items())


def grouped(findings: Sequence[Judged]) -> list[tuple[Judged, ...]]:
    """Findings of one check and severity together, in the order of the first of each."""
    groups: dict[tuple[Severity, str], list[Judged]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.check), []).append(finding)
    return [tuple(group) for group in groups.values()]


def first_sentence(text: str) -> str:
    """The first sentence of a manual page, on one line."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph
