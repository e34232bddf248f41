"""What dlvmguard remembers: an append-only table of events in SQLite.

The state advances in the same transaction that records the events, so a kill or a full disk loses nothing: the
next run computes the same difference again. "Open" is an index over the events that triggers keep, "unshipped" a
query on them (outbox.py).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from agent.diff import diff
from agent.model import Change, Event, Judged, Outcome, Unknown, Value

T = TypeVar("T")

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    check_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    change TEXT NOT NULL,
    initial INTEGER NOT NULL
);
CREATE INDEX history ON events (check_id, subject, sequence);
CREATE TABLE open (
    check_id TEXT NOT NULL, subject TEXT NOT NULL, sequence INTEGER NOT NULL, since TEXT NOT NULL,
    PRIMARY KEY (check_id, subject)
) WITHOUT ROWID;
CREATE TRIGGER stands AFTER INSERT ON events WHEN NEW.kind <> 'resolved' BEGIN
    INSERT INTO open VALUES (NEW.check_id, NEW.subject, NEW.sequence, NEW.time)
    ON CONFLICT DO UPDATE SET sequence = excluded.sequence;
END;
CREATE TRIGGER gone AFTER INSERT ON events WHEN NEW.kind = 'resolved' BEGIN
    DELETE FROM open WHERE check_id = NEW.check_id AND subject = NEW.subject;
END;
CREATE TABLE judgements (
    check_id TEXT PRIMARY KEY, taken TEXT NOT NULL, unknowns TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE looks (
    topic TEXT PRIMARY KEY, taken TEXT NOT NULL, unknowns TEXT NOT NULL
) WITHOUT ROWID;
"""


class CorruptLedgerError(Exception):
    """The ledger's file is not what we wrote."""


class OpenFinding(Value, frozen=True, kw_only=True):
    """A finding that stands, and since when."""

    finding: Judged
    since: dt.datetime


class Look(Value, frozen=True, kw_only=True):
    """When a topic was looked at last, and what could not be seen then."""

    topic: str
    taken: dt.datetime
    unknowns: tuple[Unknown, ...] = ()


class Ledger:
    """The event table over an open connection. One writer at a time; a second one waits for the first."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use a connection made by ledger_file.py."""
        self.connection = connection

    @property
    def epoch(self) -> str:
        """Names this ledger; one begun anew has another, so that a loss can be told from silence."""
        return self._value("epoch")

    @property
    def identity(self) -> str:
        """What ``record`` was given as identity last."""
        return self._value("identity")

    @property
    def listed(self) -> str:
        """What ``record`` was given as listed last."""
        return self._value("listed")

    def record(
        self,
        outcomes: Sequence[Outcome],
        *,
        looks: Iterable[Look],
        catalogue: Collection[str],
        identity: str = "",
        listed: str = "",
    ) -> tuple[Event, ...]:
        """Compare outcomes with what is open, and record the difference and the new state in one transaction.

        A check that was judged on newer facts already is left alone, so that two scans at once cannot turn the
        history back. ``identity`` is kept for shipping and ``listed`` for showing, as given.
        """
        now = dt.datetime.now(dt.timezone.utc)
        with self.transaction():
            judged = dict(self.rows("SELECT check_id, taken FROM judgements"))
            fresh = [each for each in outcomes if not _is_newer(judged.get(each.check), than=each.taken, now=now)]
            changes = diff((each.finding for each in self.open()), fresh, catalogue)
            events = self._append(changes, time=now, known=judged)
            self._note_judgements(fresh, gone=judged.keys() - set(catalogue))
            self._note_looks(looks, now=now)
            for key, value in (("identity", identity), ("listed", listed)):
                if value and value != self._value(key):
                    self.connection.execute("REPLACE INTO meta VALUES (?, ?)", (key, value))
        return events

    def open(self) -> Iterator[OpenFinding]:
        """The findings that stand."""
        rows = self.rows("SELECT change, since FROM open JOIN events USING (sequence)")
        for change, since in rows:
            yield OpenFinding(finding=decoded(change, Change).finding, since=read_time(since))

    def newest(self, count: int) -> tuple[Event, ...]:
        """The newest events, newest first."""
        return tuple(self.events("ORDER BY sequence DESC LIMIT ?", (count,)))

    def history(self, check: str, subject: str) -> tuple[Event, ...]:
        """Everything that happened to one finding, oldest first."""
        return tuple(self.events("WHERE check_id = ? AND subject = ? ORDER BY sequence", (check, subject)))

    def looks(self) -> tuple[Look, ...]:
        """When each topic was looked at last."""
        return tuple(
            Look(topic=topic, taken=read_time(taken), unknowns=decoded(unknowns, tuple[Unknown, ...]))
            for topic, taken, unknowns in self.rows("SELECT topic, taken, unknowns FROM looks ORDER BY topic")
        )

    def unknown(self) -> dict[str, tuple[Unknown, ...]]:
        """The checks that could not judge everything last time, and why."""
        rows = self.rows("SELECT check_id, unknowns FROM judgements WHERE unknowns <> '[]' ORDER BY check_id")
        return {check: decoded(unknowns, tuple[Unknown, ...]) for check, unknowns in rows}

    def last_taken(self) -> dt.datetime | None:
        """When the newest recorded facts had been seen."""
        ((taken,),) = self.rows("SELECT max(taken) FROM looks")
        return read_time(taken) if taken else None

    def events(self, where: str, values: tuple[object, ...]) -> Iterator[Event]:
        """The events that match, one at a time."""
        epoch = self.epoch
        query = f"SELECT sequence, time, change, initial FROM events {where}"  # noqa: S608 -- the clauses are our own
        for sequence, time, change, initial in self.rows(query, values):
            yield _event(epoch, sequence, read_time(time), decoded(change, Change), initial=bool(initial))

    def rows(self, query: str, values: tuple[object, ...] = ()) -> Iterator[Any]:
        """The rows of a query, one at a time."""
        return iter(self.connection.execute(query, values))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, whatever happens inside; the write lock is taken at the start."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # where even that fails, the journal rolls back at the next open
                self.connection.execute("ROLLBACK")
            raise

    def _append(self, changes: Iterable[Change], *, time: dt.datetime, known: Collection[str]) -> tuple[Event, ...]:
        epoch = self.epoch
        ((last,),) = self.rows("SELECT coalesce(max(sequence), 0) FROM events")
        events = tuple(
            _event(epoch, sequence, time, change, initial=change.finding.check not in known)
            for sequence, change in enumerate(changes, start=last + 1)
        )
        self.connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    event.sequence,
                    write_time(event.time),
                    event.change.kind.value,
                    *event.change.finding.key,
                    _encoded(event.change),
                    event.initial,
                )
                for event in events
            ),
        )
        return events

    def _note_judgements(self, outcomes: Iterable[Outcome], *, gone: Collection[str]) -> None:
        rows = [(each.check, write_time(each.taken), _encoded(each.unknowns)) for each in outcomes]
        self.connection.executemany("REPLACE INTO judgements VALUES (?, ?, ?)", rows)
        self.connection.executemany("DELETE FROM judgements WHERE check_id = ?", [(check,) for check in gone])

    def _note_looks(self, looks: Iterable[Look], *, now: dt.datetime) -> None:
        noted = dict(self.rows("SELECT topic, taken FROM looks"))
        fresh = (look for look in looks if not _is_newer(noted.get(look.topic), than=look.taken, now=now))
        rows = [(look.topic, write_time(look.taken), _encoded(look.unknowns)) for look in fresh]
        self.connection.executemany("REPLACE INTO looks VALUES (?, ?, ?)", rows)

    def _value(self, key: str) -> str:
        return next((str(value) for (value,) in self.rows("SELECT value FROM meta WHERE key = ?", (key,))), "")


def _event(epoch: str, sequence: int, time: dt.datetime, change: Change, *, initial: bool) -> Event:
    # The uid becomes the insertId; it sorts by sequence, by which Cloud Logging orders entries of the same time:
    # https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry
    return Event(sequence=sequence, uid=f"{epoch}-{sequence:012d}", time=time, change=change, initial=initial)


def _is_newer(noted: str | None, *, than: dt.datetime, now: dt.datetime) -> bool:
    """Whether what is noted is newer; what claims to come from the future (the clock was set back) never is."""
    return noted is not None and write_time(than) < noted <= write_time(now)


def write_time(time: dt.datetime) -> str:
    """A time as the ledger keeps it: UTC, of one width, so that text order is time order."""
    return time.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_time(text: str) -> dt.datetime:
    """A time that the ledger kept."""
    try:
        return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.timezone.utc)
    except (ValueError, TypeError) as error:
        raise CorruptLedgerError(f"not a time: {text!r}") from error


def decoded(text: str, kind: type[T]) -> T:
    """A value that the ledger kept."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptLedgerError(f"not a {kind}: {error}") from error


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()
