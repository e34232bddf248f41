"""The package lists that apt downloaded: which are of security archives, and what they hold. Nothing is fetched.

Where they lie: https://manpages.debian.org/bookworm/apt/apt-get.8.en.html#FILES
"""

from __future__ import annotations

import datetime as dt
import lzma
import re
import zlib
from collections.abc import Iterator

from agent.facts import debian_control
from agent.host import MEBIBYTE, Host, shown
from agent.model import CannotLookError, Value

DIRECTORY = "/var/lib/apt/lists"
LARGEST_LIST = 256 * MEBIBYTE
"""The largest seen in November 2026, jammy-security/restricted, has 39 MB; compressed it is below 7 MB."""

_LIST = re.compile(r"(?P<prefix>.*_)Packages(?P<compression>\.[a-z0-9]+)?")
_SECURITY_NAME = re.compile(r"^security\.debian\.org_|_debian-security_dists_|_dists_[^_]+-security_")
_APT_HELPER = "/usr/lib/apt/apt-helper"


class Archive(Value, frozen=True, kw_only=True):
    """One release of one repository with the paths of its lists. ``dated`` is when the repository published it."""

    name: str
    dated: dt.datetime
    lists: tuple[str, ...]


def security_archives(host: Host) -> tuple[Archive, ...]:
    """The archives that hold security updates and nothing else, as their own Release file says.

    Debian's are labelled so; Ubuntu's, and those of Ubuntu Pro, have a suite that ends in -security. Where there is
    no Release file the address in the list's name decides. Suites such as -updates are not security archives.
    """
    names = {entry.name for entry in host.entries(DIRECTORY) if entry.kind == "file"}
    lists: dict[str, list[str]] = {name: [] for name in sorted(names) if _describes(name, names)}
    for name in sorted(names):
        if match := _LIST.fullmatch(name):
            lists.setdefault(_release_of(match["prefix"], lists), []).append(name)
    found = (_archive(host, release, tuple(of_it)) for release, of_it in lists.items())
    return tuple(archive for archive in found if archive)


def _describes(name: str, names: set[str]) -> bool:
    """Whether this is the Release file of an archive; one signed inside stands before one signed beside."""
    prefix, _, kind = name.rpartition("_")
    return kind == "InRelease" or (kind == "Release" and f"{prefix}_InRelease" not in names)


def _release_of(prefix: str, releases: dict[str, list[str]]) -> str:
    """The Release file of the longest address that the list's address starts with, or else the address itself."""
    parts = prefix.split("_")
    candidates = (
        "_".join((*parts[:end], kind)) for end in range(len(parts), 0, -1) for kind in ("InRelease", "Release")
    )
    return next((name for name in candidates if name in releases), re.sub(r"(_dists_[^_]+_).*", r"\1", prefix))


def _archive(host: Host, release: str, lists: tuple[str, ...]) -> Archive | None:
    said = _release(host, release) if release.endswith("Release") else {}
    suites = [suite for suite in (said.get("Codename"), said.get("Suite")) if suite]
    security = [suite for suite in suites if suite.endswith("-security")]
    if not (security or said.get("Label") == "Debian-Security" or (not said and _SECURITY_NAME.search(release))):
        return None
    name = " ".join(filter(None, (said.get("Label") or said.get("Origin"), *(security or suites)[:1])))
    return Archive(
        name=shown(name or release),
        dated=_date(said.get("Date", "")) or _modified(host, lists or (release,)),
        lists=tuple(f"{DIRECTORY}/{each}" for each in lists),
    )


def _release(host: Host, name: str) -> dict[str, str]:
    """The fields that stand before the checksums; none where the file cannot be read, so that its name decides."""
    try:
        start = host.read_start(f"{DIRECTORY}/{name}", limit=65536)
    except CannotLookError:
        return {}
    text = start.decode("utf-8", "surrogateescape")
    found: list[tuple[str, str]] = re.findall(r"^(Origin|Label|Suite|Codename|Date): *(.{0,100})", text, re.MULTILINE)
    return {field: value.rstrip() for field, value in found}


def _date(text: str) -> dt.datetime | None:
    """The date of a Release file, which is in UTC: https://wiki.debian.org/DebianRepository/Format#Date.2C_Valid-Until."""
    try:
        return dt.datetime.strptime(re.sub(r"(UTC|GMT|Z)$", "+0000", text), "%a, %d %b %Y %H:%M:%S %z")
    except ValueError:
        return None


def _modified(host: Host, names: tuple[str, ...]) -> dt.datetime:
    newest = max(host.stat(f"{DIRECTORY}/{name}").st_mtime for name in names)
    return dt.datetime.fromtimestamp(newest, tz=dt.timezone.utc)


def stanzas(host: Host, path: str) -> Iterator[bytes]:
    """The stanzas of a list, compressed or not. What is wrong with the file is an error at the place where it is."""
    try:
        yield from debian_control.stanzas(_blocks(host, path), path)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise CannotLookError(f"{shown(path)} cannot be decompressed: {error}") from error


def _blocks(host: Host, path: str) -> Iterator[bytes]:
    match = _LIST.fullmatch(path)
    compression = match["compression"] if match else None
    if compression is None:
        return host.stream(path, limit=LARGEST_LIST)
    if compression == ".gz":
        return _limited(_inflated(host.read(path, limit=LARGEST_LIST // 4)), path)
    if compression == ".xz":
        return _limited(_unpacked(host.read(path, limit=LARGEST_LIST // 4)), path)
    # LZ4 and zstd, which apt keeps lists in where it is told to keep them compressed, are not in the standard library;
    # whichever compression apt wrote, its own tool reads.
    return host.pour((_APT_HELPER, "cat-file", host.place(path)), deadline=60, limit=LARGEST_LIST)


def _limited(blocks: Iterator[bytes], path: str) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > LARGEST_LIST:
            raise CannotLookError(f"{shown(path)} is larger than {LARGEST_LIST} bytes unpacked")
        yield block


def _inflated(packed: bytes) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)  # 31: a gzip header and a window of any size
    while packed and not stream.eof:
        yield stream.decompress(packed, MEBIBYTE)
        packed = stream.unconsumed_tail
    _ended(eof=stream.eof, rest=stream.unused_data)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    stream = lzma.LZMADecompressor(memlimit=128 * MEBIBYTE)  # xz -9, the largest preset, needs 65 MiB
    while not stream.eof and (packed or not stream.needs_input):
        yield stream.decompress(packed, MEBIBYTE)
        packed = b""
    _ended(eof=stream.eof, rest=stream.unused_data)


def _ended(*, eof: bool, rest: bytes) -> None:
    if not eof or rest:
        raise EOFError("it ends too early" if not eof else "something follows its end")
