"""What single processes run: the environments they use, whether they hold a GPU, files that are gone from the disk."""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from agent.facts.mapped_files import DELETED, Mapped, parse_maps
from agent.facts.owners import parse_cgroup, parse_passwd
from agent.facts.python_commands import Commands
from agent.facts.python_origins import Trace
from agent.facts.python_places import LIBRARY
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Value

_MAPS_BYTES = 16 * MEBIBYTE
_ALL_MAPS_BYTES = 256 * MEBIBYTE
"""A process has 65,530 mappings at most by default, 8 MB of text; a training process with all of CUDA has 0.5 MB.

https://docs.kernel.org/admin-guide/sysctl/vm.html#max-map-count
"""
_FILES = 10_000
_DESCRIPTORS = 10_000
_BLOCK = 64 << 10

_GPU = re.compile(r"/dev/nvidia(\d+|-uvm)")
_PACKAGES = re.compile(r"(?P<environment>/.*?/(?:site|dist)-packages)/(?P<name>.+)", re.DOTALL)
_MOVED = re.compile(r"/.*/pip-uninstall-[^/]+/(?P<name>.+)", re.DOTALL)
_SYSTEM = ("/usr/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/bin/", "/sbin/", "/opt/")
"""Where programs and libraries of the system lie. Elsewhere programs delete by design what they have mapped."""
_OURS = "/opt/dlvmguard/"
"""Whoever replaces dlvmguard starts it anew: install.sh."""


class Observed(Value, frozen=True, kw_only=True):
    """What a process was seen to use: traces by environment, and executable files that are gone from the disk.

    ``truncated`` says that it has more mapped than was looked at.
    """

    environments: Mapping[str, frozenset[Trace]]
    holds_gpu: bool
    stale: frozenset[str]
    truncated: bool


class Holder(Value, frozen=True, kw_only=True, order=True):
    """Who runs something, as a person would restart it: a service by its unit, else a program and its user."""

    kind: Literal["init", "program", "service"]
    name: str
    user: str = ""


class Observer:
    """Looks at processes, for the time of one look at all of them."""

    def __init__(self, host: Host) -> None:
        """Remember which root is the machine's own."""
        self._host = host
        self._commands = Commands(host)
        self._root = self._identity("/")
        self._left = _ALL_MAPS_BYTES
        self._is_gone = functools.cache(self._gone)
        self._names = functools.cache(self._directories)
        self._users = functools.cache(self._passwd)

    def observe(self, pid: int) -> Observed | None:
        """What the process uses; None for a kernel thread, one that ended, and one with a root of its own.

        Raises:
            CannotLookError: it may not be looked at.
        """
        try:
            executable = self._host.link(f"/proc/{pid}/exe").removesuffix(DELETED)
            if self._identity(f"/proc/{pid}/root") != self._root:
                return None
            running = self._commands.running(pid, executable)
            mapped, is_truncated = self._files(pid)
        except AbsentError:
            return None
        files = [self._restored(each, running.environments) for each in mapped]
        named = {Trace(kind="program", name=running.program), Trace(kind="module", name=running.module)}
        named = {trace for trace in named if trace.name}
        used = {path: set(named) for path in running.environments}
        for environment, trace in self._traces(files):
            used.setdefault(environment, set()).add(trace)
        return Observed(
            environments={path: frozenset(traces) for path, traces in used.items()},
            holds_gpu=bool(used) and self._holds_gpu(pid, files),
            stale=frozenset(each.path for each in files if self._is_stale(each, used)),
            truncated=is_truncated,
        )

    def holder(self, pid: int) -> Holder:
        """Who runs the process.

        Raises:
            CannotLookError: it ended.
        """
        name = shown(self._host.read(f"/proc/{pid}/comm", limit=4096).removesuffix(b"\n"))
        unit = _service(self._host.text(f"/proc/{pid}/cgroup", limit=65536))
        if pid == 1 and name == "systemd":
            return Holder(kind="init", name=name)
        if unit:
            return Holder(kind="service", name=unit)
        uid = self._host.stat(f"/proc/{pid}").st_uid
        return Holder(kind="program", name=name, user=self._users().get(uid, str(uid)))

    def _identity(self, path: str) -> tuple[int, int]:
        """A service with mounts of its own still has this root; a container or chroot has another."""
        seen = self._host.stat(path)
        return seen.st_dev, seen.st_ino

    def _files(self, pid: int) -> tuple[list[Mapped], bool]:
        """The mapped files that tell something, and whether there are more."""
        limit = min(_MAPS_BYTES, self._left)
        size = 0

        def blocks() -> Iterator[bytes]:
            nonlocal size
            for block in self._host.stream(f"/proc/{pid}/maps", limit=limit + _BLOCK, block=_BLOCK):
                size += len(block)
                yield block
                if size >= limit:
                    return

        files = list(itertools.islice(parse_maps(blocks()), _FILES + 1))
        self._left -= size
        return files[:_FILES], size >= limit or len(files) > _FILES

    def _restored(self, file: Mapped, environments: Iterable[str]) -> Mapped:
        """The file under the name that it had before pip, to remove it, renamed its directory or moved it away.

        https://github.com/pypa/pip/blob/main/src/pip/_internal/req/req_uninstall.py
        """
        path = file.path
        if file.deleted and "/~" in path and "-packages/" in path:
            path = self._renamed_back(path)
        elif file.deleted and (match := _MOVED.fullmatch(path)):
            path = next(filter(self._is_there, (f"{each}/{match['name']}" for each in environments)), path)
        return file if path == file.path else msgspec.structs.replace(file, path=path)

    def _renamed_back(self, path: str) -> str:
        """``torch`` was made ``~orch``, and another ``torch`` may have come in its place."""
        steps = [""]
        for name in path.split("/")[1:]:
            alike = []
            if name.startswith("~"):
                alike = [each for each in self._names("/".join(steps)) if each[1:] == name[1:] and each != name]
            steps.append(alike[0] if len(alike) == 1 else name)
        return "/".join(steps)

    def _is_there(self, path: str) -> bool:
        return bool(self._inode(path))

    def _directories(self, path: str) -> list[str]:
        try:
            return self._host.directories(path) if self._commands.canonical(path) == path else []
        except CannotLookError:
            return []

    def _traces(self, files: Iterable[Mapped]) -> Iterator[tuple[str, Trace]]:
        """One file for each directory of the two outermost levels of each environment; packages are no finer."""
        first: dict[tuple[str, ...], str] = {}
        for file in files:
            match = _PACKAGES.fullmatch(file.path)
            if match:
                place = (match["environment"], *match["name"].split("/")[:2])
                first[place] = min(first.get(place, match["name"]), match["name"])
        for (environment, *_), name in first.items():
            if self._commands.canonical(environment) == environment:
                yield environment, Trace(kind="file", name=name)

    def _holds_gpu(self, pid: int, files: Iterable[Mapped]) -> bool:
        if any(_GPU.fullmatch(each.path) for each in files):
            return True
        try:
            return any(map(_GPU.fullmatch, itertools.islice(self._host.descriptors(pid), _DESCRIPTORS)))
        except CannotLookError:
            return False  # it ended: what it has mapped could be looked at

    def _is_stale(self, file: Mapped, environments: Iterable[str]) -> bool:
        """Whether this is code of the system or an environment that is gone from the disk."""
        if not (file.deleted and file.executable) or file.path.startswith(_OURS):
            return False
        places = (*_SYSTEM, *(f"{prefix}/{name}/" for prefix in _prefixes(environments) for name in ("bin", "lib")))
        is_code = file.path.startswith(places) or _PACKAGES.fullmatch(file.path) is not None
        return is_code and self._is_gone(file)

    def _gone(self, file: Mapped) -> bool:
        """Whether the path leads to another file or none.

        The kernel also says "deleted" of files that a file system merely forgot, and a name may end so.
        """
        folder, name = posixpath.split(file.path)
        place = self._commands.canonical(folder)
        if not place:
            return False  # on a remote file system, where the word means little
        return file.inode not in map(self._inode, (f"{place}/{name}", f"{place}/{name}{DELETED}"))

    def _inode(self, path: str) -> int:
        try:
            return self._host.stat(path, follow=False).st_ino
        except CannotLookError:
            return 0

    def _passwd(self) -> Mapping[int, str]:
        try:
            return parse_passwd(self._host.read("/etc/passwd"))
        except CannotLookError:
            return {}


def _prefixes(environments: Iterable[str]) -> Iterator[str]:
    for path in environments:
        library = posixpath.dirname(path)
        if LIBRARY.search(library):
            yield posixpath.dirname(posixpath.dirname(library))


def _service(groups: str) -> str:
    """The system's service that a process belongs to; empty for those of users' sessions and of none."""
    paths = (line.split(":", 2)[-1] for line in groups.splitlines())
    if any(path.startswith("/user.slice/") for path in paths):
        return ""
    unit = parse_cgroup(groups).unit
    return unit if unit.endswith(".service") else ""
