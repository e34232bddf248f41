"""The one door to our own files: where the state lives, who may read it, and how it is replaced.

``collected/`` is written by the side that looks at the machine (root, when installed), ``ledger/`` by the side
that judges and ships; neither opens what the other may write, except that the latter reads the former's snapshot.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import stat
import tempfile
from pathlib import Path

import msgspec

SYSTEM_DIRECTORY = "/var/lib/dlvmguard"
GROUP = "dlvmguard"
"""Whoever is in it may read the state; made by the installer."""


class StateError(Exception):
    """Our own state could not be read or written; the text names the path and what to do."""


class State(msgspec.Struct, frozen=True):
    """A state directory. Nothing is made until something is written."""

    directory: str

    @property
    def snapshot(self) -> str:
        """What was seen last, as JSON."""
        return f"{self.directory}/collected/facts.json"

    @property
    def models(self) -> str:
        """Manifests of model directories, seen and approved."""
        return f"{self.directory}/collected/models"

    @property
    def ledger(self) -> str:
        """The event table."""
        return f"{self.directory}/ledger/ledger.sqlite"

    def read(self, path: str, *, limit: int = 1 << 30) -> bytes | None:
        """One of our files, or None where it is not there yet."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StateError(f"{path} is not a regular file")
                return file.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.refused(path, error) from error

    def names(self, directory: str) -> list[str]:
        """The names in one of our directories, sorted; none where it is not there yet."""
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self.refused(directory, error) from error

    def write(self, path: str, content: bytes) -> None:
        """Replace one of our files whole: readers see the old or the new, never half of one."""
        self.prepare(os.path.dirname(path))
        try:
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
            try:
                with open(handle, "wb") as file:
                    file.write(content)
                    self.share(handle)
                    file.flush()
                    os.fsync(handle)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise self.refused(path, error) from error

    def remove(self, path: str) -> None:
        """Remove one of our files if it is there."""
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise self.refused(path, error) from error

    def prepare(self, directory: str) -> None:
        """Make one of our directories, closed to others."""
        try:
            for part in (self.directory, directory):
                if not os.path.isdir(part):
                    os.makedirs(part, mode=0o700)
                    self.share(part)
        except OSError as error:
            raise self.refused(directory, error) from error

    def share(self, target: int | str) -> None:
        """Let our group read what root made; with no such group, or as a user, it stays private."""
        if os.geteuid() != 0:
            return
        with contextlib.suppress(KeyError):
            group = grp.getgrnam(GROUP).gr_gid
            os.chown(target, -1, group)
            os.chmod(target, 0o750 if stat.S_ISDIR(os.stat(target).st_mode) else 0o640)

    def refused(self, path: str, error: OSError) -> StateError:
        """The error in words that say what to do."""
        text = f"{path}: {os.strerror(error.errno).lower() if error.errno else error}"
        if isinstance(error, PermissionError):
            text += f"; it is for root and the group {GROUP}: sudo usermod -aG {GROUP} $USER, or use --state-dir"
        return StateError(text)


def locate(chosen: str, *, writing: bool) -> State:
    """The state directory: the chosen one, else the system's, else the user's own.

    Root uses the system's. A user reads the system's where it exists and writes to their own
    (``$XDG_STATE_HOME/dlvmguard``, https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    if chosen:
        return State(os.path.abspath(os.path.expanduser(chosen)))
    if os.geteuid() == 0 or (not writing and os.path.isdir(SYSTEM_DIRECTORY)):
        return State(SYSTEM_DIRECTORY)
    base = os.environ.get("XDG_STATE_HOME", "")
    return State(os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), "dlvmguard"))


def append(path: str, content: bytes) -> None:
    """Add whole lines to an output file of ours; they are on disk on return, and none is there after an error.

    A link, a FIFO or a directory in its place is an error, and so is another process that is writing to it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o640)
        try:
            _append(handle, path, content)
        finally:
            os.close(handle)
    except BlockingIOError as error:
        raise StateError(f"{path} is being written to by another process") from error
    except OSError as error:
        raise StateError(f"{path}: {os.strerror(error.errno).lower() if error.errno else error}") from error


def _append(handle: int, path: str, content: bytes) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise StateError(f"{path} is not a regular file")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":  # a kill or a crash tore the last line
        content = b"\n" + content
    try:
        while content:  # once, but for a full disk: then the second write says why the first was short
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
    if not size:
        _sync_directory(os.path.dirname(path))


def _sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
