"""When what is due: a probe's next look, and how often facts may be replaced. Pure: the time is told, never asked.

Seconds count on a clock that goes on while the machine sleeps and that nobody can set, so a wrong or jumping wall
clock changes nothing. After a long sleep everything is due, once: the next look is counted from the last one, never
made up for.
"""

from __future__ import annotations

import msgspec

from agent.model import Value

LONGEST_BACKOFF = 3600.0
_FIRST_BACKOFF = 60.0
_SPREAD = 0.1
"""A look is put off by up to this part of its wait, so that things that began together drift apart."""
_SHARE = 1 / 2000
"""The part of a core that a probe may take by its own interval: one that costs more waits longer, up to a limit."""
_LONGEST_REST = 900.0
_PROVOKED_SHARE = 1 / 20
_LONGEST_PROVOKED_REST = 60.0
"""Provoked it may take more, for it has seen something; but whoever provokes without end does not get a core."""


class Turn(Value, frozen=True, kw_only=True):
    """One probe's place in the schedule. ``cost`` is the CPU time of its last look, which ended at ``last``."""

    every: float
    due: float
    last: float | None = None
    cost: float = 0.0
    failures: int = 0
    reason: str = ""

    def is_due(self, now: float) -> bool:
        """Whether to look."""
        return now >= self.due

    def provoked(self, now: float) -> Turn:
        """Something happened: look now, unless it looked a moment ago or is backing off."""
        if self.failures:
            return self
        rested = now
        if self.last is not None:
            rested = max(now, self.last + min(self.cost / _PROVOKED_SHARE, _LONGEST_PROVOKED_REST))
        return msgspec.structs.replace(self, due=min(self.due, rested))

    def looked(self, now: float, *, cost: float, chance: float, unfinished: bool = False) -> Turn:
        """A look ended well; ``chance`` is a random number from 0 to 1. One that is not finished goes on at once."""
        wait = 0.0 if unfinished else max(self.every, min(cost / _SHARE, _LONGEST_REST))
        return Turn(every=self.every, due=now + wait * (1 + _SPREAD * chance), last=now, cost=cost)

    def failed(self, now: float, reason: str, *, cost: float, chance: float) -> Turn:
        """A look failed: the next one comes at the usual time or later, each time later, up to an hour."""
        failures = self.failures + 1
        doubled = _FIRST_BACKOFF * 2 ** min(failures - 1, 10)
        wait = min(LONGEST_BACKOFF, max(self.every, doubled) * (1 + _SPREAD * chance))
        return Turn(every=self.every, due=now + wait, last=now, cost=cost, failures=failures, reason=reason)


class Allowance(Value, frozen=True, kw_only=True):
    """How often something may be done: ``burst`` times in quick succession, then once in ``every`` seconds."""

    burst: int
    every: float
    left: float
    at: float

    @classmethod
    def full(cls, *, burst: int, every: float, now: float) -> Allowance:
        """With nothing used yet."""
        return cls(burst=burst, every=every, left=float(burst), at=now)

    def refilled(self, now: float) -> Allowance:
        """What has come back meanwhile."""
        left = min(float(self.burst), self.left + max(0.0, now - self.at) / self.every)
        return msgspec.structs.replace(self, left=left, at=max(self.at, now))

    @property
    def permits(self) -> bool:
        """Whether it may be done now."""
        return self.left >= 1

    def used(self) -> Allowance:
        """Once less."""
        return msgspec.structs.replace(self, left=self.left - 1)
