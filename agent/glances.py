"""Noticing that something happened: changed files, new listeners, lines of the kernel's log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from agent.config import Config
from agent.host import Host
from agent.kernel_log import KernelLog
from agent.model import Probe, attempt

_SHARE = 1 / 2000
_LONGEST_REST = 300.0
"""A glance may take this part of a core: one that costs more is taken less often, down to this many seconds."""


class Glances:
    """What was seen at the last glance of each probe."""

    def __init__(self, host: Host) -> None:
        """Begin with what the kernel logs from now on."""
        self._log = KernelLog(host)
        self._seen: dict[Callable[..., Hashable], Hashable] = {}
        self._next: dict[Callable[..., Hashable], float] = {}

    def provoked(self, probes: Iterable[Probe[Any]], host: Host, config: Config, now: float) -> set[str]:
        """The names of the probes whose glance is another one than before, or whom the kernel's log calls."""
        lines = self._log.lines()
        fresh = {
            glance: self._taken(glance, host, config, now) for glance in {each.glance for each in probes} if glance
        }
        called = {each.name for each in probes if each.glance and fresh[each.glance]}
        return called | {
            each.name for each in probes if each.kernel_log and any(re.search(each.kernel_log, line) for line in lines)
        }

    def _taken(self, glance: Callable[..., Hashable], host: Host, config: Config, now: float) -> bool:
        if now < self._next.get(glance, 0.0):
            return False
        start = time.thread_time()
        seen = attempt(lambda: glance(host, config), what="glance")
        self._next[glance] = now + min((time.thread_time() - start) / _SHARE, _LONGEST_REST)
        first, changed = glance not in self._seen, self._seen.get(glance) != seen
        self._seen[glance] = seen
        return changed and not first
