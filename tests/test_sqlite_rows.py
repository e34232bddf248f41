"""Rows of an SQLite database are read as SQLite reads them, whatever the file is."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.facts.sqlite_rows import rows
from agent.host import Host
from agent.model import AbsentError, CannotLookError
from tests.fakes.rpm import unfinished

VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=40) | st.binary(max_size=9000)
IN_ONE_PLACE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> list[tuple[object, ...]]:
    return list(rows(Host(str(path.parent)), f"/{path.name}", "t"))


def made(path: Path, content: Sequence[tuple[object, object]], *, page_size: int = 512) -> Path:
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("CREATE TABLE other (x)")
        connection.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, one, two)")
        connection.executemany("INSERT INTO t (one, two) VALUES (?, ?)", content)
        connection.commit()
    return path


def as_read(value):
    return value.encode() if isinstance(value, str) else value


def test_a_table_without_rows(tmp_path):
    assert read(made(tmp_path / "db", [])) == []


def test_a_file_of_nothing_is_a_database_without_rows(tmp_path):
    (tmp_path / "db").touch()
    assert read(tmp_path / "db") == []


@IN_ONE_PLACE
@given(st.lists(st.tuples(VALUES, VALUES), max_size=30), st.sampled_from([512, 1024, 4096, 65536]))
def test_sqlite_reads_the_same(tmp_path, content, page_size):
    seen = read(made(tmp_path / "db", content, page_size=page_size))
    assert seen == [(None, as_read(one), as_read(two)) for one, two in content]


def test_a_tree_of_many_pages_is_read_in_order(tmp_path):
    content = [(number, b"x" * (number % 700)) for number in range(5000)]
    assert read(made(tmp_path / "db", content)) == [(None, one, two) for one, two in content]


@IN_ONE_PLACE
@given(st.lists(st.binary(max_size=3000), max_size=8), st.lists(st.binary(max_size=3000), min_size=1, max_size=8))
def test_what_is_in_the_log_alone_counts(tmp_path, written, waiting):
    path = made(tmp_path / "db", [(each, 0) for each in written])
    changes = [("DELETE FROM t WHERE key = 1", ()), *(("INSERT INTO t (one) VALUES (?)", (each,)) for each in waiting)]
    unfinished(path, changes)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        expected = [each for (each,) in connection.execute("SELECT one FROM t ORDER BY key")]
    unfinished(made(path, [(each, 0) for each in written]), changes)
    assert [row[1] for row in read(path)] == expected


def test_a_log_that_was_not_written_to_its_end_does_not_count(tmp_path):
    path = made(tmp_path / "db", [(1, 2)])
    unfinished(path, [("INSERT INTO t (one) VALUES (3)", ())])
    log = tmp_path / "db-wal"
    for damaged in (log.read_bytes()[:-1], log.read_bytes()[:-1] + b"x", b"", b"x" * 5000):
        log.write_bytes(damaged)
        assert read(path) == [(None, 1, 2)]


def test_a_journal_that_waits_to_be_undone_cannot_be_looked_at(tmp_path):
    path = made(tmp_path / "db", [(1, 2)])
    (tmp_path / "db-journal").write_bytes(b"x")
    with pytest.raises(CannotLookError, match="being written to"):
        read(path)


def test_a_database_that_changes_meanwhile_is_not_trusted(tmp_path):
    path = made(tmp_path / "db", [(1, b"x" * 5000)] * 50)
    seen = rows(Host(str(tmp_path)), "/db", "t")
    next(seen)
    os.utime(path, (1, 1))
    with pytest.raises(CannotLookError, match="changed while it was read"):
        list(seen)


def test_what_is_not_there_is_absent(tmp_path):
    with pytest.raises(AbsentError):
        read(tmp_path / "db")


def test_another_table_a_view_and_another_file_are_refused(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection:
        connection.execute(
            "CREATE VIEW t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n"
        )
    (tmp_path / "text").write_bytes(b"SQLite format 2\0" + b"x" * 2000)
    for name, said in (("db", "no table t"), ("text", "not an SQLite database")):
        with pytest.raises(CannotLookError, match=said):
            read(tmp_path / name)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "db")
    with pytest.raises(CannotLookError, match="not a regular file"):
        read(tmp_path / "db")


@settings(IN_ONE_PLACE, max_examples=150)
@given(st.data())
def test_any_damage_is_an_error_or_rows_and_ends(tmp_path, data):
    path = made(tmp_path / "db", [(number, b"x" * (number * 37 % 900)) for number in range(60)])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(16, len(content) - 1))
        content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4) | st.just(b"\0\0\0\2"))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    with contextlib.suppress(CannotLookError):
        assert sum(len(row) for row in read(path)) < 100_000


def test_branches_without_end_are_refused(tmp_path):
    """A page whose branches all lead to one other, which leads back."""
    page = bytearray(made(tmp_path / "db", [(number, b"x" * 100) for number in range(200)]).read_bytes())
    root = next(number for number in range(1, len(page) // 512) if page[number * 512] == 5) * 512
    (tmp_path / "db").write_bytes(
        bytes(page[: root + 8]) + bytes([0, 0, 0, root // 512 + 1]) + bytes(page[root + 12 :])
    )
    with pytest.raises(CannotLookError, match="damaged"):
        read(tmp_path / "db")
