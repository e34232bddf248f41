"""What was fetched or imported of the advisory database: which files are in force.

The shards lie in the state directory, each named by its content; ``current.json`` is replaced last and names those
in force. So whoever reads it first has a whole set at any time, also while a newer one arrives or after a kill.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.model import Value
from agent.state import State, StateError

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256."""
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}\Z")]
"""What a shard is called: ``pypi``, ``debian-12``."""
_LIMIT = 1 << 20


class NotTakenError(Exception):
    """A newer database could not be taken, and why; the one in force stays as it is."""


class DamagedError(StateError):
    """The file that names the set in force is damaged; the next refresh or import makes it anew."""


class InstalledShard(Value, frozen=True, kw_only=True):
    """One file of the database. ``file`` is its name in the directory; ``serial`` is 0 where nobody signed it."""

    name: Name
    file: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\.sqlite\Z")]
    sha256: Digest
    origin: Literal["refreshed", "imported", "imported, unsigned"]
    serial: int


class Installed(Value, frozen=True, kw_only=True):
    """The set in force.

    ``serial``, ``built`` and ``expires`` are those of the signed manifest that it came with, which ``manifest`` is the
    SHA-256 of; ``built`` says as of when the data is current, also where a shard did not change. ``source`` is the URL
    or the file, ``etag`` the version that the URL gave; ``ecosystems`` are those that shards were chosen for.
    """

    serial: int = 0
    built: dt.datetime | None = None
    expires: dt.datetime | None = None
    manifest: str = ""
    source: str = ""
    etag: str = ""
    ecosystems: tuple[str, ...] = ()
    shards: tuple[InstalledShard, ...] = ()


def read(state: State) -> Installed | None:
    """The set in force; None where nothing was ever fetched or imported.

    A file that it names may be gone a moment later, if two newer sets came in between: then read again.

    Raises:
        DamagedError: it is damaged.
        StateError: it cannot be read.
    """
    content = state.read(state.advisories, limit=_LIMIT)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Installed)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{state.advisories} is damaged ({error}); run: dlvmguard advisories refresh") from error


def path(state: State, shard: InstalledShard) -> str:
    """Where the file of a shard is."""
    return f"{directory(state)}/{shard.file}"


def directory(state: State) -> str:
    """Where the files are."""
    return state.advisories.rpartition("/")[0]
