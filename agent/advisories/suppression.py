"""Findings that somebody answers for: entries of the configuration, and statements of OpenVEX documents. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from agent.advisories import versions
from agent.advisories.matching import KINDS, Match
from agent.config import SuppressSection
from agent.facts.vex import Statement, Vex
from agent.model import Unknown, Value

LONGEST = dt.timedelta(days=180)
"""Half a year: what is accepted for longer has become a habit."""


class Suppression(Value, frozen=True, kw_only=True):
    """Why a finding is accepted, by whom, and until when; a document names no end, but since when it says so."""

    by: str
    reason: str
    until: dt.date | None = None
    since: dt.date | None = None

    @property
    def words(self) -> str:
        """It as a person reads it."""
        when = f"until {self.until:%Y-%m-%d}" if self.until else f"since {self.since:%Y-%m-%d}"
        return f"suppressed by {self.by} {when}: {self.reason}"


def key(entry: SuppressSection) -> str:
    """The subject of findings about an entry."""
    return "suppression:" + "#".join(filter(None, (entry.id, entry.package, entry.place)))


def is_expired(entry: SuppressSection, today: dt.date) -> bool:
    """Whether its last day has passed."""
    return entry.until < today


def is_too_long(entry: SuppressSection, today: dt.date) -> bool:
    """Whether it ends so late that it is refused."""
    return entry.until - today > LONGEST


class Suppressions:
    """All that is suppressed on one day."""

    def __init__(self, entries: Iterable[SuppressSection], documents: Vex | Unknown, now: dt.datetime) -> None:
        """Statements of the future are not yet in force; entries that have expired are kept, to say so."""
        today = now.date()
        given = tuple(entries)
        self._entries = tuple(each for each in given if not (is_expired(each, today) or is_too_long(each, today)))
        self._expired = tuple(each for each in given if is_expired(each, today))
        self._statements: dict[str, list[Statement]] = {}
        for statement in documents.statements if isinstance(documents, Vex) else ():
            for name in statement.ids if statement.since <= now else ():
                self._statements.setdefault(name.casefold(), []).append(statement)

    def of(self, match: Match) -> Suppression | None:
        """What suppresses a match: an entry, or what the last statement about it says."""
        for entry in self._entries:
            if _fits(entry, match):
                return Suppression(by=entry.owner, reason=entry.reason, until=entry.until)
        statement = max(self._said(match), key=lambda each: each.since, default=None)
        if statement and statement.status in {"not_affected", "fixed"} and statement.reason:
            return Suppression(by=statement.author, reason=statement.reason, since=statement.since.date())
        return None

    def _said(self, match: Match) -> Iterator[Statement]:
        for name in {each.casefold() for each in (match.advisory.id, *match.advisory.ids)}:
            for statement in self._statements.get(name, ()):
                if any(_is(product.kind, product.name, product.version, match) for product in statement.products):
                    yield statement

    def expired(self, match: Match) -> SuppressSection | None:
        """The entry that suppressed a match until it expired."""
        return next((each for each in self._expired if _fits(each, match)), None)


def _fits(entry: SuppressSection, match: Match) -> bool:
    """Whether an entry speaks of a match. What is malicious or exploited has to be named by its id."""
    advisory, component = match.advisory, match.component
    names = {each.casefold() for each in (advisory.id, *advisory.ids)}
    if (entry.id or advisory.malicious or advisory.known_exploited) and entry.id.casefold() not in names:
        return False
    if entry.package and _spelt(entry.package) not in {_spelt(component.name), _spelt(component.source)}:
        return False
    return not entry.place or any(fnmatchcase(each, entry.place) for each in (component.place, component.key))


def _spelt(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).casefold()


def _is(kind: str, name: str, version: str, match: Match) -> bool:
    """Whether a package URL names the component, itself or its source package."""
    component = match.component
    family = versions.family(component.ecosystem)
    if KINDS.get(family) != kind or _spelt(name) not in {_spelt(component.name), _spelt(component.source)}:
        return False
    return not version or version in {component.version, component.source_version}
