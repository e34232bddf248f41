"""Which processes have a GPU open, and what else they have open, in one walk over the open files of all."""

from __future__ import annotations

import itertools
import re

from agent.facts.gpu_nodes import is_use
from agent.facts.mapped_files import DELETED
from agent.host import Host
from agent.host_inside import parse_mountinfo
from agent.model import AbsentError, CannotLookError, Value

_DESCRIPTORS = 500_000
"""At most so many open files are looked at in one walk, which is a second; any user may open as many."""
_OF_ONE = 20_000
"""A training process has some hundreds."""
_STAT_FIELDS = 20
_STATE, _PARENT, _THREADS, _STARTED = 0, 1, 17, 19
"""Of what follows the name in /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""
_TASKS = 64
"""So many threads of a process without its first one are asked."""
_ENDED = {"Z", "X", "x"}
_SOCKET = re.compile(r"socket:\[(\d{1,20})\]", re.ASCII)
_COVERED = re.compile(r"/proc/(\d{1,10})", re.ASCII)
_MOUNTS = 16 << 20


class Stat(Value, frozen=True, kw_only=True):
    """A process: its state, its parent, how many threads it has, and when it was started in ticks since the boot."""

    state: str
    parent: int
    threads: int
    started: int


class Holder(Value, frozen=True, kw_only=True):
    """A process that has a GPU open, with the device nodes, the inodes of its sockets, and its other files.

    ``place`` is its directory in /proc; where the first thread has ended, which leaves that empty, another thread's.
    """

    pid: int
    stat: Stat
    place: str
    nodes: frozenset[str]
    sockets: frozenset[int]
    files: frozenset[str]
    truncated: bool


class Found(Value, frozen=True, kw_only=True):
    """The holders by pid, the processes that ended but are still listed, and whether all could be looked into."""

    holders: tuple[Holder, ...]
    ending: tuple[int, ...]
    unreadable: bool
    truncated: bool


def parse_stat(text: str) -> Stat | None:
    """What a /proc/PID/stat tells; the name in it may hold anything, also parentheses."""
    fields = text.rpartition(")")[2].split()
    if len(fields) < _STAT_FIELDS:
        return None
    numbers = [fields[place] for place in (_PARENT, _THREADS, _STARTED)]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    parent, threads, started = map(int, numbers)
    return Stat(state=fields[_STATE], parent=parent, threads=threads, started=started)


def look_at(host: Host, pid: int) -> Stat:
    """The process as it is now.

    Raises:
        AbsentError: it ended.
    """
    stat = parse_stat(host.text(f"/proc/{pid}/stat", limit=65536))
    if stat is None:
        raise CannotLookError(f"/proc/{pid}/stat is not in the kernel's format")
    return stat


def find(host: Host) -> Found:
    """Walk over the open files of all processes."""
    holders, ending = list[Holder](), list[int]()
    pids = host.processes()
    unreadable = 1 not in pids  # hidepid: https://docs.kernel.org/filesystems/proc.html#mount-options
    left = _DESCRIPTORS
    for pid in pids:
        try:
            place, targets = _open_files(host, pid, min(left, _OF_ONE) + 1)
            left -= len(targets)
            if place is None:
                ending.append(pid)
            elif any(map(is_use, targets)):
                holders.append(_holder(pid, look_at(host, pid), place, targets))
        except AbsentError:
            continue  # it ended
        except CannotLookError:
            unreadable = True
        if left <= 0:
            break
    return Found(holders=tuple(holders), ending=tuple(ending), unreadable=unreadable, truncated=left <= 0)


def _open_files(host: Host, pid: int, limit: int) -> tuple[str | None, list[str]]:
    """Where the process can be looked at, and its open files; no place for one that ended.

    When the first thread of a process ends before the others, its directory looks like that of a process that ended:
    https://man7.org/linux/man-pages/man3/pthread_exit.3.html
    """
    targets = list(itertools.islice(host.descriptors(pid), limit))
    if targets:
        return f"/proc/{pid}", targets
    stat = look_at(host, pid)
    if stat.state not in _ENDED:
        return f"/proc/{pid}", []
    if stat.threads > 1:
        for name in host.directories(f"/proc/{pid}/task")[:_TASKS]:
            targets = list(itertools.islice(host.descriptors(pid, int(name)), limit)) if name.isdigit() else []
            if targets:
                return f"/proc/{pid}/task/{name}", targets
    return None, []


def _holder(pid: int, stat: Stat, place: str, targets: list[str]) -> Holder:
    different = set(targets)
    nodes = {target.removesuffix(DELETED) for target in different if is_use(target)}
    sockets = {int(match[1]) for target in different if (match := _SOCKET.fullmatch(target))}
    files = {target for target in different if target.startswith("/") and not target.startswith(("/dev/", "/proc/"))}
    return Holder(
        pid=pid, stat=stat, place=place, nodes=frozenset(nodes), sockets=frozenset(sockets), files=frozenset(files),
        truncated=len(targets) > _OF_ONE,
    )  # fmt: skip


def covered(host: Host) -> tuple[int, ...]:
    """The processes over whose directory in /proc something is mounted, which hides them from whoever looks there."""
    pids = set[int]()
    for place in ("/proc/self/mountinfo", "/proc/1/mountinfo"):
        try:
            mounts = parse_mountinfo(host.read(place, limit=_MOUNTS))
        except CannotLookError:
            continue  # of another, whom it is not ours to look into; what hides from us is among our own
        pids.update(int(match[1]) for mount in mounts if (match := _COVERED.fullmatch(mount.place)))
    return tuple(sorted(pids))
