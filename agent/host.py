"""The one door to the machine being looked at: read, list, stat and run, always with limits.

Nothing else opens files or starts programs there (the linter holds that). Everything that comes through is
hostile: a path may be a FIFO, a link out of the tree, a terabyte, or vanish between two calls. Every failure is a
``CannotLookError`` with the path and the reason, ``AbsentError`` where the thing is simply not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO

from agent.model import AbsentError, CannotLookError, Value

MEBIBYTE = 1 << 20
KERNEL_LOG = "/dev/kmsg"
KERNEL_RECORD = 8192 + 1024
"""A record is longer than the buffer's limit only by its header: CONSOLE_EXT_LOG_MAX in
https://github.com/torvalds/linux/blob/v6.6/include/linux/printk.h"""
_KERNEL_LOG_DEVICE = os.makedev(1, 11)
"""https://www.kernel.org/doc/Documentation/admin-guide/devices.txt; containers put /dev/null or a console there."""
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENXIO}
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class Entry(Value, frozen=True, kw_only=True):
    """One name in a directory. ``kind`` is file, directory, link or other (FIFO, socket, device)."""

    name: str
    path: str
    kind: str


class Answer(Value, frozen=True, kw_only=True):
    """What a program said."""

    status: int
    output: bytes
    errors: bytes


class Parts:
    """An open file of which any part can be read. ``size`` is that at the time it was opened."""

    def __init__(self, descriptor: int, path: str) -> None:
        """Keep the descriptor, which stays the caller's; ``path`` is for the errors."""
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes; where there are fewer, the file was cut meanwhile or says what is not so: an error."""
        try:
            content = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise cannot(self.path, error) from error
        if len(content) < length:
            raise CannotLookError(f"{shown(self.path)} ends before byte {offset + length}")
        return content


class Host:
    """A machine, seen from its root directory. Tests give another root: a captured or generated tree."""

    def __init__(self, root: str = "/", *, progress: Callable[[str], None] = lambda _text: None) -> None:
        """See the machine under ``root``; ``progress`` hears what a look that takes long is doing."""
        self.root = root.rstrip("/")
        self.progress = progress

    @property
    def is_live(self) -> bool:
        """Whether this is the running machine and not a tree of files."""
        return not self.root

    def place(self, path: str) -> str:
        """The path as the operating system knows it, for the readers that need it themselves."""
        return f"{self.root}{path}" if self.root else path

    def read(self, path: str, *, limit: int = MEBIBYTE, follow: bool = True) -> bytes:
        """The content of a regular file of at most ``limit`` bytes; a longer one is an error, not a short answer.

        ``follow=False`` refuses a symbolic link, for places where a user may put one.
        """
        content = self.read_start(path, limit=limit + 1, follow=follow)
        if len(content) > limit:
            raise CannotLookError(f"{shown(path)} is larger than {limit} bytes")
        return content

    def read_start(self, path: str, *, limit: int, follow: bool = True) -> bytes:
        """At most the first ``limit`` bytes of a regular file."""
        try:
            with open(self._open(path, _READ, follow=follow), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise CannotLookError(f"{shown(path)} is not a regular file")
                return file.read(limit)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes]]:
        """A regular file for whoever goes about in it by themselves, as in a zip archive, and sees to the limits."""
        try:
            handle = self._open(path, _READ)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CannotLookError(f"{shown(path)} is not a regular file")
            yield file

    def stream(self, path: str, *, limit: int, block: int = MEBIBYTE) -> Iterator[bytes]:
        """A regular file in blocks, for files too large to hold; more than ``limit`` bytes is an error."""
        read = 0
        try:
            with open(self._open(path, _READ), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise CannotLookError(f"{shown(path)} is not a regular file")
                while piece := file.read(block):
                    read += len(piece)
                    if read > limit:
                        raise CannotLookError(f"{shown(path)} is larger than {limit} bytes")
                    yield piece
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    @contextlib.contextmanager
    def parts(self, path: str) -> Iterator[Parts]:
        """A regular file while it is open, for files of which some parts are needed and not the whole."""
        try:
            descriptor = self._open(path, _READ)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CannotLookError(f"{shown(path)} is not a regular file")
            yield Parts(descriptor, path)
        finally:
            os.close(descriptor)

    def text(self, path: str, *, limit: int = MEBIBYTE, follow: bool = True) -> str:
        """A text file; bytes that are not UTF-8 come as hexadecimal escapes, so that nothing is lost or raised."""
        return self.read(path, limit=limit, follow=follow).decode("utf-8", "backslashreplace")

    def line(self, path: str) -> str:
        """The one value of a small file, as in /proc and /sys."""
        return self.text(path, limit=65536).strip()

    def entries(self, path: str, *, limit: int = 100_000) -> list[Entry]:
        """The names in a directory, sorted; links are not followed. More than ``limit`` names is an error."""
        found: list[Entry] = []
        with self._folder(path) as folder, os.scandir(folder) as names:
            for name in names:
                if len(found) >= limit:
                    raise CannotLookError(f"{shown(path)} has more than {limit} entries")
                found.append(Entry(name=name.name, path=f"{path.rstrip('/')}/{name.name}", kind=_kind(name)))
        return sorted(found, key=lambda entry: entry.name)

    def directories(self, path: str, *, follow: bool = False, limit: int = 200_000) -> list[str]:
        """The names of the directories in a directory, sorted, links left out: what a walk needs, and no more.

        More than ``limit`` names of any kind is an error. ``follow`` allows the directory itself to be a link.
        """
        found: list[str] = []
        with self._folder(path, follow=follow) as folder:
            # A directory is linked from above, from itself and from each directory in it. File systems that do
            # not count so (btrfs, overlayfs) say 1; find relies on it too: https://man7.org/linux/man-pages/man1/find.1.html
            if os.fstat(folder).st_nlink == 2:  # noqa: PLR2004 -- from above and from itself: none in it
                return found
            with os.scandir(folder) as names:
                for count, name in enumerate(names):
                    if count >= limit:
                        raise CannotLookError(f"{shown(path)} has more than {limit} entries")
                    if name.is_dir(follow_symlinks=False):
                        found.append(name.name)
        return sorted(found)

    @contextlib.contextmanager
    def _folder(self, path: str, *, follow: bool = True) -> Iterator[int]:
        """A directory while somebody looks into it; whatever fails meanwhile is said of its path."""
        try:
            folder = self._open(path, os.O_RDONLY | os.O_DIRECTORY, follow=follow)
            try:
                yield folder
            finally:
                os.close(folder)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    def _open(self, path: str, flags: int, *, follow: bool = True) -> int:
        """Everything above that opens a path does it here, so that another door may open it in another way."""
        return os.open(self.place(path), flags | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Size, owner, mode and times."""
        try:
            return os.stat(self.place(path), follow_symlinks=follow)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    def signature(self, path: str) -> tuple[int, ...]:
        """What differs when a file was written or replaced; empty where it cannot be looked at. Never an error."""
        try:
            seen = self.stat(path, follow=False)
        except CannotLookError:
            return ()
        return (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_size)

    def exists(self, path: str) -> bool:
        """Whether something is there. A directory that may not be searched is an error, not a no."""
        try:
            self.stat(path, follow=False)
        except AbsentError:
            return False
        return True

    def link(self, path: str) -> str:
        """Where a symbolic link points, unresolved."""
        try:
            return os.readlink(self.place(path))
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error

    def resolve(self, path: str) -> str:
        """The same place with no symbolic link in its path. Links that lead out of the root are an error."""
        try:
            real = os.path.realpath(self.place(path), strict=True)
        except (OSError, ValueError) as error:
            raise cannot(path, error) from error
        base = os.path.realpath(self.root) if self.root else ""
        if not f"{real}/".startswith(f"{base}/"):
            raise CannotLookError(f"{shown(path)} leads out of {shown(self.root)}")
        return real[len(base) :] or "/"

    def kernel_log(self, *, limit: int) -> Iterator[bytes]:
        """The records that the kernel's log still holds, oldest first; newer ones are not waited for.

        In a tree of files they are the lines of a file. More than ``limit`` bytes is an error after what was read.
        """
        size = 0
        try:
            with open(self._open(KERNEL_LOG, _READ), "rb") as log:
                seen = os.fstat(log.fileno())
                is_device = self.is_live and stat.S_ISCHR(seen.st_mode) and seen.st_rdev == _KERNEL_LOG_DEVICE
                if not is_device and not stat.S_ISREG(seen.st_mode):
                    raise CannotLookError(f"{KERNEL_LOG} is not the kernel's log")
                while record := _kernel_record(log.fileno()) if is_device else log.readline(KERNEL_RECORD):
                    size += len(record)
                    if size > limit:
                        raise CannotLookError(f"{KERNEL_LOG} holds more than {limit} bytes")
                    yield record
        except OSError as error:
            raise cannot(KERNEL_LOG, error) from error

    def processes(self) -> list[int]:
        """The process ids in /proc, ascending."""
        return sorted(
            int(entry.name) for entry in self.entries("/proc") if entry.name.isascii() and entry.name.isdigit()
        )

    def descriptors(self, pid: int, thread: int = 0) -> Iterator[str]:
        """What each open file of a process is, as ``socket:[4711]``; those closed meanwhile are left out.

        A process whose first thread ended shows none; what it has open is then seen through another ``thread``.
        """
        place = f"/proc/{pid}/task/{thread}" if thread else f"/proc/{pid}"
        with self._folder(f"{place}/fd") as folder, os.scandir(folder) as names:
            for name in names:
                try:
                    target = os.readlink(name.name, dir_fd=folder)
                except FileNotFoundError:
                    continue
                yield target

    def run(self, command: Sequence[str], *, deadline: float, limit: int = MEBIBYTE, called: str = "") -> Answer:
        """Run a program by absolute path, without a shell or input, in a fixed environment and its own group.

        Past ``deadline`` seconds, or ``limit`` bytes of output, the whole group is killed and it is an error, which
        names the program as ``called``, or by its path.
        """
        output, errors = bytearray(), bytearray()
        with _started(command) as process:
            for pipe, piece in _pieces(process, name=called or shown(command[0]), deadline=deadline, limit=limit):
                (output if pipe is process.stdout else errors).extend(piece)
        return Answer(status=process.returncode, output=bytes(output), errors=bytes(errors[:4096]))

    def pour(self, command: Sequence[str], *, deadline: float, limit: int) -> Iterator[bytes]:
        """What a program prints, as it comes, for outputs too large to hold; started and limited as by ``run``.

        A program that fails is an error at the end of what it printed.
        """
        errors = bytearray()
        with _started(command) as process:
            for pipe, piece in _pieces(process, name=shown(command[0]), deadline=deadline, limit=limit):
                if pipe is process.stdout:
                    yield piece
                else:
                    errors.extend(piece)
        if process.returncode:
            said = shown(bytes(errors[:200]).strip())
            raise CannotLookError(f"{shown(command[0])} failed with status {process.returncode}: {said}")


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program while it runs; nothing of it is left after the block."""
    if not PurePosixPath(command[0]).is_absolute():
        raise ValueError(f"programs are started by absolute path, not {command[0]!r}")
    try:
        process = subprocess.Popen(  # noqa: S603 -- absolute path, no shell, fixed environment
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_ENVIRONMENT, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise cannot(command[0], error) from error
    try:
        yield process
    finally:
        _end(process)


def _pieces(
    process: subprocess.Popen[bytes], *, name: str, deadline: float, limit: int
) -> Iterator[tuple[IO[bytes], bytes]]:
    """What comes out of which pipe, until the program closes both and ends."""
    until = time.monotonic() + deadline
    late = CannotLookError(f"{name} gave no answer within {deadline:g} s")
    size = 0
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None  # noqa: S101 -- both were asked for; this tells the type checker
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready and time.monotonic() >= until:
                raise late
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                if not piece:
                    selector.unregister(key.fileobj)
                size += len(piece)
                if size > limit:
                    raise CannotLookError(f"{name} printed more than {limit} bytes")
                yield key.data, piece
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise late from None


def _kernel_record(log: int) -> bytes:
    """The next record of the open log, nothing at its end. Those that were overwritten meanwhile are passed over."""
    while True:
        with contextlib.suppress(BrokenPipeError):
            try:
                return os.read(log, KERNEL_RECORD)
            except BlockingIOError:
                return b""


def shown(name: str | bytes) -> str:
    """A name from the machine as text that is safe everywhere: valid UTF-8, printable, on one line.

    Bytes that are not UTF-8 and characters that do not print become hexadecimal escapes, a backslash becomes two,
    so that different names never look the same.
    """
    if isinstance(name, str) and name.isascii() and name.isprintable() and "\\" not in name:
        return name  # nearly every name there is, at a fifth of the cost
    raw = name if isinstance(name, bytes) else os.fsencode(name)
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown_character(character) for character in text)


def _shown_character(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 -- a byte that was not UTF-8, as surrogateescape carries it
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 -- the two escapes' ranges


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def cannot(path: str, error: OSError | ValueError) -> CannotLookError:
    """What the system says about a path, in words of ours."""
    if not isinstance(error, OSError):
        return CannotLookError(f"{shown(path)}: not a usable path")
    reason = f"{shown(path)}: {os.strerror(error.errno).lower() if error.errno else error}"
    if error.errno in _ABSENT:
        return AbsentError(reason)
    hint = "Run it as root to see this." if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid() else ""
    return CannotLookError(reason, hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the program behind, as far as the kernel lets it be killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process in an uninterruptible call cannot be killed; it is left to the kernel rather than waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()
