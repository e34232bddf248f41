"""The watcher's pulse: what it says of itself to whoever asks, and whether it is alive.

Kept where a reboot forgets it. Anybody may read it, so it names probes, times and reasons, and nothing secret.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from agent.host import Host
from agent.model import CannotLookError, Value
from agent.state import State, StateError

_START_FIELD = 22 - 3
"""Of those after the name in parentheses, https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""


class Beat(Value, frozen=True, kw_only=True):
    """One probe, as the watcher sees it. ``failures`` in a row, of which the last for ``reason``."""

    probe: str
    topic: str
    running: bool = False
    last: dt.datetime | None = None
    next: dt.datetime | None = None
    failures: int = 0
    reason: str = ""


class Pulse(Value, frozen=True, kw_only=True):
    """A watcher. ``refused`` is why a new configuration is not in force, ``problem`` why facts could not be kept."""

    version: str
    pid: int
    born: int
    started: dt.datetime
    refused: str = ""
    problem: str = ""
    beats: tuple[Beat, ...] = ()


class Watcher(Value, frozen=True, kw_only=True):
    """Whether there is a watcher, and what it said last, also one that is gone without having said goodbye."""

    running: bool
    pulse: Pulse | None = None


def load(state: State) -> Pulse | None:
    """What the watcher said last; None where there is none, or it stopped in peace.

    Raises:
        StateError: it cannot be read.
    """
    text = state.read(state.pulse, limit=1 << 20)
    try:
        return msgspec.json.decode(text, type=Pulse) if text else None
    except (msgspec.MsgspecError, ValueError):
        return None  # of another version; the watcher of this one says it anew


def watcher(state: State) -> Watcher:
    """The watcher of this state, as far as it can be seen."""
    try:
        pulse = load(state)
    except StateError:
        return Watcher(running=False)
    return Watcher(running=pulse is not None and is_alive(pulse), pulse=pulse)


def is_alive(pulse: Pulse) -> bool:
    """Whether the process that said it still runs; another one may have its number by now, but not its birth."""
    return born(pulse.pid) == pulse.born


def born(pid: int) -> int:
    """When a process began, in clock ticks since the machine did; -1 where there is none."""
    try:
        return int(Host().line(f"/proc/{pid}/stat").rpartition(")")[2].split()[_START_FIELD])
    except CannotLookError:
        return -1


def backing_off(beats: Iterable[Beat]) -> tuple[Beat, ...]:
    """Those that failed."""
    return tuple(beat for beat in beats if beat.failures)
