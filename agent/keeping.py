"""Keeping what the probes saw, as seldom as will do, because every time it is written it is judged and shipped anew.

What was seen replaces collected/facts.json when it is another thing than what lies there: at once as long as that is
rare, else once a minute. What is the same is written again after hours, so that its time stays true. What a volatile
probe sees goes along with whatever is written, and is written for itself every ten minutes at most; that it could not
look, or can again, is news. What settles waits until what was kept is that old, and goes along meanwhile.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

from agent import collect
from agent.model import Fact, Probe
from agent.schedule import Allowance
from agent.state import State, StateError

_BURST, _WRITE_SECONDS = 5, 60.0
_RETRY_SECONDS = 60.0
_VOLATILE_SECONDS = 600.0
_VOLATILE = b"volatile"
"""What stands for whatever a volatile probe saw when it is asked whether something else was seen."""


class Keeper:
    """What waits to be written, and what was."""

    def __init__(self, state: State, now: float) -> None:
        """Nothing is known to be kept yet."""
        self.state = state
        self.problem = ""
        self._allowance = Allowance.full(burst=_BURST, every=_WRITE_SECONDS, now=now)
        self._pending: dict[str, collect.Saved] = {}
        self._along: dict[str, collect.Saved] = {}
        self._volatile: set[str] = set()
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._signature: tuple[int, ...] = ()
        self._retry = 0.0

    def note(self, look: collect.Look, now: float, *, refresh: float) -> None:
        """A probe has looked."""
        if self._signature != self.state.signature(self.state.snapshot):
            self._kept.clear()  # somebody else wrote it, as a scan does
        saved = collect.saved(look)
        if look.probe.volatile:
            self._volatile.add(saved.probe)
            refresh = min(refresh, _VOLATILE_SECONDS)
        digest, at = self._kept.get(saved.probe, (b"", -math.inf))
        is_news = digest != self._digest(saved)
        self._along.pop(saved.probe, None)
        if now - at >= (look.probe.settles.total_seconds() if is_news else refresh):
            self._pending[saved.probe] = saved
            return
        self._pending.pop(saved.probe, None)  # it changed and changed back before that was kept
        if look.probe.volatile or is_news:
            self._along[saved.probe] = saved

    def _digest(self, saved: collect.Saved) -> bytes:
        """What is another one if it is news."""
        return _VOLATILE if saved.probe in self._volatile and not saved.unknown else saved.digest()

    def earlier(self, probe: Probe[Any]) -> Fact | None:
        """What a probe returned last, written or not."""
        waiting = self._pending.get(probe.name) or self._along.get(probe.name)
        with contextlib.suppress(StateError):
            text = collect.snapshot([waiting]) if waiting else self.state.read(self.state.snapshot)
            return collect.remembered(text)(probe)
        return None

    def keep(self, now: float) -> None:
        """Write what waits, if it may be written now. A failure is a problem to tell, and is tried again."""
        self._allowance = self._allowance.refilled(now)
        if not self._pending or not self._allowance.permits or now < self._retry:
            return
        self._allowance = self._allowance.used()
        writing = self._along | self._pending
        try:
            text = self.state.read(self.state.snapshot)
            self.state.write(self.state.snapshot, collect.merged(text, writing.values()))
        except StateError as error:
            self.problem, self._retry = str(error), now + _RETRY_SECONDS
            return
        self.problem = ""
        self._kept.update((name, (self._digest(saved), now)) for name, saved in writing.items())
        self._signature = self.state.signature(self.state.snapshot)
        self._pending.clear()
        self._along.clear()
