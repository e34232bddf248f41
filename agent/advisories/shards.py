"""One file of the advisory database: how it is written, byte for byte the same from the same input, and read.

It is an SQLite database that is never written to again. Its header holds a checksum of the whole file where SQLite
keeps the number of the version that wrote it, which nothing reads (https://www.sqlite.org/fileformat2.html#the_database_header):
damage, wherever it is, shows when the file is opened and not in the middle of an answer. Against malice there is the
signature of what is fetched. The SQL is that of SQLite 3.26, which Rocky Linux 8 has.
"""

from __future__ import annotations

import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import msgspec

from agent.advisories.advisory import Advisory, Range, Shard
from agent.advisories.naming import canonical, link
from agent.host import Host
from agent.model import CannotLookError, Severity, Value

_APPLICATION = 0x646C7661  # "dlva" marks the file as ours: https://www.sqlite.org/pragma.html#pragma_application_id
FORMAT = 1
_LIMIT = 1 << 30
_PAGE = 4096
_CACHE_KIB = 512
_SCHEMA = """
CREATE TABLE about (shard TEXT NOT NULL);
CREATE TABLE packages (
    id INTEGER PRIMARY KEY, ecosystem TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (ecosystem, name)
);
CREATE TABLE flaws (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE advisories (
    package INTEGER NOT NULL, position INTEGER NOT NULL, flaw INTEGER NOT NULL, versions BLOB NOT NULL,
    PRIMARY KEY (package, position)
) WITHOUT ROWID;
"""
_SEVERITIES = list(Severity)
_EPSS_STEPS = 65_535


class ShardError(Exception):
    """A file cannot be used as a shard; the text says why, without its path."""


class _Flaw(Value, frozen=True, kw_only=True, array_like=True):
    """What an advisory says of a flaw, often the same for many packages, in few bytes.

    ``id`` is empty where it is the first of ``ids``, ``url`` where it is the usual one. Severity is a rank, the score
    in tenths, the probability in 65,535ths, and -1 is none.
    """

    ids: tuple[str, ...]
    id: str
    summary: str
    url: str
    severity: int
    score: int
    condition: str
    fix_needs: str
    flags: int
    probability: int


class _Versions(Value, frozen=True, kw_only=True, array_like=True):
    """What an advisory says of the versions of one package; three ends make a range."""

    ranges: tuple[str, ...]
    versions: tuple[str, ...]
    unclear: str
    module: str


_encode = msgspec.msgpack.Encoder().encode
_decode_flaw = msgspec.msgpack.Decoder(_Flaw).decode
_decode_versions = msgspec.msgpack.Decoder(_Versions).decode


def _flaw(ecosystem: str, advisory: Advisory) -> bytes:
    probability, score = advisory.exploit_probability, advisory.score
    return _encode(
        _Flaw(
            ids=advisory.ids,
            id="" if advisory.id == advisory.ids[0] else advisory.id,
            summary=advisory.summary,
            url="" if advisory.url == link(ecosystem, advisory.ids) else advisory.url,
            severity=advisory.severity.rank if advisory.severity else -1,
            score=-1 if score is None else round(score * 10),
            condition=advisory.condition,
            fix_needs=advisory.fix_needs,
            flags=advisory.malicious | advisory.known_exploited << 1 | advisory.ransomware << 2,
            probability=-1 if probability is None else round(probability * _EPSS_STEPS),
        )
    )


def _versions(advisory: Advisory) -> bytes:
    ranges = tuple(end for each in advisory.ranges for end in (each.introduced, each.fixed, each.last_affected))
    return _encode(
        _Versions(ranges=ranges, versions=advisory.versions, unclear=advisory.unclear, module=advisory.module)
    )


def _advisory(ecosystem: str, flaw: _Flaw, about: _Versions) -> Advisory:
    ends = about.ranges
    return Advisory(
        id=flaw.id or flaw.ids[0],
        ids=flaw.ids,
        summary=flaw.summary,
        url=flaw.url or link(ecosystem, flaw.ids),
        severity=None if flaw.severity < 0 else _SEVERITIES[flaw.severity],
        score=None if flaw.score < 0 else flaw.score / 10,
        ranges=tuple(
            Range(introduced=ends[at], fixed=ends[at + 1], last_affected=ends[at + 2]) for at in range(0, len(ends), 3)
        ),
        versions=about.versions,
        unclear=about.unclear,
        condition=flaw.condition,
        fix_needs=flaw.fix_needs,
        module=about.module,
        malicious=bool(flaw.flags & 1),
        known_exploited=bool(flaw.flags & 2),
        ransomware=bool(flaw.flags & 4),
        exploit_probability=None if flaw.probability < 0 else flaw.probability / _EPSS_STEPS,
    )


Rows = Iterable[tuple[str, str, tuple[Advisory, ...]]]
"""(ecosystem, name of the package, what is known of it); each package once, in the order in which they are kept."""


def packed(shard: Shard, rows: Rows) -> tuple[Shard, bytes]:
    """The shard, with its ``records`` counted, and its file, the same byte for byte from the same rows."""
    with tempfile.TemporaryDirectory(prefix="dlvmguard-") as scratch:
        path = f"{scratch}/shard.sqlite"
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            shard = _fill(connection, shard, rows)
        finally:
            connection.close()
        content = bytearray(Host().read(path, limit=_LIMIT))
    _wipe_gaps(content)
    content[24:28] = content[92:96] = (1).to_bytes(4, "big")  # how often it was written to
    content[96:100] = bytes(4)
    content[96:100] = zlib.crc32(content).to_bytes(4, "big")
    return shard, bytes(content)


def _wipe_gaps(content: bytearray) -> None:
    """Blank what no table uses, where versions of SQLite leave different remains: between pointers and cells of a page.

    https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    for page in range(0, len(content), _PAGE):
        header = page + 100 if page == 0 else page
        if content[header] in {2, 5, 10, 13}:
            cells = int.from_bytes(content[header + 3 : header + 5], "big")
            begin = header + (12 if content[header] in {2, 5} else 8) + 2 * cells
            end = page + (int.from_bytes(content[header + 5 : header + 7], "big") or 65_536)
            content[begin:end] = bytes(end - begin)


def _fill(connection: sqlite3.Connection, shard: Shard, rows: Rows) -> Shard:
    # What a distributor may compile in otherwise; nothing of the file is worth a journal before it is whole.
    for pragma in (
        f"page_size = {_PAGE}",
        "auto_vacuum = NONE",
        "encoding = 'UTF-8'",
        "journal_mode = OFF",
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(_SCHEMA)
    connection.execute("BEGIN")
    flaws: dict[bytes, int] = {}
    records = 0
    for number, (ecosystem, name, advisories) in enumerate(rows, start=1):
        connection.execute("INSERT INTO packages VALUES (?, ?, ?)", (number, ecosystem, canonical(ecosystem, name)))
        for position, advisory in enumerate(advisories):
            flaw = flaws.setdefault(_flaw(ecosystem, advisory), len(flaws) + 1)
            row = (number, position, flaw, _versions(advisory))
            connection.execute("INSERT INTO advisories VALUES (?, ?, ?, ?)", row)
        records += len(advisories)
    connection.executemany("INSERT INTO flaws VALUES (?, ?)", ((flaw, content) for content, flaw in flaws.items()))
    shard = msgspec.structs.replace(shard, records=records)
    connection.execute("INSERT INTO about VALUES (?)", (msgspec.json.encode(shard).decode(),))
    connection.execute("COMMIT")
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("VACUUM")
    return shard


class OpenShard:
    """A shard that was found whole, and is open for questions until it is closed."""

    def __init__(self, path: str) -> None:
        """Open the file.

        Raises:
            ShardError: it is no shard, one of a newer format, or damaged.
        """
        _verify(path)
        uri = f"file:{quote(path)}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise ShardError(str(error)) from error
        try:
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            ((text,),) = self._connection.execute("SELECT shard FROM about")
            self.shard: Shard = msgspec.json.decode(text, type=Shard)
        except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
            self.close()
            raise ShardError(str(error)) from error

    def about(self, ecosystem: str, name: str) -> tuple[Advisory, ...]:
        """What is known of a package.

        Raises:
            CannotLookError: the file was damaged after it was opened, or the disk does not give it.
        """
        query = (
            "SELECT content, versions FROM packages JOIN advisories ON package = packages.id "
            "JOIN flaws ON flaw = flaws.id WHERE ecosystem = ? AND name = ? ORDER BY position"
        )
        try:
            rows = self._connection.execute(query, (ecosystem, canonical(ecosystem, name))).fetchall()
            return tuple(_advisory(ecosystem, _decode_flaw(flaw), _decode_versions(about)) for flaw, about in rows)
        except (sqlite3.Error, msgspec.MsgspecError, LookupError, TypeError) as error:
            raise CannotLookError(f"the advisory database cannot be read: {error}") from error

    def packages(self) -> Iterator[tuple[str, str]]:
        """The ecosystem and name of every package of which something is known."""
        yield from self._connection.execute("SELECT ecosystem, name FROM packages ORDER BY id")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _verify(path: str) -> None:
    """Refuse what is not, byte for byte, a shard as we write them.

    Raises:
        ShardError: what is wrong with it.
    """
    try:
        blocks = Host().stream(path, limit=_LIMIT, block=1 << 18)
        first = next(blocks, b"")
        _verify_header(first[:100])
        checksum = zlib.crc32(first[:96] + bytes(4) + first[100:])
        size = len(first)
        for block in blocks:
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    except CannotLookError as error:
        raise ShardError(error.reason.removeprefix(f"{path}: ")) from error
    if checksum != int.from_bytes(first[96:100], "big"):
        raise ShardError("it is damaged")


def _verify_header(header: bytes) -> None:
    is_whole = len(header) == 100 and header.startswith(b"SQLite format 3\0")  # noqa: PLR2004 -- the header's size
    if not is_whole or int.from_bytes(header[68:72], "big") != _APPLICATION:
        raise ShardError("it is no advisory database of dlvmguard")
    version = int.from_bytes(header[60:64], "big")
    if version > FORMAT:
        raise ShardError(f"it is of a newer dlvmguard (format {version}, this one knows {FORMAT})")
