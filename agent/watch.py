"""Watching: every probe that needs no network, when it is due or provoked, for as long as the machine runs.

The probes run in this very process, one after the other. One that makes no progress is interrupted. One that hangs
in the kernel, where nothing can be interrupted, keeps us from answering the service manager's watchdog; it is ended
with us and backs off after the restart, because what is running was written down before it ran.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import msgspec

from agent import __version__, collect, discovery, pulse
from agent.config import Config, ConfigError
from agent.glances import Glances
from agent.host import Host
from agent.keeping import Keeper
from agent.model import Probe, Unknown
from agent.notify import Notifier
from agent.pulse import Beat, Pulse
from agent.schedule import Turn
from agent.state import State, StateError

T = TypeVar("T")

TICK_SECONDS = 2.0
"""Between two glances; what is to arrive within seconds must be noticed within two."""
_PATIENCE_SECONDS = 120.0
"""Without progress a probe is interrupted after this time, or half the watchdog's if that is shorter."""
_REFRESH_SECONDS = 6 * 3600.0
"""What did not change is written again after this time, or half of what counts as stale if that is shorter."""
_SLICE = 1 << 30
"""Bytes of models that are hashed before others have their turn again."""
_LATER = "It is tried again later; dlvmguard status says when."


class Stopped(BaseException):
    """SIGTERM or SIGINT came while a probe looked or we slept. No error, so no probe's error handling holds it."""


class Overrun(BaseException):
    """The probe that looks made no progress for too long."""


def watch(host: Host, state: State, load: Callable[[], Config], *, config_path: str) -> None:
    """Watch until told to stop; ``load`` reads the configuration from ``config_path``, now and when it changed.

    Raises:
        ConfigError: the configuration cannot be used, when starting.
        StateError: another watcher is running, or the state cannot be read.
    """
    before = pulse.load(state)
    if before and pulse.is_alive(before):
        raise StateError(f"a watcher is running already, process {before.pid}; to look once: dlvmguard scan")
    state.tidy(os.path.dirname(state.snapshot))
    _Watch(host, state, load, config_path).run(before)


class _Watch:
    """A running watcher."""

    def __init__(self, host: Host, state: State, load: Callable[[], Config], config_path: str) -> None:
        """Read the configuration; nothing is looked at yet."""
        self.host = host
        self.host.progress = self._progress
        self.state = state
        self.load = load
        self.config_path = config_path
        self.notifier = Notifier()
        self.probes = tuple(
            sorted((each for each in discovery.probes() if not each.network), key=lambda each: each.slow)
        )
        self.config_signature = Host().signature(config_path)
        self.config = self._sliced(load())
        self.refused = ""
        self.started = _wall()
        self.turns = {each.name: Turn(every=each.every.total_seconds(), due=_now()) for each in self.probes}
        self.running = ""
        self.keeper = Keeper(state, _now())
        self.glances = Glances(self.host)
        self._stopping = self._reloading = self._interruptible = False
        self._pinged = 0.0

    def run(self, before: Pulse | None) -> None:
        """Watch until a signal says to stop; ``before`` was left by a watcher that was killed."""
        if before:
            self._adopt(before)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, self._signalled)
        gc.freeze()  # what we are made of stays; a collection that leaves it alone takes a millisecond
        self._tell()
        self.notifier.say("READY=1", "STATUS=taking the first look")
        _log(f"watching with {len(self.probes)} probes, version {__version__}")
        try:
            while not self._stopping:
                self._wake()
                self._sleep()
        except Stopped:
            pass
        self.notifier.say("STOPPING=1")
        with contextlib.suppress(StateError):
            self.state.remove(self.state.pulse)
        _log("stopped")

    def _adopt(self, before: Pulse) -> None:
        """Go on backing off from what failed, and back off from what was running when the watcher was ended."""
        now = _now()
        for beat in before.beats:
            if beat.probe not in self.turns or not (beat.running or beat.failures):
                continue
            reason = "the watcher was ended while this was looked at" if beat.running else beat.reason
            failures = max(0, beat.failures - (not beat.running))
            turn = msgspec.structs.replace(self.turns[beat.probe], failures=failures)
            self.turns[beat.probe] = turn.failed(now, reason, cost=0.0, chance=_chance())
            if beat.running:
                probe = next(each for each in self.probes if each.name == beat.probe)
                unknown = Unknown(reason=reason, hint=_LATER)
                look = collect.Look(probe=probe, taken=_wall(), seconds=0.0, fact=unknown)
                self.keeper.note(look, now, refresh=_REFRESH_SECONDS)

    def _wake(self) -> None:
        """Everything that is due, each at most once."""
        self._ping()
        if self._reloading or self.config_signature != Host().signature(self.config_path):
            self._reload()
        now = _now()
        for name in self.glances.provoked(self.probes, self.host, self.config, now):
            self.turns[name] = self.turns[name].provoked(now)
        due = [each for each in self.probes if self.turns[each.name].is_due(now)]
        first_slow = next((probe for probe in due if probe.slow), None)
        for probe in due:
            if probe is first_slow:
                self.keeper.keep(_now())  # once: what is written too often has to wait later, when it matters
            self._look(probe)
        if any(probe.slow for probe in due):
            gc.collect()  # buffers and tables are held in cycles, which could otherwise stay for hours
        problem = self.keeper.problem
        self.keeper.keep(_now())
        if due or problem != self.keeper.problem:
            self._tell()
            failing = sum(turn.failures > 0 for turn in self.turns.values())
            self.notifier.say("STATUS=watching" + (f"; {failing} probes are backing off" if failing else ""))

    def _look(self, probe: Probe[Any]) -> None:
        """Let one probe look, and say when it is to look again."""
        self.running = probe.name
        self._tell()
        turn, cpu, taken = self.turns[probe.name], _cpu(), _wall()
        try:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
            (look,) = self._interruptibly(
                lambda: collect.collect([probe], self.host, self.config, earlier=self.keeper.earlier)
            )
        except Overrun:
            unknown = Unknown(reason=f"no progress within {self._patience:g} s, so it was interrupted", hint=_LATER)
            look = collect.Look(probe=probe, taken=taken, seconds=self._patience, fact=unknown)
        cost, now = _cpu() - cpu, _now()
        if isinstance(look.fact, Unknown):
            self.turns[probe.name] = turn.failed(now, look.fact.reason, cost=cost, chance=_chance())
            if turn.reason != look.fact.reason:
                _log(f"{probe.name}: {look.fact.reason}")
        else:
            unfinished = look.fact.unfinished
            self.turns[probe.name] = turn.looked(now, cost=cost, chance=_chance(), unfinished=unfinished)
            if turn.failures:
                _log(f"{probe.name}: seen again")
        self.keeper.note(look, now, refresh=min(_REFRESH_SECONDS, self.config.stale_after_hours * 1800))
        self.running = ""
        self._ping()

    def _sleep(self) -> None:
        """Until the next glance; a signal to stop wakes."""
        self._interruptibly(lambda: time.sleep(TICK_SECONDS))

    def _interruptibly(self, work: Callable[[], T]) -> T:
        """Do what a signal may break off at any point. Our own writing is not done in here."""
        self._interruptible = True
        try:
            if self._stopping:  # the signal came a moment too early to raise anything
                raise Stopped
            return work()
        finally:
            self._interruptible = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        elif number != signal.SIGALRM:
            self._stopping = True
        if self._interruptible and number != signal.SIGHUP:
            self._interruptible = False  # what the exception sets off on its way out is not broken off again
            raise Overrun if number == signal.SIGALRM else Stopped

    def _reload(self) -> None:
        """Take the configuration anew; one that cannot be used changes nothing but what we say."""
        self._reloading = False
        self.notifier.reloading()
        self.config_signature = Host().signature(self.config_path)
        try:
            self.config, self.refused = self._sliced(self.load()), ""
        except ConfigError as error:
            self.refused = str(error)
            _log(f"the configuration is refused, the old one stays in force: {error}")
        else:
            _log("the configuration was read anew")
            now = _now()
            self.turns = {name: Turn(every=turn.every, due=now) for name, turn in self.turns.items()}
        self._tell()
        self.notifier.say("READY=1")

    def _sliced(self, config: Config) -> Config:
        """The configuration with a limit to how long models hold up the rest, and the state that we have."""
        size = min(config.models.hash_bytes_per_scan, _SLICE)
        models = msgspec.structs.replace(config.models, hash_bytes_per_scan=size)
        return msgspec.structs.replace(config, models=models, state_directory=self.state.directory)

    def _progress(self, text: str) -> None:
        """What takes long goes on."""
        if time.monotonic() - self._pinged >= 1:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
            self._ping(f"STATUS={text}")

    def _ping(self, *lines: str) -> None:
        """Tell the watchdog that we live, not more often than it needs."""
        if lines or time.monotonic() - self._pinged >= self.notifier.watchdog / 4:
            self._pinged = time.monotonic()
            self.notifier.say("WATCHDOG=1", *lines)

    @property
    def _patience(self) -> float:
        return min(_PATIENCE_SECONDS, self.notifier.watchdog / 2 or _PATIENCE_SECONDS)

    def _tell(self) -> None:
        """Say how we are to whoever asks; that nobody can hear it is no reason to stop."""
        clock, wall = _now(), _wall()

        def at(moment: float | None) -> dt.datetime | None:
            return None if moment is None else (wall + dt.timedelta(seconds=moment - clock)).replace(microsecond=0)

        beats = tuple(
            Beat(
                probe=each.name, topic=each.topic, running=each.name == self.running, last=at(turn.last),
                next=at(turn.due), failures=turn.failures, reason=turn.reason,
            )
            for each in self.probes for turn in (self.turns[each.name],)
        )  # fmt: skip
        said = Pulse(
            version=__version__, pid=os.getpid(), born=pulse.born(os.getpid()), started=self.started,
            refused=self.refused, problem=self.keeper.problem, beats=beats,
        )  # fmt: skip
        with contextlib.suppress(StateError):
            self.state.publish(msgspec.json.encode(said))


def _now() -> float:
    """Seconds that go on while the machine sleeps, see https://man7.org/linux/man-pages/man2/clock_gettime.2.html."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _wall() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _cpu() -> float:
    """Seconds of CPU that we and the children that ended have taken."""
    return sum(os.times()[:4])


def _chance() -> float:
    return random.random()  # noqa: S311 -- it spreads looks over time, and keeps no secret


def _log(text: str) -> None:
    """A line for the journal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
