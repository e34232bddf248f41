"""What one process runs, looked at when it is new and seldom again: memory maps are long and change little."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from agent import knowledge
from agent.facts.gpu_holders import Holder
from agent.facts.mapped_files import DELETED
from agent.facts.python_commands import Commands
from agent.facts.told_by_process import Environment, Words, parse_environment, parse_words
from agent.facts.traces_of_work import Traces, frameworks_by_name, mapped
from agent.facts.workload import Program
from agent.host import Host, shown
from agent.knowledge import Misuse
from agent.model import CannotLookError, Value

_ENVIRON_BYTES = 256 << 10
_WORDS_BYTES = 64 << 10
_MEMFD = "/memfd:"
_PYTHON = re.compile(r"(?:.*/)?(?:python|pypy)[\d.]*t?", re.DOTALL)
_AGAIN_SECONDS, _SELDOM_SECONDS = 300.0, 3600.0
"""What has been looked at for long has settled: it is looked at again when its age has grown by half, within these."""


class Details(Value, frozen=True, kw_only=True):
    """What a process runs."""

    program: Program
    told: Environment = Environment()
    words: Words = Words()
    traces: Traces = Traces()
    environments: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


class _Remembered(Value, frozen=True, kw_only=True):
    executable: str
    code: int
    until: float
    details: Details


class Examiner:
    """Looks at processes, for the time of one look at all of them."""

    def __init__(self, host: Host, *, uptime: float) -> None:
        """``uptime`` is that of the machine, in seconds."""
        self._host, self._uptime = host, uptime
        self._commands = functools.cache(lambda: Commands(host))

    def details(self, holder: Holder, name: str, *, code: int, inside: bool) -> Details:
        """The details of a process with that name and so much ``code`` mapped (VmLib); ``inside`` a container or not.

        Raises:
            CannotLookError: it ended, or may not be looked into.
        """
        executable = self._host.link(f"{holder.place}/exe")
        known = _memory(self._host, holder.pid, holder.stat.started)
        if known and known[0].executable == executable and known[0].code == code and self._uptime < known[0].until:
            return known[0].details
        details = self._examined(holder, name, executable, inside=inside)
        wait = min(max(self._uptime - holder.stat.started / _TICKS, 0) / 2 + _AGAIN_SECONDS, _SELDOM_SECONDS)
        known[:] = [_Remembered(executable=executable, code=code, until=self._uptime + wait, details=details)]
        return details

    def _examined(self, holder: Holder, name: str, executable: str, *, inside: bool) -> Details:
        place = holder.place
        told = parse_environment(self._host.read_start(f"{place}/environ", limit=_ENVIRON_BYTES))
        words = _words(self._host, place)
        program = self._program(holder, executable, inside=inside)
        kept = Words()
        if _PYTHON.fullmatch(program.path):
            kept = parse_words(words, self._host.link(f"{place}/cwd"))
        traces = mapped(self._host, place)
        environments = set(traces.environments)
        if not inside:
            environments.update(self._commands().running(holder.pid, executable.removesuffix(DELETED)).environments)
        by_name = frameworks_by_name((program.path, kept.script), kept.module)
        return Details(
            program=Program(path=program.path, origin=program.origin, script=kept.script, module=kept.module),
            told=told,
            words=kept,
            traces=traces,
            environments=tuple(sorted(map(shown, environments))),
            frameworks=tuple(sorted(traces.frameworks | by_name)),
            named=named(name, executable, words),
        )

    def _program(self, holder: Holder, executable: str, *, inside: bool) -> Program:
        path = executable.removesuffix(DELETED)
        if path.startswith(_MEMFD):
            return Program(path=shown(path), origin="memory")
        if not executable.endswith(DELETED) or self._leads_to(holder, executable):
            return Program(path=shown(executable), origin="file")
        if inside or not self._is_there(path):
            return Program(path=shown(path), origin="deleted")
        return Program(path=shown(path), origin="replaced")

    def _leads_to(self, holder: Holder, path: str) -> bool:
        """Whether the name, which ends as the kernel ends those of deleted files, is that of the file that runs."""
        try:
            there, running = self._host.stat(path, follow=False), self._host.stat(f"{holder.place}/exe")
        except CannotLookError:
            return False
        return (there.st_dev, there.st_ino) == (running.st_dev, running.st_ino)

    def _is_there(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        place = self._commands().canonical(folder)
        try:
            return bool(place or not folder) and self._host.exists(f"{place}/{name}")
        except CannotLookError:
            return False


_TICKS = 100
"""A second has so many on every machine that Linux runs on today: https://man7.org/linux/man-pages/man7/time.7.html"""


@functools.lru_cache(maxsize=4096)
def _memory(_host: Host, _pid: int, _started: int) -> list[_Remembered]:
    """What was found out about a process when it was looked at last, or nothing."""
    return []


def _words(host: Host, place: str) -> Sequence[str]:
    text = host.read_start(f"{place}/cmdline", limit=_WORDS_BYTES)
    return [word.decode("utf-8", "surrogateescape") for word in text.split(b"\0")]


def named(name: str, executable: str, words: Sequence[str]) -> tuple[str, ...]:
    """The entries of the table of misuse that the names or the command line match; nothing of these is kept."""
    programs = {each.rpartition("/")[2].lower() for each in (name, executable.removesuffix(DELETED), words[0])}
    line = " ".join(words)
    return tuple(
        sorted(
            mark.id
            for mark in knowledge.load(Misuse).marks
            if any(program in mark.programs for program in programs)
            or any(_compiled(pattern).search(line) for pattern in mark.patterns)
        )
    )


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
