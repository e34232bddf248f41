"""Lists and hashes model directories: the one place beside host.py that opens files of the machine.

It reads terabytes, in directories where users and training jobs write at will. So nothing is reached but through
an open directory, links are never followed, only regular files are opened, every reading is bounded, and a file
that changes while it is read has no digest rather than a wrong one.

A file whose size, times, inode and device are those of the last reading is not read again. This trusts the change
time (ctime): no program can set it, but whoever can set the clock, write to the raw disk, or keeps a writable
mapping of the file open can leave it as it was. Approving a directory always reads everything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec

from agent.host import shown
from agent.integrity.manifest import FileRecord, Manifest
from agent.model import AbsentError, CannotLookError, Value

ENTRIES = 200_000
"""Names listed in one model directory; a record takes about 400 bytes of memory."""
ENTRIES_PER_SCAN = 1_000_000
"""Names listed in all of them, which is some ten seconds of one core: users make directories as they like."""
DEPTH = 64
"""Levels listed, each of which holds a directory open; usual limits allow 1,024 open files."""
BUFFER = 2 << 20
"""Bytes read at once. On warm files 256 KiB to 8 MiB cost the same; large steps are what a cold disk likes, and what
the watcher's memory does not."""
_SAME_TIME_NS = 2_000_000_000
"""The coarsest time stamps in use: https://learn.microsoft.com/windows/win32/sysinfo/file-times (FAT, 2 s)."""
_UNSIGNED = (1 << 64) - 1
_SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Unread(Value, frozen=True, kw_only=True):
    """What could not be listed or read; ``path`` is relative, as shown, and empty for the directory as a whole.

    ``postponed`` is the number of bytes that wait for the next scan, where the budget is the only reason.
    """

    path: str
    reason: str
    hint: str = ""
    postponed: int = 0


class Waiting(NamedTuple):
    """A file to read: its path as the file system has it and as shown, its size, and what it holds on disk."""

    raw: str
    path: str
    size: int
    allocated: int


class Listing(NamedTuple):
    """Everything found in a directory: records by path, the files that must be read for a digest, what is amiss."""

    taken_ns: int
    records: dict[str, FileRecord]
    waiting: list[Waiting]
    unread: list[Unread]
    unseen: list[str]
    writable: list[str]
    names: int = 0

    def manifest(self, directory: str) -> Manifest:
        """What is known of these files now."""
        files = tuple(self.records[path] for path in sorted(self.records))
        return Manifest(directory=directory, taken_ns=self.taken_ns, files=files, unseen=tuple(self.unseen))


@contextlib.contextmanager
def opened(path: str, *, root: str = "") -> Iterator[int]:
    """A directory held open, reached without following a link below ``root``.

    Raises:
        CannotLookError: it may not be opened; AbsentError where there is no directory of this name.
    """
    try:
        handle = _descend(os.open(root or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), path)
    except OSError as error:
        kind = AbsentError if error.errno in {errno.ENOENT, errno.ENOTDIR} else CannotLookError
        raise kind(f"{shown(path)}: {_reason(error)}", _hint(error)) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _descend(handle: int, path: str) -> int:
    """Open a directory for listing, step by step from an open one, which is closed."""
    parts = [part for part in path.split("/") if part]
    for part, flags in [*((part, _SEARCH) for part in parts), (".", _LIST)]:
        try:
            below = os.open(part, flags, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def listing(top: int, known: Manifest | None = None, *, limit: int = ENTRIES_PER_SCAN) -> Listing:
    """Everything below an open directory, without reading or following anything.

    What is as it was in the ``known`` manifest keeps its record, digest included.
    """
    limit = min(limit, ENTRIES)
    found = Listing(time.time_ns(), records={}, waiting=[], unread=[], unseen=[], writable=[])
    read = _still_certain(known) if known else {}
    if _may_be_written(os.fstat(top).st_mode):
        found.writable.append(".")
    left = limit
    levels: list[_Level] = []
    try:
        try:
            levels.append(_Level(os.open(".", _LIST, dir_fd=top), "", []))
            left = _list(found, levels[-1], read, left)
        except OSError as error:
            _not_listed(found, "", _reason(error), _hint(error))
        while levels and left > 0:
            level = levels[-1]
            if not level.below:
                os.close(levels.pop().handle)
                continue
            name = level.below.pop()
            path = f"{level.prefix}{name}"
            if len(levels) >= DEPTH:
                _not_listed(found, path, f"more than {DEPTH} levels deep")
                continue
            try:
                levels.append(_Level(os.open(name, _LIST, dir_fd=level.handle), f"{path}/", []))
                left = _list(found, levels[-1], read, left)
            except FileNotFoundError:
                pass  # gone since the directory above was read
            except OSError as error:
                _not_listed(found, path, _reason(error), _hint(error))
    finally:
        for level in levels:
            os.close(level.handle)
    if left <= 0:
        found.unseen.append("")
        found.unread.append(Unread(path="", reason=f"only the first {limit} names were looked at"))
    found.waiting.sort(key=lambda each: each.path)
    return found._replace(names=limit - left)


class _Level(NamedTuple):
    """An open directory on the way down, its path with a slash, and the names in it still to be listed."""

    handle: int
    prefix: str
    below: list[str]


def _still_certain(known: Manifest) -> dict[str, FileRecord]:
    """The records of files read, by path.

    A file that changed in the same tick as that reading may have changed after it, so it does not count:
    https://www.kernel.org/pub/software/scm/git/docs/technical/racy-git.txt tells the story.
    """
    certain = known.taken_ns - _SAME_TIME_NS
    return {record.path: record for record in known.files if record.sha256 and record.ctime_ns < certain}


def _not_listed(found: Listing, path: str, reason: str, hint: str = "") -> None:
    found.unseen.append(shown(path))
    found.unread.append(Unread(path=shown(path), reason=reason, hint=hint))


def _list(found: Listing, level: _Level, read: dict[str, FileRecord], left: int) -> int:
    """Add the names of one open directory to what was found, at most ``left``; how many of those are left."""
    prefix = shown(level.prefix)
    with os.scandir(level.handle) as names:
        for entry in itertools.islice(names, left):
            left -= 1
            try:
                _add(found, level, prefix, entry, read)
            except OSError as error:
                if error.errno != errno.ENOENT:  # gone since the directory was read, as if it had never been
                    _not_listed(found, level.prefix + entry.name, _reason(error), _hint(error))
    level.below.sort(reverse=True)
    return left


def _add(found: Listing, level: _Level, prefix: str, entry: os.DirEntry[str], read: dict[str, FileRecord]) -> None:
    name, status = entry.name, entry.stat(follow_symlinks=False)
    mode, path = status.st_mode, prefix + shown(name)
    known = read.get(path)
    if stat.S_ISDIR(mode):
        level.below.append(name)
    elif known is not None and _is_unchanged(known, status):
        found.records[path] = known
    else:
        target = shown(os.readlink(name, dir_fd=level.handle)) if stat.S_ISLNK(mode) else ""
        found.records[path] = _record(path, status, target)
        if stat.S_ISREG(mode):
            found.waiting.append(Waiting(level.prefix + name, path, status.st_size, status.st_blocks * 512))
    if _may_be_written(mode):
        found.writable.append(path)


def _is_unchanged(known: FileRecord, status: os.stat_result) -> bool:
    return (
        known.ctime_ns == status.st_ctime_ns & _UNSIGNED
        and known.mtime_ns == status.st_mtime_ns & _UNSIGNED
        and known.inode == status.st_ino
        and known.size == status.st_size
        and known.device == status.st_dev
        and stat.S_IFREG | known.mode == status.st_mode
    )


def _may_be_written(mode: int) -> bool:
    """Whether any user may write it; in a sticky directory nobody may replace what is not theirs."""
    if not mode & stat.S_IWOTH or stat.S_ISLNK(mode):
        return False
    return not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX)


def _record(path: str, status: os.stat_result, target: str = "") -> FileRecord:
    return FileRecord(
        path=path,
        kind=_kind(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        size=status.st_size,
        # Some file systems keep years that do not fit in 64 bits of nanoseconds, and anyone can set them.
        mtime_ns=status.st_mtime_ns & _UNSIGNED,
        ctime_ns=status.st_ctime_ns & _UNSIGNED,
        inode=status.st_ino,
        device=status.st_dev,
        target=target,
    )


def _kind(mode: int) -> Literal["file", "link", "fifo", "socket", "device"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"


class Reader:
    """Hashes files with one buffer, within a budget of bytes; ``progress`` hears the bytes done and the path."""

    def __init__(self, *, budget: int | None = None, progress: Callable[[int, str], None] | None = None) -> None:
        """Allow ``budget`` bytes, or any number."""
        self.budget = budget
        self.done = 0
        self.progress = progress or (lambda _done, _path: None)
        self._buffer = bytearray()

    def affords(self, size: int, allocated: int) -> bool:
        """Whether a file may be read now.

        One that is larger than the whole budget would wait for ever, so it is read when nothing else was. A sparse
        one is not: it costs its owner no disk and us hours.
        """
        if self.budget is None or self.done + size <= self.budget:
            return True
        return 0 < self.budget < size and not self.done and allocated * 2 >= size

    def read_all(self, top: int, found: Listing) -> list[Unread]:
        """Give the files of a listing their digests. What is interrupted keeps those it has."""
        unread: list[Unread] = []
        for file in found.waiting:
            answer = self.read(top, file) if self.affords(file.size, file.allocated) else self._postponed(file)
            if isinstance(answer, Unread):
                unread.append(answer)
            else:
                found.records[file.path] = answer
        return unread

    def read(self, top: int, file: Waiting) -> FileRecord | Unread:
        """The record of a file with its digest. One that changes meanwhile is tried once more."""
        try:
            record = self._read(top, file) or self._read(top, file)
        except OSError as error:
            return Unread(path=file.path, reason=_reason(error), hint=_hint(error))
        return record or Unread(path=file.path, reason="changed while it was read")

    def _read(self, top: int, file: Waiting) -> FileRecord | None:
        handle = _open_file(top, file.raw)
        try:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                return None
            digest = self._hash(handle, before.st_size, file.path)
            after = os.fstat(handle)
        finally:
            os.close(handle)
        # The page cache is left as it is: dropping what we read would also drop what a training job had cached of
        # the same file, and which pages those are is not known here.
        record = _record(file.path, after)
        if digest is None or record != _record(file.path, before):
            return None
        return msgspec.structs.replace(record, sha256=digest)

    def _hash(self, handle: int, size: int, path: str) -> str | None:
        """The SHA-256 of exactly ``size`` bytes, or None where the file has more or fewer."""
        whole = hashlib.sha256()
        read = 0
        self._buffer = self._buffer or bytearray(BUFFER)  # most looks find nothing new to read
        with memoryview(self._buffer) as view:
            while count := os.readv(handle, [view]):
                read += count
                if read > size:  # it grows while we read, perhaps as fast as we do
                    return None
                whole.update(view[:count])
                self.done += count
                self.progress(self.done, path)
        return whole.hexdigest() if read == size else None

    def _postponed(self, file: Waiting) -> Unread:
        if self.budget and file.size > self.budget and file.allocated * 2 < file.size:
            return Unread(path=file.path, reason="mostly holes, and larger than one scan may read")
        return Unread(
            path=file.path, reason=f"{file.size} bytes not read yet; the next scan continues", postponed=file.size
        )


def _open_file(top: int, raw: str) -> int:
    """Open a file below an open directory, no part of its path through a link."""
    *directories, name = raw.split("/")
    handle = top
    try:
        for part in directories:
            below = os.open(part, _SEARCH, dir_fd=handle)
            if handle != top:
                os.close(handle)
            handle = below
        return os.open(name, _READ, dir_fd=handle)
    finally:
        if handle != top:
            os.close(handle)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _hint(error: OSError) -> str:
    return "Run it as root to see this." if isinstance(error, PermissionError) and os.geteuid() else ""
