"""The door to another root on this machine: that of a process in a container, which may be hostile.

A link in there must not lead out here, so no path is given to the kernel to resolve: each component is opened
below the descriptor of the one before, links are resolved below that root, and ``..`` steps back on our own stack.
And nothing in there may keep us waiting: only regular files and directories are opened, and nothing at all on a
file system that is remote, in user space or the kernel's own, whenever it was mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from agent.host import MEBIBYTE, Answer, Host, cannot, shown
from agent.model import AbsentError, CannotLookError, Value

_LINKS = 40
"""As many as the kernel follows: https://man7.org/linux/man-pages/man7/path_resolution.7.html"""
_DEPTH = 200
"""Deeper than any path that people have; each component in between holds a descriptor while a path is resolved."""
_KEPT = 32
"""Directories that stay open for what is looked at next, which is nearly always in one of them."""
_LOCAL = {"bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "squashfs", "tmpfs", "xfs", "zfs"}
"""The kernel itself answers for these, from memory or from a disk of this machine."""
_MOUNTS = 16 * MEBIBYTE
"""A hundred thousand mounts, the most that Linux allows one namespace: fs.mount-max."""
_START_FIELD = 19
"""Of what follows the name in /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""


class Mount(Value, frozen=True, kw_only=True):
    """A mount: the device and the directory on it that is seen, where, and the type of the file system."""

    id: int
    device: str
    source: str
    place: str
    kind: str


def parse_mountinfo(text: bytes) -> tuple[Mount, ...]:
    """The mounts of a process; lines of another form are passed over.

    Format: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    return tuple(mount for line in text.split(b"\n") if (mount := _mount(os.fsdecode(line))))


def _mount(line: str) -> Mount | None:
    left, dash, right = line.partition(" - ")
    fields = left.split(" ")
    if not dash or len(fields) < 6 or not (fields[0].isascii() and fields[0].isdigit()):  # noqa: PLR2004 -- all but tags
        return None
    number, _, device, source, place = fields[:5]
    return Mount(
        id=int(number), device=device, source=_plain(source), place=_plain(place), kind=right.partition(" ")[0]
    )


def _plain(place: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)


class Inside(Host):
    """What a process sees as ``/``, with the promises of ``Host``. To be closed; no program is started in there.

    The process may end at any moment and its number may become another's: ``is_same`` tells, and whoever has read
    asks it once more at the end. ``/proc/self/mounts`` is answered with the mounts of that process.
    """

    def __init__(self, outside: Host, pid: int) -> None:
        """Open the root of the process; ``outside`` is the machine that it runs on."""
        super().__init__(f"/proc/{pid}/root", progress=outside.progress)
        self._outside, self._pid = outside, pid
        self._folders: OrderedDict[str, int] = OrderedDict()
        self._started = _started(outside, pid)
        self._refused: Mapping[int, str] = {}
        self._has_our_users = _user_namespace(outside, pid) == _user_namespace(outside, "self")
        self._top = -1
        try:
            self._top = os.open(outside.place(self.root), os.O_PATH | os.O_CLOEXEC)
            self._allow(self._top)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise cannot(self.root, error) from error
            raise

    def close(self) -> None:
        """Let go of everything in there."""
        for folder in (*self._folders.values(), self._top):
            if folder >= 0:
                os.close(folder)
        self._folders.clear()
        self._top = -1

    @property
    def is_same(self) -> bool:
        """Whether the process still runs of which this is the root."""
        try:
            return _started(self._outside, self._pid) == self._started
        except AbsentError:
            return False

    def place(self, path: str) -> str:
        """There is no name for a path in there that the operating system would resolve in there."""
        raise CannotLookError(f"{shown(path)} is in a container and cannot be handed on by name")

    def read_start(self, path: str, *, limit: int, follow: bool = True) -> bytes:
        """At most the first ``limit`` bytes of a regular file."""
        if path == "/proc/self/mounts":
            return self._outside.read_start(f"/proc/{self._pid}/mounts", limit=limit)
        return super().read_start(path, limit=limit, follow=follow)

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Size, owner, mode and times."""
        with self._at(path, follow=follow) as there:
            return os.fstat(there)

    def link(self, path: str) -> str:
        """Where a symbolic link points, unresolved."""
        with self._at(path, follow=False) as there:
            if not stat.S_ISLNK(os.fstat(there).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return os.readlink("", dir_fd=there)

    def resolve(self, path: str) -> str:
        """The same place with no symbolic link in its path; no link leads out."""
        try:
            there, real = self._walk(path, follow=True)
            os.close(there)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error
        return real

    def run(self, command: Sequence[str], *, deadline: float, limit: int = MEBIBYTE, called: str = "") -> Answer:
        """No program of a container is started, and one of ours would answer for this machine."""
        del deadline, limit
        raise CannotLookError(f"{called or shown(command[0])} is not started for a container")

    def pour(self, command: Sequence[str], *, deadline: float, limit: int) -> Iterator[bytes]:
        """As ``run``."""
        del deadline, limit
        raise CannotLookError(f"{shown(command[0])} is not started for a container")

    def _open(self, path: str, flags: int, *, follow: bool = True) -> int:
        there = self._reach(path, follow=follow)
        try:
            mode = os.fstat(there).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CannotLookError(f"{shown(path)} is not a regular file")
            if stat.S_ISDIR(mode):
                return os.open(".", flags | os.O_CLOEXEC, dir_fd=there)
            return os.open(f"/proc/self/fd/{there}", flags | os.O_CLOEXEC)  # the very same, by no name of its own
        finally:
            os.close(there)

    @contextlib.contextmanager
    def _at(self, path: str, *, follow: bool) -> Iterator[int]:
        try:
            there = self._reach(path, follow=follow)
            try:
                yield there
            finally:
                os.close(there)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    def _reach(self, path: str, *, follow: bool) -> int:
        """A descriptor of what is at the path, opened for nothing but to look at it or to go on from it."""
        above, _, name = path.rpartition("/")
        if name in {"", ".", ".."}:
            return self._walk(path, follow=follow)[0]
        if path.count("/") > _DEPTH:
            raise CannotLookError(f"{shown(path)} is more than {_DEPTH} directories deep")
        there = self._step(self._kept(above), name)
        if follow and stat.S_ISLNK(os.fstat(there).st_mode):
            os.close(there)
            return self._walk(path, follow=True)[0]
        return there

    def _kept(self, path: str) -> int:
        """A descriptor of a directory that stays open for a while."""
        folder = self._folders.pop(path, None)
        if folder is None:
            folder = self._reach(path, follow=True)
            if len(self._folders) >= _KEPT:
                os.close(self._folders.popitem(last=False)[1])
        self._folders[path] = folder
        return folder

    def _walk(self, path: str, *, follow: bool) -> tuple[int, str]:
        """Resolve a path from the root on, to a descriptor and a path without links."""
        ahead, names, links = _names(path), list[str](), 0
        way = [os.dup(self._top)]
        try:
            while ahead:
                name = ahead.pop()
                if name == "..":
                    _back(way, names, steps=1)
                    continue
                way.append(self._step(way[-1], name))
                names.append(name)
                if len(way) > _DEPTH:
                    raise CannotLookError(f"{shown(path)} is more than {_DEPTH} directories deep")
                if (ahead or follow) and stat.S_ISLNK(os.fstat(way[-1]).st_mode):
                    target = os.readlink("", dir_fd=way[-1])
                    _back(way, names, steps=len(names) if target.startswith("/") else 1)
                    ahead += _names(target)
                    links += 1
                    if links > _LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return way.pop(), f"/{'/'.join(names)}"
        finally:
            for folder in way:
                os.close(folder)

    def _step(self, folder: int, name: str) -> int:
        """One component further, where that is on a file system that cannot keep us waiting."""
        there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._allow(there)
        except BaseException:
            os.close(there)
            raise
        return there

    def _allow(self, there: int) -> None:
        """Refuse what lies on a mount that is not to be touched; nothing was asked of its file system so far."""
        number = _mount_id(there)
        if number not in self._refused:  # mounted since, or the first of all
            text = self._outside.read(f"/proc/{self._pid}/mountinfo", limit=_MOUNTS)
            self._refused = dict(self._judged(parse_mountinfo(text)))
        refused = self._refused.get(number, "a mount that its process does not see is not entered")
        if refused:
            raise CannotLookError(refused)

    def _judged(self, mounts: Sequence[Mount]) -> Iterator[tuple[int, str]]:
        """Each mount with the reason not to enter it, empty where there is none.

        Whoever is root in a user namespace of his own may mount an overlay on something that never answers; so
        there only those count that this machine mounted itself.
        """
        known = set[str]()
        if not self._has_our_users:
            known = {mount.device for mount in parse_mountinfo(self._outside.read("/proc/1/mountinfo", limit=_MOUNTS))}
        for mount in mounts:
            reason = f"{shown(mount.place)} is not entered: it is a mount of type {shown(mount.kind)}"
            if mount.kind == "overlay" and not self._has_our_users and mount.device not in known:
                yield mount.id, f"{reason} that an ordinary user made"
            else:
                yield mount.id, "" if mount.kind in _LOCAL else reason


def _names(path: str) -> list[str]:
    """The components of a path, the last one first."""
    if len(path) > 4096:  # noqa: PLR2004 -- PATH_MAX of Linux, https://man7.org/linux/man-pages/man3/realpath.3.html
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]


def _back(way: list[int], names: list[str], *, steps: int) -> None:
    """Go back up; above the root is the root."""
    for _ in range(min(steps, len(names))):
        os.close(way.pop())
        names.pop()


def _mount_id(descriptor: int) -> int:
    """The mount that a descriptor is on, which the kernel tells without a question to the file system.

    Format: https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html
    """
    told = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = os.read(told, 4096).partition(b"mnt_id:")[2].partition(b"\n")[0]
    finally:
        os.close(told)
    return int(number)


def _started(host: Host, pid: int) -> str:
    """When a process was started, which no other of that number has in common with it; one that ended is absent."""
    fields = host.line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) <= _START_FIELD or fields[0] in {"Z", "X"}:
        raise AbsentError(f"process {pid} ended")
    return fields[_START_FIELD]


def _user_namespace(host: Host, pid: int | str) -> str:
    """Who is root in it may mount."""
    return host.link(f"/proc/{pid}/ns/user")
