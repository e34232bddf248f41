"""The rows of one table of an SQLite database, read without SQLite.

The database may be made by somebody who means harm, as in a container, and may be written to meanwhile. SQLite itself
opens a path a second time, follows links on its way, and runs what the file's schema says. Here nothing is run, no
page is read twice, and what does not fit the format is an error. Changes that are still in the write-ahead log count.
Format: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from agent.host import MEBIBYTE, Host, Parts, shown
from agent.model import AbsentError, CannotLookError

Column = int | bytes | None

_LARGEST_DATABASE = 512 * MEBIBYTE
_LARGEST_LOG = 16 * MEBIBYTE
"""SQLite takes a log over into the database at 1000 pages: https://www.sqlite.org/pragma.html#pragma_wal_autocheckpoint"""
_LARGEST_ROW = 32 * MEBIBYTE
_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_INTERIOR, _LEAF = 0x05, 0x0D
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_AGAIN = "It is read again at the next scan."


def rows(host: Host, path: str, table: str) -> Iterator[tuple[Column, ...]]:
    """The rows of a table, each with its columns; text comes as bytes, a key that SQLite keeps apart as None.

    Raises:
        CannotLookError: it is no database, damaged, without this table, or changed while it was read; the rows so
            far then are not to be trusted.
    """
    before = _state(host, path)
    with contextlib.ExitStack() as files:
        pages = _Pages(files.enter_context(host.parts(path)), _log(host, path, files))
        if pages.count:
            root = next((row[3] for row in pages.rows(1) if row[:2] == (b"table", table.encode())), None)
            if not isinstance(root, int):
                raise CannotLookError(f"{shown(path)} has no table {table}")
            yield from pages.rows(root)
    if _state(host, path) != before:
        raise CannotLookError(f"{shown(path)} changed while it was read", _AGAIN)


def _state(host: Host, path: str) -> tuple[tuple[int, ...], ...]:
    return (host.signature(path), host.signature(f"{path}-wal"))


def _log(host: Host, path: str, files: contextlib.ExitStack) -> _Log | None:
    with contextlib.suppress(AbsentError):
        if host.stat(f"{path}-journal").st_size:
            raise CannotLookError(f"{shown(path)} is being written to, or was when the machine stopped", _AGAIN)
    with contextlib.suppress(AbsentError):
        return _Log(files.enter_context(host.parts(f"{path}-wal")))
    return None


class _Log:
    """The write-ahead log: where the newest version of each page in it lies.

    Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    """

    def __init__(self, file: Parts) -> None:
        self.file = file
        self.page_size = 0
        self.count = 0
        self.places: dict[int, int] = {}
        if file.size > _LARGEST_LOG:
            raise CannotLookError(f"{shown(file.path)} is larger than {_LARGEST_LOG} bytes")
        if file.size >= 32:  # noqa: PLR2004 -- the log's header; one that is shorter is not begun
            self._index(file.read(0, file.size))

    def _index(self, content: bytes) -> None:
        """Find the pages up to the last that ends a transaction; what follows is not there, for SQLite either."""
        magic, _, size, _, *salts, _, _ = struct.unpack_from(">8I", content)
        order = {0x377F0682: "<", 0x377F0683: ">"}.get(magic)
        if (
            order is None
            or not _is_size(size)
            or _checksum(content[:24], order, (0, 0)) != struct.unpack_from(">2I", content, 24)
        ):
            return
        self.page_size, begun = size, dict[int, int]()
        sums = struct.unpack_from(">2I", content, 24)
        for frame in range(32, len(content) - size - 23, size + 24):
            number, count, *frame_salts, one, two = struct.unpack_from(">6I", content, frame)
            sums = _checksum(content[frame : frame + 8] + content[frame + 24 : frame + 24 + size], order, sums)
            if frame_salts != salts or sums != (one, two):
                return
            begun[number] = frame + 24
            if count:
                self.count = count
                self.places.update(begun)
                begun.clear()


def _is_size(size: int) -> bool:
    """Whether pages may be so large: a power of two."""
    return 512 <= size <= 65536 and size.bit_count() == 1  # noqa: PLR2004 -- the format's limits


def _checksum(content: bytes, order: str, sums: tuple[int, ...]) -> tuple[int, ...]:
    one, two = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return (one, two)


class _Pages:
    """The pages of a database, none of which is read twice, and the rows in them."""

    def __init__(self, file: Parts, log: _Log | None) -> None:
        self.file = file
        self.log = log if log and log.places else None
        if file.size > _LARGEST_DATABASE:
            raise CannotLookError(f"{shown(file.path)} is larger than {_LARGEST_DATABASE} bytes")
        self.count = self.log.count if self.log else 0
        if not (file.size or self.log):
            return
        head = self._first(_HEADER)
        size = int.from_bytes(head[16:18], "big")
        self.size = 65536 if size == 1 else size
        if not head.startswith(_MAGIC) or not _is_size(self.size):
            raise CannotLookError(f"{shown(file.path)} is not an SQLite database")
        if self.log and self.log.page_size != self.size:
            raise self._damaged("its log has pages of another size")
        self.usable = self.size - head[20]
        if self.usable < 480:  # noqa: PLR2004 -- the format's
            raise self._damaged("its pages have no room")
        self.count = min(max(self.count, file.size // self.size), _LARGEST_DATABASE // self.size)
        self._used = bytearray(self.count + 1)
        self._left = self.count * self.size

    def rows(self, root: int) -> Iterator[tuple[Column, ...]]:
        """The rows of the table whose tree begins at this page, in the order of their keys."""
        waiting = [root]
        while waiting:
            number = waiting.pop()
            page = self._page(number)
            start = _HEADER if number == 1 else 0
            kind = page[start]
            if kind not in {_INTERIOR, _LEAF}:
                raise self._damaged(f"page {number} is not of a table")
            try:
                (cells,) = struct.unpack_from(">H", page, start + 3)
                pointers = struct.unpack_from(f">{cells}H", page, start + (8 if kind == _LEAF else 12))
                if kind == _LEAF:
                    yield from (self._record(self._payload(page, pointer)) for pointer in pointers)
                else:
                    pointers = (*pointers, start + 8)  # the last child stands in the page's header
                    waiting.extend(struct.unpack_from(">I", page, pointer)[0] for pointer in reversed(pointers))
            except (struct.error, IndexError) as error:
                raise self._damaged(f"page {number}: {error}") from error
            if len(waiting) > self.count:
                raise self._damaged("its tree has more branches than there are pages")

    def _page(self, number: int) -> bytes:
        if not 0 < number <= self.count or self._used[number]:
            raise self._damaged(f"page {number} is used twice" if 0 < number <= self.count else f"no page {number}")
        self._used[number] = 1
        if self.log and number in self.log.places:
            return self.log.file.read(self.log.places[number], self.size)[: self.usable]
        return self.file.read((number - 1) * self.size, self.size)[: self.usable]

    def _first(self, length: int) -> bytes:
        if self.log and 1 in self.log.places:
            return self.log.file.read(self.log.places[1], length)
        return self.file.read(0, length)

    def _payload(self, page: bytes, at: int) -> bytes:
        """The content of a cell, of which what does not fit lies in a chain of pages of its own."""
        length, at = _varint(page, at)
        _, at = _varint(page, at)
        self._left -= length + 4  # a pointer of two bytes and a cell of two more is the least
        if length > _LARGEST_ROW or self._left < 0:
            raise self._damaged("its rows are larger than itself")
        most = self.usable - 35
        least = (self.usable - 12) * 32 // 255 - 23
        fitting = least + (length - least) % (self.usable - 4)
        here = length if length <= most else fitting if fitting <= most else least
        pieces = [page[at : at + here]]
        missing = length - here
        following = struct.unpack_from(">I", page, at + here)[0] if missing else 0
        while missing:
            overflow = self._page(following)
            pieces.append(overflow[4 : 4 + missing])
            missing -= len(pieces[-1])
            (following,) = struct.unpack_from(">I", overflow)
        content = b"".join(pieces)
        if len(content) != length:
            raise self._damaged("a row ends too early")
        return content

    def _record(self, payload: bytes) -> tuple[Column, ...]:
        """The columns of a row: their types first, then their values."""
        end, at = _varint(payload, 0)
        value, columns = end, list[Column]()
        while at < end:
            kind, at = _varint(payload, at)
            size = _INTEGERS.get(kind, 0) if kind < 12 else (kind - 12) // 2  # noqa: PLR2004 -- where text and blobs begin
            size = 8 if kind == 7 else size  # noqa: PLR2004 -- a float
            content = payload[value : value + size]
            if len(content) != size or kind in {10, 11}:
                raise self._damaged("a column ends too early")
            columns.append(_column(kind, content))
            value += size
        return tuple(columns)

    def _damaged(self, what: str) -> CannotLookError:
        return CannotLookError(f"{shown(self.file.path)} is damaged: {what}")


def _column(kind: int, content: bytes) -> Column:
    if kind in {8, 9}:
        return kind - 8
    if kind in _INTEGERS:
        return int.from_bytes(content, "big", signed=True)
    return content if kind else None


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, seven bits each and eight in the ninth, and what follows it."""
    value = 0
    for place in range(at, at + 8):
        byte = content[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 -- the bit that says that more follows
            return value, place + 1
    return value << 8 | content[at + 8], at + 9
