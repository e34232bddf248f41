"""Advisories as they are published: records of the OSV schema, version 1.7, as far as we use it.

Fields that we do not use are passed over, whatever is in them; of those that we use, one of another form than the
schema's makes the record an error. https://ossf.github.io/osv-schema/
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.model import Value

Name = Annotated[str, Meta(max_length=512, pattern=r"^[ -~]+\Z")]
"""An id, a name or a version: printable, and no real one is longer."""
_Time = Annotated[dt.datetime, Meta(tz=True)]
_CVE = re.compile(r"CVE-\d{4}-\d{4,}")


class RecordError(Exception):
    """A record is not of the schema; the text says where."""


class Event(Value, frozen=True, kw_only=True):
    """A version at which something begins or ends; one of the fields is set. ``limit`` is of git alone."""

    introduced: Name | None = None
    fixed: Name | None = None
    last_affected: Name | None = None


class RecordRange(Value, frozen=True, kw_only=True):
    """Versions of one numbering: ECOSYSTEM, SEMVER or GIT, of which the last names commits."""

    type: str
    events: tuple[Event, ...] = ()


class RecordSeverity(Value, frozen=True, kw_only=True):
    """A CVSS vector, or Ubuntu's word."""

    type: str
    score: str


class Package(Value, frozen=True, kw_only=True):
    """What the record is about, as its ecosystem calls it."""

    ecosystem: Name
    name: Name


class Affected(Value, frozen=True, kw_only=True):
    """The affected versions of one package. What is specific to the ecosystem has no schema."""

    package: Package | None = None
    ranges: tuple[RecordRange, ...] | None = ()
    versions: tuple[Name, ...] | None = ()
    severity: tuple[RecordSeverity, ...] | None = ()
    ecosystem_specific: Any = None
    database_specific: Any = None


class Record(Value, frozen=True, kw_only=True):
    """One published advisory, which may be about many packages."""

    id: Name
    modified: _Time
    withdrawn: _Time | None = None
    aliases: tuple[Name, ...] | None = ()
    upstream: tuple[Name, ...] | None = ()
    related: tuple[Name, ...] | None = ()
    summary: str | None = ""
    details: str | None = ""
    severity: tuple[RecordSeverity, ...] | None = ()
    affected: tuple[Affected, ...] | None = ()
    database_specific: Any = None


_decoder = msgspec.json.Decoder(Record)


def decoded(line: bytes) -> Record:
    """A record from its JSON.

    Raises:
        RecordError: it is no JSON, or not of the schema.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(str(error)) from error


def word(specific: Any, *path: str) -> str:
    """A text inside what has no schema; empty where there is none."""
    for name in path:
        specific = specific.get(name) if isinstance(specific, dict) else None
    return specific if isinstance(specific, str) else ""


_BULLETINS = ("DSA-", "DLA-", "DTSA-", "USN-", "LSN-")
_TRACKERS = ("DEBIAN-CVE-", "UBUNTU-CVE-")
_ERRATA = ("ALSA-", "ALBA-", "ALEA-", "RLSA-", "RXSA-", "RHSA-")


def is_bulletin(record_id: str) -> bool:
    """Whether it is a distributor's announcement, which may be about many flaws that its tracker tells apart."""
    return record_id.startswith(_BULLETINS)


def is_erratum(record_id: str) -> bool:
    """Whether it is an update of an rpm distributor, which goes by it rather than by flaws."""
    return record_id.startswith(_ERRATA)


def is_of_tracker(record_id: str) -> bool:
    """Whether it is what a distributor says about one flaw, package by package."""
    return record_id.startswith(_TRACKERS)


def flaws(record: Record) -> tuple[str, ...]:
    """The CVEs that an announcement is about, wherever its publisher put them."""
    named = (*(record.upstream or ()), *(record.aliases or ()), *(record.related or ()))
    return tuple(dict.fromkeys(each for each in named if _CVE.fullmatch(each)))


def same(record: Record) -> tuple[str, ...]:
    """All ids of the one flaw that a record is about, its own first.

    A bulletin about several flaws is not one of them, and an erratum stands for itself. Of what lies upstream of a
    distributor's record, one CVE alone is the same flaw.
    """
    if is_erratum(record.id):
        return (record.id,)
    if is_bulletin(record.id):
        named = flaws(record)
        return (record.id, *named) if len(named) == 1 else (record.id,)
    upstream = [each for each in record.upstream or () if _CVE.fullmatch(each)]
    return tuple(dict.fromkeys((record.id, *(record.aliases or ()), *(upstream if len(upstream) == 1 else ()))))


class Aliases:
    """Which ids name the same flaw, over all records: aliases of aliases are aliases."""

    def __init__(self) -> None:
        """Know of none yet."""
        self._above: dict[str, str] = {}

    def unite(self, ids: tuple[str, ...]) -> None:
        """Learn that these are one."""
        first = self._top(ids[0])
        for each in ids[1:]:
            other = self._top(each)
            low, high = sorted((first, other), key=preference)
            self._above[high] = first = low

    def name(self, record_id: str) -> str:
        """What the flaw is called: by its oldest CVE, else its GHSA, else the first of its ids."""
        return self._top(record_id)

    def _top(self, record_id: str) -> str:
        path = []
        while (above := self._above.get(record_id, record_id)) != record_id:
            path.append(record_id)
            record_id = above
        for each in path:
            self._above[each] = record_id
        return record_id


def preference(record_id: str) -> tuple[int, int, int, str]:
    """Sorts ids as people look for them: CVEs from the oldest, GHSAs, the others."""
    if _CVE.fullmatch(record_id):
        _, year, number = record_id.split("-")
        return (0, int(year), int(number), "")
    return (1 if record_id.startswith("GHSA-") else 2, 0, 0, record_id)


def ordered(ids: set[str]) -> tuple[str, ...]:
    """Ids, the one that people look for first."""
    return tuple(sorted(ids, key=preference))
