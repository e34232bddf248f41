"""All statements of all records, where they wait until everything was read: only then it is known what is one flaw.

They wait in a temporary file of SQLite's own, so that an export of any size needs no more memory than one record and
the names of all flaws. https://www.sqlite.org/inmemorydb.html#temp_db
"""

from __future__ import annotations

import datetime as dt
import itertools
import sqlite3
from collections.abc import Collection, Iterable, Iterator

import msgspec

from agent.advisories import exports
from agent.advisories.advisory import Source
from agent.advisories.exports import ExportError
from agent.advisories.normalising import Statement, statements
from agent.advisories.records import Aliases, Record, RecordError, decoded, same
from agent.knowledge import AdvisoryRepairs, AdvisorySource

NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_SCHEMA = "CREATE TABLE statements (ecosystem TEXT, name TEXT, record TEXT, content BLOB)"


class Gathered:
    """What the records say of the wanted ecosystems. To be closed."""

    def __init__(
        self,
        ecosystems: Collection[str],
        repairs: AdvisoryRepairs,
        publishers: Iterable[AdvisorySource],
        *,
        until: dt.datetime,
    ) -> None:
        """Begin with nothing; a record that claims to be changed a day after ``until`` has a wrong date."""
        self.aliases = Aliases()
        self.read = self.withdrawn = self.repaired = self.unclear = 0
        self._ecosystems, self._repairs, self._publishers = frozenset(ecosystems), repairs, tuple(publishers)
        self._until = until + dt.timedelta(days=1)
        self._changes: dict[tuple[str, AdvisorySource], _Changes] = {}
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute(_SCHEMA)
        self._connection.execute("BEGIN")

    def close(self) -> None:
        """Forget everything."""
        self._connection.close()

    def add_all(self, path: str) -> None:
        """Take up an export.

        Raises:
            ExportError: it cannot be read, or something in it is no record.
        """
        before = self.read
        try:
            for document in exports.documents(path):
                self.add(decoded(document))
        except RecordError as error:
            raise ExportError(f"{path}: record {self.read - before + 1} is not of the OSV schema: {error}") from error

    def add(self, record: Record) -> None:
        """Take up a record."""
        self.read += 1
        if record.withdrawn:
            self.withdrawn += 1
            return
        self.aliases.unite(same(record))
        said = list(statements(record, self._ecosystems, self._repairs))
        self._connection.executemany(
            "INSERT INTO statements VALUES (?, ?, ?, ?)",
            ((each.ecosystem, each.name, record.id, msgspec.msgpack.encode(each)) for each in said),
        )
        self.repaired += sum(each.repaired for each in said)
        self.unclear += sum(bool(each.unclear) for each in said)
        publisher = next(each for each in self._publishers if record.id.startswith(each.prefixes))
        for ecosystem in {each.ecosystem for each in said}:
            self._changes.setdefault((ecosystem, publisher), _Changes()).add(record.modified, until=self._until)

    def packages(self, ecosystem: str) -> Iterator[tuple[str, list[Statement]]]:
        """Every package with all that is said of it, in order of names and of records."""
        rows = self._connection.execute(
            "SELECT name, content FROM statements WHERE ecosystem = ? ORDER BY name, record, content", (ecosystem,)
        )
        decoder = msgspec.msgpack.Decoder(Statement)
        for name, found in itertools.groupby(rows, key=lambda row: str(row[0])):
            yield name, [decoder.decode(content) for _, content in found]

    def ecosystems(self) -> set[str]:
        """The ecosystems of which something is said."""
        return {ecosystem for ecosystem, _ in self._changes}

    def sources(self, ecosystems: Collection[str]) -> tuple[Source, ...]:
        """Whose records are about these ecosystems."""
        return tuple(
            source(publisher, date=changes.newest.date(), records=changes.count)
            for publisher in self._publishers
            for ecosystem in sorted(ecosystems)
            if (changes := self._changes.get((ecosystem, publisher)))
        )

    def newest(self, ecosystems: Collection[str]) -> tuple[dt.datetime, ...]:
        """When the newest record about each ecosystem was changed."""
        return tuple(each.newest for (ecosystem, _), each in self._changes.items() if ecosystem in ecosystems)


class _Changes:
    """How many records there are, and when the newest was changed."""

    def __init__(self) -> None:
        self.count, self.newest = 0, NEVER

    def add(self, time: dt.datetime, *, until: dt.datetime) -> None:
        self.count += 1
        if time <= until:
            self.newest = max(self.newest, time)


def source(publisher: AdvisorySource, *, date: dt.date, records: int) -> Source:
    """What a shard says of a publisher."""
    return Source(
        name=publisher.name,
        url=publisher.url,
        licence=publisher.licence,
        attribution=publisher.attribution,
        date=date,
        records=records,
    )
