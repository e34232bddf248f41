"""What looks at Python and conda environments remember of a machine, as long as this process runs.

The whole machine is walked once a day; in between, only the places that are known are looked at, and of these only
those that changed are read. Nothing of it is written down: a process that has just started, as ``dlvmguard scan``
has, knows nothing and walks, so that whoever asks gets what is there; the watcher, which goes on, is who remembers.
What a walk finds serves every probe that needs it.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from agent.config import PythonSection
from agent.facts.python_places import Places, revisit, search
from agent.host import Host
from agent.model import Value

T = TypeVar("T")

_DAY, _HOUR = 24 * 3600.0, 3600.0
_SETTLED = 600 * 1_000_000_000
"""Nanoseconds for which what changed is read again each time: pip makes the directory of a package's metadata first and
writes who installed it last, when it has compiled everything, and nothing tells from outside that it is done."""


class Walk(Value, frozen=True, kw_only=True):
    """What a walk found, under which settings, at what time, and until when on the kernel's clock that is enough."""

    places: Places
    settings: PythonSection
    at: dt.datetime
    due: float


class Memory:
    """What is known of one machine, or of one tree of files."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._walk: Walk | None = None
        self._read: dict[tuple[str, ...], tuple[tuple[tuple[int, ...], ...], Any]] = {}

    def walk(self, host: Host, settings: PythonSection) -> Walk:
        """Where environments are: by a walk if one is due, else those of the last one that are still there."""
        now = _now()
        if self._walk and self._walk.settings == settings and now < self._walk.due:
            return msgspec.structs.replace(self._walk, places=revisit(host, self._walk.places, settings.roots))
        self._walk = None  # a walk that is interrupted is none
        self._read.clear()  # what was written in place is noticed once a day
        places = search(host, settings.roots, limit=settings.directories, seconds=settings.seconds)
        at = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
        self._walk = Walk(places=places, settings=settings, at=at, due=now + (_DAY if places.complete else _HOUR))
        return self._walk

    def read(self, host: Host, paths: tuple[str, ...], look: Callable[[], T], *, is_whole: Callable[[T], bool]) -> T:
        """What ``look`` returns, or returned when these paths were last seen to be as they are now.

        What is not whole is looked at again, for what was missing may come without a change to these paths.
        """
        signatures = tuple(map(host.signature, paths))
        before, known = self._read.pop(paths, ((), None))
        if all(signatures) and before == signatures:
            seen: T = known
        else:
            seen = look()
        if all(map(_is_settled, signatures)) and is_whole(seen):
            self._read[paths] = (signatures, seen)
        return seen


_MEMORIES: WeakKeyDictionary[Host, Memory] = WeakKeyDictionary()


def of(host: Host) -> Memory:
    """What is remembered of this machine."""
    return _MEMORIES.setdefault(host, Memory())


def _now() -> float:
    """Seconds that go on while the machine sleeps, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_settled(signature: tuple[int, ...]) -> bool:
    """Whether it changed long enough ago; the second part is the time of the change, which users cannot set."""
    return bool(signature) and signature[1] + _SETTLED < time.time_ns()
