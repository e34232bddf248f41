"""Reading what publishers offer for download: OSV exports, CISA's catalogue, EPSS. One document at a time.

The files come from far away: a document may be endless, an archive a bomb, a compressed file cut short. Memory is that
of one document, and everything else is an error with the file's name.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import gzip
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from agent.host import Host
from agent.model import Value

_DOCUMENT = 64 << 20
"""The largest records list every version of a package with hundreds of releases; they are a few megabytes."""
_TOTAL = 256 << 30
_BLOCK = 1 << 20
_XZ_MEMORY = 256 << 20
"""``xz -9`` needs 65 MiB to unpack: https://man7.org/linux/man-pages/man1/xz.1.html."""


class ExportError(Exception):
    """A file that was downloaded cannot be used; the text names it."""


def documents(path: str, *, largest: int = _DOCUMENT) -> Iterator[bytes]:
    """The JSON documents in a file: the members of a .zip, the lines of a .jsonl(.gz, .xz), or a .json itself."""
    if path.endswith(".zip"):
        with _refusing(path), Host().opened(path) as file, zipfile.ZipFile(file) as archive:
            yield from _members(archive, path, largest)
    elif path.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz")):
        yield from _lines(path, largest)
    elif path.endswith(".json"):
        yield Host().read(path, limit=largest)
    elif path.endswith(".zst"):
        raise ExportError(f"{path}: decompress it first: zstd -d {path}")
    else:
        raise ExportError(f"{path}: expected a file that ends in .zip, .jsonl, .jsonl.gz, .jsonl.xz or .json")


def _members(archive: zipfile.ZipFile, path: str, largest: int) -> Iterator[bytes]:
    for member in sorted(archive.infolist(), key=lambda each: each.filename):
        if member.filename.endswith(".json"):
            with archive.open(member) as file:
                content = file.read(largest + 1)
            if len(content) > largest:
                raise ExportError(f"{path}: {member.filename!r} is larger than {largest} bytes")
            yield content


def _lines(path: str, largest: int) -> Iterator[bytes]:
    rest = b""
    for piece in _pieces(path):
        *whole, rest = (rest + piece).split(b"\n")
        yield from filter(None, map(bytes.strip, whole))
        if len(rest) > largest:
            raise ExportError(f"{path}: a line is longer than {largest} bytes")
    if rest.strip():
        yield rest


def _pieces(path: str) -> Iterator[bytes]:
    """A file unpacked, in pieces of bounded size."""
    with _refusing(path):
        if path.endswith(".gz"):
            with Host().opened(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
                yield from iter(lambda: unpacked.read(_BLOCK), b"")
        elif path.endswith(".xz"):
            yield from _unxz(Host().stream(path, limit=_TOTAL))
        else:
            yield from Host().stream(path, limit=_TOTAL)


def _unxz(blocks: Iterable[bytes]) -> Iterator[bytes]:
    unpack = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
    for block in blocks:
        if unpack.eof:
            raise EOFError("something follows the end of the compressed data")
        yield unpack.decompress(block, _BLOCK)
        while not unpack.needs_input and not unpack.eof:
            yield unpack.decompress(b"", _BLOCK)
    if not unpack.eof:
        raise EOFError("it ends in the middle")


_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error)
_UNUSUAL = (RuntimeError, NotImplementedError)
"""What zipfile raises for an archive with a password, or of another method."""


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Errors of those who unpack, as ours."""
    try:
        yield
    except (*_BROKEN, *_UNUSUAL) as error:
        raise ExportError(f"{path} cannot be unpacked: {error}") from error


class Exploited(Value, frozen=True, kw_only=True):
    """CISA's catalogue: flaws that are known to be exploited, and whether ransomware does."""

    date: dt.date
    flaws: Mapping[str, bool]


class _Entry(Value, frozen=True, kw_only=True, rename="camel"):
    cve_id: str = msgspec.field(name="cveID")
    date_added: dt.date
    known_ransomware_campaign_use: str = "Unknown"


class _Catalogue(Value, frozen=True, kw_only=True):
    vulnerabilities: tuple[_Entry, ...]


def exploited(path: str) -> Exploited:
    """CISA's catalogue, as .json, .csv, or with an entry a line as .jsonl, also compressed.

    https://www.cisa.gov/known-exploited-vulnerabilities-catalog
    """
    try:
        entries = tuple(_entries(path))
    except (msgspec.DecodeError, UnicodeDecodeError, csv.Error) as error:
        raise ExportError(f"{path} is no catalogue of exploited vulnerabilities: {error}") from error
    if not entries:
        raise ExportError(f"{path} holds no entry")
    return Exploited(
        date=max(each.date_added for each in entries),
        flaws={each.cve_id: each.known_ransomware_campaign_use == "Known" for each in entries},
    )


def _entries(path: str) -> Iterator[_Entry]:
    if path.endswith((".csv", ".csv.gz", ".csv.xz")):
        yield from (msgspec.convert(row, _Entry, strict=False) for row in csv.DictReader(_text(path)))
        return
    for document in documents(path):
        if path.endswith(".json"):
            yield from msgspec.json.decode(document, type=_Catalogue).vulnerabilities
        else:
            yield msgspec.json.decode(document, type=_Entry)


class Probabilities(Value, frozen=True, kw_only=True):
    """EPSS: how probable it is that a flaw is exploited within 30 days."""

    date: dt.date
    flaws: Mapping[str, float]


def probabilities(path: str) -> Probabilities:
    """The scores of a day, as .csv, also compressed: https://www.first.org/epss/data_stats."""
    lines = _text(path)
    dated = re.match(r"#model_version:[^,]*,score_date:(\d{4}-\d\d-\d\d)", next(lines, ""))
    try:
        if not dated:
            raise ValueError("its first line does not say the date of the scores")
        flaws = {row["cve"]: float(row["epss"]) for row in csv.DictReader(lines)}
        if not all(0 <= each <= 1 for each in flaws.values()):
            raise ValueError("a probability is not between 0 and 1")
        return Probabilities(date=dt.date.fromisoformat(dated[1]), flaws=flaws)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ExportError(f"{path} is no list of EPSS scores: {error}") from error


def _text(path: str) -> Iterator[str]:
    return (line.decode("utf-8", "replace") + "\n" for line in _lines(path, _BLOCK))
