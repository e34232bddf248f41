"""What each sink has still to get: a query on the ledger's events, and the sink's answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping

from agent.ledger import Ledger, read_time, write_time
from agent.model import Event, Value

SCHEMA = """
CREATE TABLE deliveries (
    sink TEXT PRIMARY KEY, through INTEGER NOT NULL DEFAULT 0, delivered TEXT, tried TEXT,
    problem TEXT NOT NULL DEFAULT '', advice TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE settled (
    sink TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (sink, sequence)
) WITHOUT ROWID;
CREATE TABLE rejected (
    sink TEXT NOT NULL, sequence INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (sink, sequence)
) WITHOUT ROWID;
"""
"""``through`` is the mark below which a sink has settled everything; ``settled`` are single events above it."""


class Progress(Value, frozen=True, kw_only=True):
    """How far a sink has got, and what holds it up."""

    sink: str
    waiting: int
    rejected: int
    waiting_since: dt.datetime | None = None
    delivered: dt.datetime | None = None
    tried: dt.datetime | None = None
    problem: str = ""
    advice: str = ""


class Outbox:
    """The events that one sink has not settled yet."""

    def __init__(self, ledger: Ledger, sink: str) -> None:
        """Look at the ledger on behalf of a sink, by its name."""
        self._ledger = ledger
        self._sink = sink

    def waiting(self, count: int) -> tuple[Event, ...]:
        """The oldest events that wait, at most ``count``."""
        where = (
            "WHERE sequence > (SELECT coalesce(max(through), 0) FROM deliveries WHERE sink = ?1)"
            " AND sequence NOT IN (SELECT sequence FROM settled WHERE sink = ?1) ORDER BY sequence LIMIT ?2"
        )
        return tuple(self._ledger.events(where, (self._sink, count)))

    def settle(
        self, accepted: Collection[int], rejected: Mapping[int, str], *, problem: str = "", advice: str = ""
    ) -> None:
        """Note what the sink took, what it will never take, and why the rest waits."""
        now = write_time(dt.datetime.now(dt.timezone.utc))
        execute, many = self._ledger.connection.execute, self._ledger.connection.executemany
        with self._ledger.transaction():
            execute("INSERT OR IGNORE INTO deliveries (sink) VALUES (?)", (self._sink,))
            many("INSERT OR IGNORE INTO settled VALUES (?, ?)", [(self._sink, each) for each in {*accepted, *rejected}])
            refused = [(self._sink, sequence, reason) for sequence, reason in rejected.items()]
            many("INSERT OR IGNORE INTO rejected VALUES (?, ?, ?)", refused)
            execute(
                "UPDATE deliveries SET problem = ?2, advice = ?3, tried = ?4,"
                " delivered = CASE WHEN ?5 THEN ?4 ELSE delivered END WHERE sink = ?1",
                (self._sink, problem, advice, now, bool(accepted)),
            )
            oldest = self.waiting(1)
            through = oldest[0].sequence - 1 if oldest else self._newest()
            execute("UPDATE deliveries SET through = ? WHERE sink = ?", (through, self._sink))
            execute("DELETE FROM settled WHERE sink = ? AND sequence <= ?", (self._sink, through))

    def progress(self) -> Progress:
        """How far the sink has got."""
        sink = (self._sink,)
        rows = self._ledger.rows
        known = rows("SELECT through, delivered, tried, problem, advice FROM deliveries WHERE sink = ?", sink)
        through, delivered, tried, problem, advice = next(known, (0, None, None, "", ""))
        ((ahead,),) = rows("SELECT count(*) FROM settled WHERE sink = ?", sink)
        ((rejected,),) = rows("SELECT count(*) FROM rejected WHERE sink = ?", sink)
        oldest = self.waiting(1)
        return Progress(
            sink=self._sink,
            waiting=self._newest() - through - ahead,
            rejected=rejected,
            waiting_since=oldest[0].time if oldest else None,
            delivered=read_time(delivered) if delivered else None,
            tried=read_time(tried) if tried else None,
            problem=problem,
            advice=advice,
        )

    def _newest(self) -> int:
        ((newest,),) = self._ledger.rows("SELECT coalesce(max(sequence), 0) FROM events")
        return int(newest)


def progress(ledger: Ledger, sinks: Iterable[str]) -> tuple[Progress, ...]:
    """How far each sink has got."""
    return tuple(Outbox(ledger, sink).progress() for sink in sinks)
