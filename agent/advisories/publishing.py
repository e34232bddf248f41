"""Publishing an advisory database: the shards packed, named by their content, and vouched for with one signature.

The same shards, serial and times give the same bytes, on every machine with the same liblzma.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import lzma
import stat

from agent.advisories.installing import describe
from agent.advisories.manifest import (
    FORMAT,
    LIMIT,
    MANIFEST,
    SHARD_LIMIT,
    SIGNATURE,
    KeyFileError,
    Manifest,
    ManifestShard,
    encoded,
    private_key,
    public_key,
    signed,
)
from agent.host import Host
from agent.model import Value
from agent.state import save

_PRESET = 6  # unpacked with nine million bytes of memory, see installing.py


class Published(Value, frozen=True, kw_only=True):
    """What was published, and the public key that the configuration of its readers needs."""

    manifest: Manifest
    public_key: str


class NothingToPublishError(Exception):
    """There is no shard where one should be."""


def publish(
    host: Host,
    shards: str,
    bucket: str,
    *,
    key: str,
    serial: int | None,
    built: dt.datetime,
    lasts: dt.timedelta,
) -> Published:
    """Write the shards of a directory to another one in the layout of a bucket, the manifest last.

    Without a ``serial`` it is the time in seconds, so that the later one is the higher.

    Raises:
        NothingToPublishError: the directory holds no shard.
        KeyFileError: the key cannot be used, or others may read it.
        NotTakenError: a file is no shard.
        CannotLookError: a file cannot be read.
        StateError: one cannot be written.
    """
    private = private_key(_secret(host, key))
    paths = [entry.path for entry in host.entries(shards) if entry.name.endswith(".sqlite") and entry.kind == "file"]
    if not paths:
        raise NothingToPublishError(f"{shards} holds no *.sqlite; make them with: dlvmguard advisories build")
    manifest = Manifest(
        format=FORMAT,
        serial=serial or int(built.timestamp()),
        built=built,
        expires=built + lasts,
        shards=tuple(_packed(host, path, bucket) for path in paths),
    )
    content = encoded(manifest)
    save(f"{bucket}/{SIGNATURE}", signed(content, private))
    save(f"{bucket}/{MANIFEST}", content)
    return Published(manifest=manifest, public_key=public_key(private))


def _packed(host: Host, path: str, bucket: str) -> ManifestShard:
    """Pack a shard into the bucket; it is small enough to hold, and its name is known only when all was read."""
    shard, plain = describe(path), host.read(path, limit=SHARD_LIMIT)
    packed = lzma.compress(plain, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=_PRESET)
    entry = ManifestShard(
        name=shard.name,
        ecosystems=shard.ecosystems,
        sha256=hashlib.sha256(plain).hexdigest(),
        size=len(plain),
        compressed=len(packed),
        records=shard.records,
    )
    save(f"{bucket}/{entry.file}", packed)
    return entry


def _secret(host: Host, path: str) -> bytes:
    """The text of a private key, which nobody but its owner may read."""
    if stat.S_IMODE(host.stat(path).st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(f"others may read {path}; first: chmod 600 {path}")
    return host.read(path, limit=LIMIT)
