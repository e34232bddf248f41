"""Putting an advisory database in force: every shard is verified and complete before one small file names the new set.

Killed at any byte, or out of disk, the set that was in force stays so; what was completed meanwhile is used again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from agent.advisories import choosing, installed
from agent.advisories.advisory import Shard
from agent.advisories.installed import DamagedError, Installed, InstalledShard, NotTakenError
from agent.advisories.manifest import Manifest, ManifestShard, believed
from agent.advisories.shards import OpenShard, ShardError
from agent.model import Value
from agent.state import State

_PIECE = 1 << 20
_MEMORY = 48 << 20  # bytes for unpacking; what `xz -6` packs, as `advisories publish` does, needs nine million
_OURS = re.compile(r"[0-9a-f]{64}\.sqlite|\.new-.*")

Pieces = Callable[[ManifestShard], Iterator[bytes]]
"""Brings a shard as it is published."""


class Offer(Value, frozen=True, kw_only=True):
    """A database that somebody known published, not older than what is in force, and where it is."""

    manifest: Manifest
    digest: str
    origin: Literal["refreshed", "imported"]
    source: str
    etag: str = ""


def in_force(state: State) -> Installed:
    """What is in force; nothing where the file that says so is damaged, as it is to be made anew."""
    try:
        return installed.read(state) or Installed()
    except DamagedError:
        return Installed()


def is_whole(state: State, sha256: str) -> bool:
    """Whether a shard is there with every byte."""
    digest = hashlib.sha256()
    for piece in state.stream(_path(state, sha256)):
        digest.update(piece)
    return digest.hexdigest() == sha256


def accepted(
    content: bytes, signature: bytes, *, keys: Iterable[str], before: Installed, now: dt.datetime
) -> tuple[Manifest, str]:
    """A manifest that may take the place of what is in force, and its SHA-256.

    Raises:
        NotTakenError: it is not signed by a known key, older than what is in force, or expired.
    """
    manifest, digest = believed(content, signature, keys), hashlib.sha256(content).hexdigest()
    if manifest.serial < before.serial:
        raise NotTakenError(
            f"it is older (serial {manifest.serial}) than what is in force (serial {before.serial}); "
            "to go back on purpose, remove advisories/current.json in the state directory first"
        )
    if manifest.serial == before.serial and digest != before.manifest:
        raise NotTakenError(f"it is another one than what is in force, with the same serial {manifest.serial}")
    refuse_expired(manifest.expires, now)
    return manifest, digest


def refuse_expired(expires: dt.datetime | None, now: dt.datetime) -> None:
    """Take nothing that its publisher does not stand for any more: a server could hold back what is newer for ever."""
    if expires and expires <= now:
        raise NotTakenError(f"it expired at {expires.isoformat()}, and there is no newer one")


def install(state: State, before: Installed, offer: Offer, *, ecosystems: tuple[str, ...], pieces: Pieces) -> Installed:
    """Put the shards for these ecosystems in force, fetching those that are not here yet.

    What was imported unsigned stays, unless there is a signed shard of that name.

    Raises:
        NotTakenError: a shard is not what the manifest says, or this version cannot use it.
        StateError: it could not be written.
    """
    manifest = offer.manifest
    wanted = choosing.chosen(manifest.shards, ecosystems)
    clear(state, {shard.sha256 for shard in wanted} | {shard.sha256 for shard in before.shards})
    for shard in wanted:
        if not is_whole(state, shard.sha256):
            store(state, shard.sha256, _unpacked(pieces(shard), shard))
        if describe(_path(state, shard.sha256)).name != shard.name:
            raise NotTakenError(f"the shard {shard.name} calls itself by another name")
    names = {shard.name for shard in manifest.shards}
    signed = (_entry(shard.name, shard.sha256, offer.origin, manifest.serial) for shard in wanted)
    unsigned = (shard for shard in before.shards if not shard.serial and shard.name not in names)
    after = Installed(
        serial=manifest.serial,
        built=manifest.built,
        expires=manifest.expires,
        manifest=offer.digest,
        source=offer.source,
        etag=offer.etag,
        ecosystems=ecosystems,
        shards=(*signed, *unsigned),
    )
    put_in_force(state, after)
    return after


def add_unsigned(state: State, before: Installed, name: str, sha256: str) -> Installed:
    """Put a stored shard that nobody signed in force, in the place of the one of that name."""
    others = (shard for shard in before.shards if shard.name != name)
    # Without the version, the next refresh looks anew, and a signed shard of this name comes back.
    after = msgspec.structs.replace(
        before, etag="", shards=(*others, _entry(name, sha256, "imported, unsigned", serial=0))
    )
    put_in_force(state, after)
    return after


def store(state: State, sha256: str, pieces: Iterable[bytes]) -> str:
    """Write a shard under the name of its content; its path. Anything else than that content leaves nothing."""
    path, digest = _path(state, sha256), hashlib.sha256()
    with state.replacing(path) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != sha256:
            raise NotTakenError(f"the shard {sha256[:12]} has another content than was signed")
    return path


def describe(path: str) -> Shard:
    """What a shard says of itself.

    Raises:
        NotTakenError: it is none that this version can use.
    """
    try:
        with contextlib.closing(OpenShard(path)) as file:
            return file.shard
    except ShardError as error:
        raise NotTakenError(f"a shard cannot be used: {error}") from error


def clear(state: State, keep: set[str]) -> None:
    """Remove what earlier runs left, replaced or half done; nobody else writes here, for we hold the directory."""
    directory = installed.directory(state)
    for name in state.names(directory):
        if _OURS.fullmatch(name) and name.removesuffix(".sqlite") not in keep:
            state.remove(f"{directory}/{name}")


def put_in_force(state: State, after: Installed) -> None:
    """The one step after which readers see another set."""
    state.write(state.advisories, msgspec.json.format(msgspec.json.encode(after), indent=1) + b"\n")


def _unpacked(pieces: Iterator[bytes], shard: ManifestShard) -> Iterator[bytes]:
    """The plain content, which is never more than the manifest says, whatever it was packed to."""
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
    size = 0
    try:
        for piece in pieces:
            plain = unpacker.decompress(piece, _PIECE)
            while plain:
                size += len(plain)
                if size > shard.size:
                    raise NotTakenError(f"the shard {shard.name} unpacks to more than {shard.size} bytes")
                yield plain
                plain = b"" if unpacker.eof or unpacker.needs_input else unpacker.decompress(b"", _PIECE)
    except (lzma.LZMAError, EOFError) as error:
        raise NotTakenError(f"the shard {shard.name} is damaged: {error}") from error
    if not unpacker.eof:
        raise NotTakenError(f"the shard {shard.name} ends in the middle")


def _path(state: State, sha256: str) -> str:
    return f"{installed.directory(state)}/{sha256}.sqlite"


def _entry(
    name: str, sha256: str, origin: Literal["refreshed", "imported", "imported, unsigned"], serial: int
) -> InstalledShard:
    return InstalledShard(name=name, file=f"{sha256}.sqlite", sha256=sha256, origin=origin, serial=serial)
