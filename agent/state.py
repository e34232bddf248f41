"""The one door to our own files: where the state lives, who may read it, and how it is replaced.

``collected/`` is written by the side that looks at the machine (root, when installed), ``ledger/`` and
``advisories/`` by the side that judges and ships; neither opens what the other may write, except that the latter
reads the former's snapshot.
Root is refused every file in a directory of somebody else's, and becomes that one for good to go there.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

SYSTEM_DIRECTORY = "/var/lib/dlvmguard"
GROUP = "dlvmguard"
"""Whoever is in it may read the state; made by the installer."""
USER = "dlvmguard"
"""Who judges and ships on an installed machine; made by the installer."""
_PULSE = "/run/dlvmguard/watch.json"
_ABANDONED_SECONDS = 3600.0
_PIECE = 1 << 18


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
    def network(self) -> str:
        """What was seen through the network last, as JSON."""
        return f"{self.directory}/ledger/network.json"

    @property
    def pulse(self) -> str:
        """What the watcher says of itself; that of an installed agent is forgotten with a reboot."""
        return _PULSE if self.directory == SYSTEM_DIRECTORY else f"{self.directory}/watch.json"

    @property
    def ledger(self) -> str:
        """The event table."""
        return f"{self.directory}/ledger/ledger.sqlite"

    @property
    def advisories(self) -> str:
        """Which shards of the advisory database are in force, as JSON; they lie beside it."""
        return f"{self.directory}/advisories/current.json"

    def read(self, path: str, *, limit: int = 1 << 30) -> bytes | None:
        """One of our files, or None where it is not there yet."""
        self.keep_out(path)
        try:
            with _opened(path) as file:
                return file.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.refused(path, error) from error

    def stream(self, path: str) -> Iterator[bytes]:
        """One of our files in pieces, for those too large to hold; nothing where it is not there yet."""
        self.keep_out(path)
        try:
            with _opened(path) as file:
                while piece := file.read(_PIECE):
                    yield piece
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.refused(path, error) from error

    def signature(self, path: str) -> tuple[int, ...]:
        """What differs once a file of ours was replaced; empty where there is none."""
        try:
            seen = os.lstat(path)
        except OSError:
            return ()
        return (seen.st_mtime_ns, seen.st_ino, seen.st_size)

    def names(self, directory: str) -> list[str]:
        """The names in one of our directories, sorted; none where it is not there yet."""
        self.keep_out(f"{directory}/")
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self.refused(directory, error) from error

    def write(self, path: str, content: bytes) -> None:
        """Replace one of our files whole: readers see the old or the new, never half of one."""
        with self.replacing(path) as file:
            file.write(content)

    @contextlib.contextmanager
    def replacing(self, path: str) -> Iterator[BinaryIO]:
        """As ``write``, for content that comes in pieces; whatever is raised meanwhile leaves the old file."""
        self.keep_out(path)
        self.prepare(os.path.dirname(path))
        try:
            with _replacing(path) as file:
                yield file
                self.share(file.fileno())
        except OSError as error:
            raise self.refused(path, error) from error

    @contextlib.contextmanager
    def alone(self, directory: str) -> Iterator[None]:
        """Hold one of our directories against others who would do this; the lock ends with the process.

        Raises:
            StateError: somebody else holds it.
        """
        self.keep_out(f"{directory}/")
        self.prepare(directory)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self.refused(directory, error) from error
        try:
            _lock(handle, directory)
            yield
        finally:
            os.close(handle)

    def publish(self, content: bytes) -> None:
        """Replace the pulse, which anybody may read and a crash may lose."""
        self.keep_out(self.pulse)
        try:
            if self.directory != SYSTEM_DIRECTORY:
                self.prepare(self.directory)
            os.makedirs(os.path.dirname(self.pulse), mode=0o755, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(self.pulse), prefix=".new-")
            with open(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                file.write(content)
            os.replace(temporary, self.pulse)
        except OSError as error:
            raise self.refused(self.pulse, error) from error

    def tidy(self, directory: str) -> None:
        """Remove what a kill in the middle of a write left in a directory, once nobody can be writing it any more."""
        for name in self.names(directory):
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                if name.startswith(".new-") and os.lstat(path).st_mtime < time.time() - _ABANDONED_SECONDS:
                    os.unlink(path)

    def remove(self, path: str) -> None:
        """Remove one of our files if it is there."""
        self.keep_out(path)
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise self.refused(path, error) from error

    def prepare(self, directory: str) -> None:
        """Make one of our directories and those above it, closed to others."""
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            below = os.path.relpath(directory, self.directory).split("/")
            for part in (os.path.join(self.directory, *below[:count]) for count in range(len(below) + 1)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, mode=0o700)
                self.share(part)
        except OSError as error:
            raise self.refused(directory, error) from error

    def share(self, target: int | str) -> None:
        """Let our group read what root made; with no such group it stays private, as does what a user made."""
        seen = os.stat(target)
        if seen.st_uid != os.geteuid():
            return
        mode = 0o750 if stat.S_ISDIR(seen.st_mode) else 0o640
        if os.geteuid() != 0:  # who may come here is for the directories to say
            if stat.S_ISREG(seen.st_mode):
                os.chmod(target, mode)
            return
        with contextlib.suppress(KeyError):
            group = grp.getgrnam(GROUP).gr_gid
            # The watcher's files have its group from the start, and it may not change whose a file is.
            if seen.st_gid != group:
                os.chown(target, -1, group)
            if stat.S_IMODE(seen.st_mode) != mode:
                os.chmod(target, mode)

    def keep_out(self, path: str) -> None:
        """Refuse root what others may write: whoever owns a directory can put anything in it.

        Raises:
            StateError: this process is root, and the state or the file's directory belongs to somebody else.
        """
        if os.geteuid() != 0:
            return
        for directory in (self.directory, os.path.dirname(path)):
            owner = _owner(directory)
            if owner and owner.st_uid:
                raise StateError(
                    f"{directory} belongs to {_name(owner.st_uid)}, so root does not open what is in it; "
                    f"run this as {_name(owner.st_uid)}, or choose another --state-dir"
                )

    def hand_over(self) -> None:
        """On an installed machine, make the ledger's directory for its user, as the installer does."""
        directory = os.path.dirname(self.ledger)
        if os.geteuid() != 0 or self.directory != SYSTEM_DIRECTORY or os.path.lexists(directory):
            return
        try:
            user = pwd.getpwnam(USER)
        except KeyError:
            return
        self.prepare(directory)
        os.chown(directory, user.pw_uid, user.pw_gid)

    def give_up_root(self) -> None:
        """As root, become for good whoever owns the ledger, if that is another one.

        Raises:
            StateError: root may not become that user here.
        """
        owner = _owner(os.path.dirname(self.ledger)) or _owner(self.directory)
        if os.geteuid() != 0 or owner is None or owner.st_uid == 0:
            return
        user, group = owner.st_uid, owner.st_gid
        with contextlib.suppress(KeyError):
            group = pwd.getpwuid(user).pw_gid
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
        except OSError as error:
            raise StateError(
                f"{self.ledger} belongs to {_name(user)}, whom root may not become here ({error.strerror})"
            ) from error

    def refused(self, path: str, error: OSError) -> StateError:
        """The error in words that say what to do."""
        text = f"{path}: {os.strerror(error.errno).lower() if error.errno else error}"
        if isinstance(error, PermissionError):
            text += f"; it is for root and the group {GROUP}: sudo usermod -aG {GROUP} $USER, or use --state-dir"
        return StateError(text)


def _owner(path: str) -> os.stat_result | None:
    """Whose a directory is; of a link, whoever made it, and only root's are followed."""
    try:
        seen = os.lstat(path)
        return os.stat(path) if stat.S_ISLNK(seen.st_mode) and not seen.st_uid else seen
    except OSError:
        return None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


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


def save(path: str, content: bytes) -> None:
    """Replace an output file whole, made for others to read: they see the old or the new, never half of one."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _replacing(path) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
    except OSError as error:
        raise StateError(f"{path}: {os.strerror(error.errno).lower() if error.errno else error}") from error


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
    except OSError as error:
        raise StateError(f"{path}: {os.strerror(error.errno).lower() if error.errno else error}") from error


def _lock(handle: int, path: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StateError(f"{path} is being written to by another process") from error


def _append(handle: int, path: str, content: bytes) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise StateError(f"{path} is not a regular file")
    _lock(handle, path)
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


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """A regular file, which is no link and for which nobody has to be waited."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise StateError(f"{path} is not a regular file")
        yield file


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of another once all of it is on disk, or is gone if anything is raised."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(os.path.dirname(path))


def _sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
