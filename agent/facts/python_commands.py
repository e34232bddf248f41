"""Which Python environments a process runs from, as its program and the start of its command line tell.

Command lines hold secrets. What is taken from them is compared with what is installed and kept only if it is that.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence

from agent.facts.mounts import barrier
from agent.facts.python import parse_venv
from agent.host import Host
from agent.model import CannotLookError, Value

_PYTHON = re.compile(r"(?:python|pypy)(?P<release>\d+(?:\.\d+)?)?t?")
_SYSTEM_PREFIXES = {"/usr", "/usr/local", "/", ""}
_SWALLOWING = {"--check-hash-based-pycs"}
_LINKS = 40
"""As many as the kernel follows: https://man7.org/linux/man-pages/man7/path_resolution.7.html"""


class Command(Value, frozen=True, kw_only=True):
    """What a Python was told to run: a module, a script, or neither."""

    module: str = ""
    script: str = ""


def parse_command(words: Sequence[str]) -> Command:
    """What the command line of a Python says to run, its own name first.

    https://docs.python.org/3/using/cmdline.html
    """
    rest = iter(words[1:])
    for word in rest:
        if word == "--":
            return Command(script=next(rest, ""))
        if not word.startswith("-") or word == "-":
            return Command(script=word)
        if word in _SWALLOWING:
            next(rest, "")
        elif not word.startswith("--"):
            flag, value = _last_option(word[1:])
            if flag == "c":
                return Command()
            if flag == "m":
                return Command(module=value or next(rest, ""))
            if flag and not value:
                next(rest, "")  # what -W or -X is to be
    return Command()


def _last_option(options: str) -> tuple[str, str]:
    """The first of several one-letter options that takes a value, and the value if it is joined to it."""
    place = next((place for place, option in enumerate(options) if option in "cmWX"), None)
    return ("", "") if place is None else (options[place], options[place + 1 :])


class Running(Value, frozen=True, kw_only=True):
    """What a process runs of Python: environments, and names of a program and a module that may come from them."""

    environments: tuple[str, ...] = ()
    program: str = ""
    module: str = ""


class Commands:
    """Tells what processes run, and remembers for one look where environments are."""

    def __init__(self, host: Host) -> None:
        """See the mounts as they are now."""
        self._host = host
        self._barrier = barrier(host)
        self.canonical: Callable[[str], str] = functools.cache(self._canonical)
        self._below = functools.cache(self._environments_below)

    def running(self, pid: int, executable: str) -> Running:
        """What the process runs, whose program is ``executable``.

        A virtual environment has no Python of its own, only a link, so that the name under which it was started
        counts before the program that it led to. A Python that was started by its bare name from an activated one
        looks as if started without: only the files that it has mapped then tell.
        """
        name = posixpath.basename(executable)
        python = _PYTHON.fullmatch(name)
        if not python:
            return self._program(executable)
        words = self._words(pid)
        started = self._placed(pid, words[0])
        if not _PYTHON.fullmatch(posixpath.basename(started)):
            started = ""
        release = python["release"] or ""
        own, home = _prefix(started), self._below(_prefix(executable), release)
        environments = self._below(own, release) or home
        if self._shares(own):
            environments += home
        command = parse_command(words)
        script = self._placed(pid, command.script)
        environments += self._below(_prefix(script), release)
        return Running(
            environments=tuple(sorted(set(environments))),
            program=posixpath.basename(script) if _prefix(script) else "",
            module=command.module.partition(".")[0],
        )

    def _program(self, executable: str) -> Running:
        """A program that is no Python may have been installed beside one, as ruff and node are."""
        prefix = _prefix(executable)
        if prefix in _SYSTEM_PREFIXES or not (environments := self._below(prefix, "")):
            return Running()
        return Running(environments=environments, program=posixpath.basename(executable))

    def _words(self, pid: int) -> Sequence[str]:
        """The start of the command line, which is whatever the process wrote there; never empty."""
        text = self._host.read_start(f"/proc/{pid}/cmdline", limit=4096)
        return [os.fsdecode(word) for word in text.split(b"\0")]

    def _placed(self, pid: int, name: str) -> str:
        """The absolute path of a name in a command line; empty for a bare name, which was searched for."""
        if "/" not in name or len(name) > 4096:  # noqa: PLR2004 -- PATH_MAX of linux/limits.h
            return ""
        if not name.startswith("/"):
            try:
                name = posixpath.join(self._host.link(f"/proc/{pid}/cwd"), name)
            except CannotLookError:
                return ""
        return posixpath.normpath(name)

    def _environments_below(self, prefix: str, release: str) -> tuple[str, ...]:
        """The directories of packages of the Python with this prefix, of all releases where none is given."""
        if not prefix:
            return ()
        prefixes = ("/usr", "/usr/local") if prefix == "/usr" else (self.canonical(prefix),)
        return tuple(path for each in prefixes if each for path in self._packages(each, release))

    def _packages(self, prefix: str, release: str) -> Iterator[str]:
        major = release.partition(".")[0]
        for library in (f"{prefix}/lib", f"{prefix}/lib64"):
            try:
                names = self._host.directories(library)
            except CannotLookError:
                continue  # not there, a link to the other, or nobody's but its owner's
            for name in names:
                python = _PYTHON.fullmatch(name)
                number = python["release"] if python else None
                if number and (not release or number == major or f"{number}.".startswith(f"{release}.")):
                    candidates = (f"{library}/{name}/{packages}" for packages in ("site-packages", "dist-packages"))
                    yield from filter(self._is_there, candidates)

    def _shares(self, prefix: str) -> bool:
        """Whether this is a virtual environment that also uses the packages of the Python that it was made from."""
        try:
            text = self._host.text(f"{self.canonical(prefix)}/pyvenv.cfg", limit=65536, follow=False)
        except CannotLookError:
            return False
        return parse_venv(text).get("include-system-site-packages", "").lower() == "true"

    def _is_there(self, path: str) -> bool:
        try:
            return self._host.exists(path)
        except CannotLookError:
            return False

    def _canonical(self, path: str) -> str:
        """The path without links, touching no file system that the search for environments leaves out; else empty."""
        left, done, links = path.split("/")[::-1], "", 0
        while left:
            name = left.pop()
            if name in {"", "."}:
                continue
            step = posixpath.dirname(done) if name == ".." else f"{done}/{name}"
            if self._barrier(step):
                return ""
            try:
                target = self._host.link(step) if name != ".." else ""
            except CannotLookError:
                target = ""  # no link
            if not target:
                done = "" if step == "/" else step
                continue
            links += 1
            if links > _LINKS:
                return ""
            done = "" if target.startswith("/") else done
            left += target.split("/")[::-1]
        return done


def _prefix(program: str) -> str:
    """Where the program is installed, if it is installed as programs are: below ``bin``."""
    folder, name = posixpath.split(program)
    above, last = posixpath.split(folder)
    return above if name and last == "bin" else ""
