"""A million events: answers stay quick to ask for, and memory stays flat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.ledger_file import reading, writing
from agent.model import Change, EventKind
from agent.outbox import Outbox
from agent.state import State
from tests.fakes.outcomes import judged

EVENTS = 1_000_000
PAIRS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO events SELECT n, '2026-11-23T12:00:00.000000Z', CASE WHEN n % 2 THEN 'opened' ELSE 'resolved' END,
'door-open', 'room' || ((n + 1) / 2), ?, 0 FROM numbers
"""
MEASURED = """
import sys
from agent import cli
try:
    cli.main(sys.argv[1:])
finally:
    with open("/proc/self/status") as status:
        sys.stderr.write(next(line for line in status if line.startswith("VmHWM")))
"""
"""The program, with the most memory that it ever had as its last words, in kibibytes."""


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A ledger of a million events: half a million findings that came and went."""
    state = State(str(tmp_path_factory.mktemp("million")))
    change = msgspec.json.encode(Change(kind=EventKind.OPENED, finding=judged("room"))).decode()
    writing(state, lambda ledger: ledger.connection.execute(PAIRS, (EVENTS, change)).close())
    return state


def mebibytes(state, *words):
    command = [sys.executable, "-c", MEASURED, "--state-dir", state.directory, *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert said.returncode in {0, 1}, said.stderr
    return int(said.stderr.split()[-2]) / 1024


@pytest.mark.slow
def test_status_answers_from_indexes_and_sorts_nothing(million):
    with reading(million) as ledger:
        assert ledger is not None
        for query in (
            "SELECT change, since FROM open JOIN events USING (sequence)",
            "SELECT sequence, time, change, initial FROM events ORDER BY sequence DESC LIMIT 10",
            "SELECT coalesce(max(sequence), 0) FROM events",
        ):
            plan = " ".join(row[3] for row in ledger.rows(f"EXPLAIN QUERY PLAN {query}"))
            assert "TEMP B-TREE" not in plan
        assert Outbox(ledger, "cloud").progress().waiting == EVENTS


@pytest.mark.slow
def test_memory_is_that_of_a_small_ledger(million, tmp_path):
    small = State(str(tmp_path))
    for words in (["scan", "--only", "machine"], ["status"]):
        assert mebibytes(million, *words) < mebibytes(small, *words) + 5
