"""Taking an advisory database from a file, for machines that no network reaches: verified as one from the network is.

The file is an archive of the bucket's layout, or a directory. Of an archive only the members that the layout knows
are looked at, and by their names alone; none is ever unpacked to where its name says.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from agent.advisories import installed, installing
from agent.advisories.installed import Installed, NotTakenError
from agent.advisories.installing import Offer
from agent.advisories.manifest import LIMIT, MANIFEST, SHARD_LIMIT, SIGNATURE, SIGNATURE_LIMIT
from agent.host import Host
from agent.state import State

_SQLITE = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html
_PIECE = 1 << 18
_MEMBERS = 1000
_KNOWN = re.compile(rf"{re.escape(MANIFEST)}|{re.escape(SIGNATURE)}|shards/[0-9a-f]{{64}}\.sqlite\.xz")

Read = Callable[[str, int], Iterator[bytes]]
"""Brings a file of the layout in pieces, and refuses one that is longer than the limit."""


class Parcel:
    """What is to be taken: a directory, an archive, or a single shard, which has no signature."""

    def __init__(self, host: Host, path: str, file: IO[bytes] | None) -> None:
        """A directory has no ``file``."""
        self.path = path
        self._host, self._file = host, file
        self.is_shard = file is not None and file.read(len(_SQLITE)) == _SQLITE

    @contextlib.contextmanager
    def layout(self) -> Iterator[Read]:
        """The files of the bucket's layout by their names."""
        if self._file is None:
            yield lambda name, limit: self._host.stream(f"{self.path}/{name}", limit=limit)
            return
        self._file.seek(0)
        try:
            # Not compressed, for its shards are; so it is never more than it seems.
            bounded: Any = _Bounded(self._file)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                members = dict(_members(archive))
                yield lambda name, limit: _member(archive, members.get(name), name, limit)
        # A header may hold what is no number where one should be, which tarfile leaves to others.
        except (tarfile.TarError, OSError, ValueError) as error:
            raise NotTakenError(f"it is not a tar archive of a published database: {error}") from error

    def pieces(self) -> Iterator[bytes]:
        """The whole file, from its beginning; a directory has none."""
        if self._file is None:
            return
        self._file.seek(0)
        size = 0
        while piece := self._file.read(_PIECE):
            size += len(piece)
            if size > SHARD_LIMIT:
                raise NotTakenError(f"it is larger than {SHARD_LIMIT} bytes")
            yield piece


@contextlib.contextmanager
def opened(host: Host, path: str) -> Iterator[Parcel]:
    """What lies at a path, open before it is known who may read it later.

    Raises:
        CannotLookError: it cannot be read.
    """
    if stat.S_ISDIR(host.stat(path).st_mode):
        yield Parcel(host, path, None)
        return
    with host.opened(path) as file:
        yield Parcel(host, path, file)


def take(
    state: State, parcel: Parcel, *, keys: tuple[str, ...], ecosystems: tuple[str, ...], now: dt.datetime
) -> Installed:
    """Put a published database in force.

    Raises:
        NotTakenError: it is not to be believed, or incomplete; what was in force stays so.
        StateError: it could not be written; what was in force stays so.
    """
    with state.alone(installed.directory(state)), parcel.layout() as read:
        before = installing.in_force(state)
        content = b"".join(read(MANIFEST, LIMIT))
        signature = b"".join(read(SIGNATURE, SIGNATURE_LIMIT))
        manifest, digest = installing.accepted(content, signature, keys=keys, before=before, now=now)
        return installing.install(
            state,
            before,
            Offer(manifest=manifest, digest=digest, origin="imported", source=parcel.path),
            ecosystems=ecosystems,
            pieces=lambda shard: read(shard.file, shard.compressed),
        )


def trust(state: State, parcel: Parcel) -> Installed:
    """Put a single shard in force that nobody signed, because whoever runs this says so.

    Raises:
        NotTakenError: it is no shard that this version can use; what was in force stays so.
        StateError: it could not be written; what was in force stays so.
    """
    with state.alone(installed.directory(state)):
        before = installing.in_force(state)
        installing.clear(state, {shard.sha256 for shard in before.shards})
        digest = hashlib.sha256()
        for piece in parcel.pieces():
            digest.update(piece)
        path = installing.store(state, digest.hexdigest(), parcel.pieces())
        return installing.add_unsigned(state, before, installing.describe(path).name, digest.hexdigest())


class _Bounded:
    """A file of which nobody reads much at once: a header of an archive may claim to have any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(size)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for count, member in enumerate(archive):
        if count >= _MEMBERS:
            raise NotTakenError(f"the archive has more than {_MEMBERS} members")
        name = member.name.removeprefix("./")
        if _KNOWN.fullmatch(name):
            if not member.isreg() or member.issparse():
                raise NotTakenError(f"{name} in the archive is not a regular file")
            yield name, member


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str, limit: int) -> Iterator[bytes]:
    content = archive.extractfile(member) if member else None
    if content is None or member is None:
        raise NotTakenError(f"the archive holds no {name}")
    if member.size > limit:
        raise NotTakenError(f"{name} in the archive is larger than {limit} bytes")
    while piece := content.read(_PIECE):
        yield piece
