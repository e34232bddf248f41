"""What a published advisory database consists of, and who vouches for it.

A bucket holds ``manifest.json``, its signature ``manifest.json.sig``, and the shards, which the manifest names by
their content. So the one signature covers everything, whoever may write to the bucket or to the network in between.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Meta

from agent.advisories.installed import Digest, Name, NotTakenError
from agent.model import Value

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
LIMIT = 1 << 20
"""Bytes of a manifest; one with ten shards has four thousand."""
SIGNATURE_LIMIT = 1 << 10
SHARD_LIMIT = 1 << 29  # bytes; the largest today, of one distribution, has some ten million
_SIGNATURE = re.compile(rb"([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)\n")

Size = Annotated[int, Meta(ge=1, le=SHARD_LIMIT)]
Time = Annotated[dt.datetime, Meta(tz=True)]


class KeyFileError(Exception):
    """A private key cannot be used; the text quotes nothing of it."""


class ManifestShard(Value, frozen=True, kw_only=True):
    """One shard: ``sha256`` and ``size`` are those of the plain file, ``compressed`` the size of what is fetched."""

    name: Name
    ecosystems: Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(min_length=1, max_length=100)]
    sha256: Digest
    size: Size
    compressed: Size
    records: Annotated[int, Meta(ge=0)]

    @property
    def file(self) -> str:
        """Where it lies in the bucket."""
        return f"shards/{self.sha256}.sqlite.xz"


class Manifest(Value, frozen=True, kw_only=True):
    """A whole database as of ``built``. A later one has a higher serial; after ``expires`` it is not taken any more."""

    format: int
    serial: Annotated[int, Meta(ge=1, le=2**53)]
    built: Time
    expires: Time
    shards: Annotated[tuple[ManifestShard, ...], Meta(min_length=1, max_length=200)]


class _Format(Value, frozen=True, kw_only=True):
    format: int


def believed(content: bytes, signature: bytes, keys: Iterable[str]) -> Manifest:
    """The manifest, if one of the keys signed it. Nothing of it is looked at before that is known.

    Raises:
        NotTakenError: nobody known signed it, or it is not of this format.
    """
    _verify(content, signature, {key_id(base64.b64decode(key)): base64.b64decode(key) for key in keys})
    try:
        version = msgspec.json.decode(content, type=_Format).format
        if version != FORMAT:
            raise NotTakenError(
                f"the manifest has format {version}, and this dlvmguard knows {FORMAT}; update dlvmguard"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise NotTakenError(f"the manifest is signed and yet not well-formed: {error}") from error
    if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
        raise NotTakenError("the manifest is signed and yet names a shard twice")
    return manifest


def _verify(content: bytes, signature: bytes, keys: Mapping[str, bytes]) -> None:
    match = _SIGNATURE.fullmatch(signature)
    if not match:
        raise NotTakenError(f"{SIGNATURE} is not a signature")
    name = match[1].decode()
    if name not in keys:
        raise NotTakenError(f"the manifest is signed by the unknown key {name}; known: {', '.join(sorted(keys))}")
    try:
        Ed25519PublicKey.from_public_bytes(keys[name]).verify(base64.b64decode(match[2]), content)
    except InvalidSignature as error:
        raise NotTakenError(
            f"the signature by the key {name} does not fit the manifest: it was tampered with or is just being replaced"
        ) from error


def encoded(manifest: Manifest) -> bytes:
    """The manifest as it is published."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def signed(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature file of a manifest: whose, and the signature in base64."""
    name = key_id(key.public_key().public_bytes_raw())
    return f"{name} {base64.b64encode(key.sign(content)).decode()}\n".encode()


def key_id(public: bytes) -> str:
    """What a public key is called."""
    return hashlib.sha256(public).hexdigest()[:16]


def public_key(key: Ed25519PrivateKey) -> str:
    """The public half as the configuration takes it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """A private key from its file, of which nothing is ever quoted.

    Raises:
        KeyFileError: it is not an unencrypted Ed25519 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            "the key is not an unencrypted Ed25519 private key in PEM; "
            "one is made with: openssl genpkey -algorithm ed25519 -out key.pem"
        )
    return key
