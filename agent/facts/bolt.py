"""Reading a bbolt database, the one file in which containerd keeps what it knows, while its owner writes it.

A tree of pages: pages 0 and 1 describe it, alternately the newer one, each with a checksum; a branch page names the
pages below it, a leaf page holds keys with their values, of which some are buckets, trees of their own. A page that
is reachable is never overwritten before the next transaction but one begins.

Format: https://github.com/etcd-io/bbolt/blob/main/internal/common/page.go (and meta.go, bucket.go beside it)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from agent.model import CannotLookError, Value

_MAGIC, _VERSION = 0xED0CDAED, 2
_PAGE = struct.Struct("<QHHI")
"""Of a page: its number, flags, how many elements it has, by how many pages it is longer than one."""
_META = struct.Struct("<IIIIQQQQQQ")
"""Of a description: magic, version, page size, flags, root page, sequence, free list, end, transaction, checksum."""
_BRANCH = struct.Struct("<IIQ")
"""Of an element of a branch: where its key is, how long it is, and which page is below."""
_LEAF = struct.Struct("<IIII")
"""Of an element of a leaf: flags, where its key is, how long key and value are."""
_BUCKET = struct.Struct("<QQ")
"""Of the value that is a bucket: its root page, or 0 if the page itself follows, and its sequence."""
_IS_BRANCH, _IS_LEAF, _IS_META = 1, 2, 4
_SIZES = {1 << bits for bits in range(9, 17)}
"""Pages are those of the operating system that made the file, of 4 to 64 kB; tests make smaller ones."""
_TURNS = 8
"""Nobody has to read a file more often than so. A page that leads back to itself would be read without end."""


class BoltError(CannotLookError):
    """The file is no such database, or damaged."""


class Meta(Value, frozen=True, kw_only=True):
    """A description whose checksum is right: the page size, the root page and the transaction that wrote it."""

    size: int
    root: int
    transaction: int


class Bucket:
    """A part of a database: keys in order, of which each has a value or is a bucket itself."""

    def __init__(self, database: Database, page: bytes | int) -> None:
        """``page`` is the root page, or its number."""
        self._database, self._page = database, page

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """All keys and what they hold."""
        ahead: list[bytes | int] = [self._page]
        while ahead:
            page = ahead.pop()
            content = self._database.page(page) if isinstance(page, int) else page
            _, flags, count, _ = _unpacked(_PAGE, content, 0)
            self._database.spend(len(content))
            if flags & _IS_BRANCH:
                ahead += reversed([_unpacked(_BRANCH, content, at)[2] for at in _elements(_BRANCH, count)])
            elif flags & _IS_LEAF:
                for at in _elements(_LEAF, count):
                    yield self._element(content, at)
            else:
                raise BoltError("a page is neither branch nor leaf")

    def bucket(self, name: bytes) -> Bucket | None:
        """The bucket of that name; None where there is none."""
        for key, item in self.items():
            if key == name:
                return item if isinstance(item, Bucket) else None
        return None

    def value(self, name: bytes) -> bytes:
        """The value of a key; empty where there is none."""
        return next((item for key, item in self.items() if key == name and isinstance(item, bytes)), b"")

    def _element(self, content: bytes, at: int) -> tuple[bytes, bytes | Bucket]:
        flags, offset, key_size, value_size = _unpacked(_LEAF, content, at)
        key = _slice(content, at + offset, key_size)
        value = _slice(content, at + offset + key_size, value_size)
        self._database.spend(key_size + value_size)
        if not flags & 1:
            return key, value
        root, _ = _unpacked(_BUCKET, value, 0)
        return key, Bucket(self._database, root or value[_BUCKET.size :])


class Database(Bucket):
    """A whole database, as one transaction left it."""

    def __init__(self, content: bytes) -> None:
        """``content`` is the file."""
        self._content, self.meta, self._left = content, newest_meta(content), _TURNS * len(content)
        super().__init__(self, self.meta.root)

    def page(self, number: int) -> bytes:
        """A page with those that continue it."""
        start = number * self.meta.size
        itself, _, _, more = _unpacked(_PAGE, self._content, start)
        if itself != number or number < 2:  # noqa: PLR2004 -- the two descriptions
            raise BoltError("a page is not where it should be")
        return _slice(self._content, start, (1 + more) * self.meta.size)

    def spend(self, size: int) -> None:
        """Count what is read, which in a damaged file may be without end."""
        self._left -= size
        if self._left < 0:
            raise BoltError("its pages lead on without end")


def read(look: Callable[[], bytes], look_again: Callable[[], bytes]) -> Database:
    """A database of which a writer did not overwrite a page while we read; ``look_again`` gives its beginning alone.

    The pages of a transaction stay until the next but one begins, and that waits for the end of the next: as long as
    the newest description is the same before and after, everything in between was whole.
    """
    for _ in range(3):
        database = Database(look())
        if newest_meta(look_again()) == database.meta:
            return database
    raise BoltError("it is written too often to be read")


def newest_meta(content: bytes) -> Meta:
    """The description of the last transaction. The other one may be half written."""
    first = _meta(content, 0)
    sizes = [first.size] if first else sorted(_SIZES)
    metas = [first, *(_meta(content, size) for size in sizes)]
    valid = [meta for meta in metas if meta]
    if not valid:
        raise BoltError("no bbolt database, or a damaged one")
    return max(valid, key=lambda meta: meta.transaction)


def _meta(content: bytes, at: int) -> Meta | None:
    if len(content) < at + _PAGE.size + _META.size:
        return None
    _, flags, _, _ = _PAGE.unpack_from(content, at)
    start = at + _PAGE.size
    magic, version, size, _, root, _, _, _, transaction, checksum = _META.unpack_from(content, start)
    if (magic, version) != (_MAGIC, _VERSION) or not flags & _IS_META or size not in _SIZES:
        return None
    is_whole = checksum == _sum(content[start : start + _META.size - 8])  # all but the checksum itself
    return Meta(size=size, root=root, transaction=transaction) if is_whole else None


def _sum(content: bytes) -> int:
    """FNV-1a of 64 bits: https://datatracker.ietf.org/doc/html/rfc9923."""
    total = 0xCBF29CE484222325
    for byte in content:
        total = (total ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return total


def _elements(kind: struct.Struct, count: int) -> range:
    return range(_PAGE.size, _PAGE.size + count * kind.size, kind.size)


def _unpacked(kind: struct.Struct, content: bytes, at: int) -> tuple[int, ...]:
    if at + kind.size > len(content):
        raise BoltError("a page ends too early")
    return kind.unpack_from(content, at)


def _slice(content: bytes, start: int, size: int) -> bytes:
    if start + size > len(content):
        raise BoltError("an element reaches over the end of its page")
    return content[start : start + size]
