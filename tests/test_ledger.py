"""The ledger: history in order, state in step with it, and nothing lost or doubled."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3

import pytest

from agent.ledger import Look
from agent.ledger_file import reading, writing
from agent.model import EventKind, Severity, Unknown
from agent.outbox import Outbox
from agent.state import State, StateError
from tests.fakes.outcomes import TAKEN, judged, outcome

CATALOGUE = {"door-open"}
LATER = TAKEN + dt.timedelta(hours=1)


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


def record(state, *outcomes, catalogue=CATALOGUE, looks=()):
    events, notice = writing(state, lambda ledger: ledger.record(outcomes, looks=looks, catalogue=catalogue))
    assert not notice
    return [(event.change.kind.value, event.change.finding.subject) for event in events]


@contextlib.contextmanager
def existing(state):
    with reading(state) as ledger:
        assert ledger is not None
        yield ledger


def held(state):
    with existing(state) as ledger:
        return sorted(each.finding.subject for each in ledger.open())


def test_without_a_first_scan_there_is_no_ledger(state):
    with reading(state) as ledger:
        assert ledger is None
    assert not os.path.exists(state.directory)


def test_the_same_facts_twice_give_no_event(state):
    assert record(state, outcome("front", "back")) == [("opened", "front"), ("opened", "back")]
    assert record(state, outcome("front", "back", taken=LATER)) == []


def test_a_finding_comes_changes_goes_and_comes_back_under_one_identity(state):
    record(state, outcome("front"))
    ajar = outcome("front", taken=LATER)
    ajar = type(ajar)(check=ajar.check, taken=LATER, findings=(judged("front", detail="ajar"),))
    record(state, ajar)
    record(state, outcome(taken=LATER))
    record(state, outcome("front", taken=LATER))
    with existing(state) as ledger:
        history = ledger.history("door-open", "front")
    assert [event.change.kind.value for event in history] == ["opened", "changed", "resolved", "opened"]
    assert [event.sequence for event in history] == [1, 2, 3, 4]


def test_what_stands_keeps_the_time_at_which_it_was_opened(state):
    record(state, outcome("front"))
    with existing(state) as ledger:
        ((first),) = ledger.open()
    changed = outcome(taken=LATER)
    changed = type(changed)(check="door-open", taken=LATER, findings=(judged("front", severity=Severity.LOW),))
    record(state, changed)
    with existing(state) as ledger:
        ((second),) = ledger.open()
    assert (second.since, second.finding.severity) == (first.since, Severity.LOW)


def test_the_first_judgement_of_a_check_is_marked_as_initial(state):
    writing(state, lambda ledger: ledger.record([outcome("front")], looks=(), catalogue=CATALOGUE))
    writing(state, lambda ledger: ledger.record([outcome("front", "back", taken=LATER)], looks=(), catalogue=CATALOGUE))
    with existing(state) as ledger:
        assert [event.initial for event in ledger.newest(2)] == [False, True]


def test_an_insert_id_is_frozen_unique_and_in_order(state):
    record(state, outcome("front", "back"))
    with existing(state) as ledger:
        first = [(event.uid, event.time) for event in ledger.newest(9)]
        assert [event.uid for event in Outbox(ledger, "any").waiting(9)] == sorted(uid for uid, _ in first)
    record(state, outcome("front", "back", "side", taken=LATER))
    with existing(state) as ledger:
        assert [(event.uid, event.time) for event in ledger.newest(9)][1:] == first


def test_older_facts_that_come_late_do_not_turn_the_history_back(state):
    record(state, outcome("front", taken=LATER))
    assert record(state, outcome(taken=TAKEN)) == []
    assert held(state) == ["front"]


def test_a_clock_that_was_ahead_does_not_freeze_the_ledger(state):
    tomorrow = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=400)
    record(state, outcome("front", taken=tomorrow))
    assert record(state, outcome(taken=dt.datetime.now(dt.timezone.utc))) == [("resolved", "front")]


def test_a_check_that_is_gone_takes_its_judgement_with_it(state):
    record(state, outcome("front", unknown=(Unknown(reason="dark", scope="cellar"),)))
    assert record(state, catalogue=set()) == [("resolved", "front")]
    with existing(state) as ledger:
        assert ledger.unknown() == {}


def test_looks_and_unknowns_are_remembered(state):
    dark = Unknown(reason="dark")
    record(state, outcome(unknown=(dark,)), looks=[Look(topic="doors", taken=TAKEN, unknowns=(dark,))])
    with existing(state) as ledger:
        assert ledger.unknown() == {"door-open": (dark,)}
        assert ledger.looks() == (Look(topic="doors", taken=TAKEN, unknowns=(dark,)),)
        assert ledger.last_taken() == TAKEN


def test_a_failure_inside_leaves_no_trace(state):
    record(state, outcome("front"))

    def work(ledger):
        with ledger.transaction():
            ledger.connection.execute("DELETE FROM events")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing(state, work)
    assert held(state) == ["front"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"not a database at all", b"SQLite format 3\x00" + b"\xff" * 5000],
    ids=["emptied", "other file", "garbage pages"],
)
def test_a_damaged_ledger_is_set_aside_said_and_begun_anew(state, damage):
    record(state, outcome("front"))
    with open(state.ledger, "wb") as file:
        file.write(damage)
    events, notice = writing(state, lambda ledger: ledger.record([outcome("front")], looks=(), catalogue=CATALOGUE))
    assert [event.change.kind for event in events] == [EventKind.OPENED]
    assert bool(notice) == bool(damage)
    kept = [name for name in os.listdir(os.path.dirname(state.ledger)) if "damaged" in name]
    assert len(kept) == bool(damage)


def test_a_damaged_row_is_damage_too_and_the_epoch_changes(state):
    record(state, outcome("front"))
    with existing(state) as ledger:
        epoch = ledger.epoch
    with contextlib.closing(sqlite3.connect(state.ledger, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET change = 'x'")
    with pytest.raises(StateError, match="damaged"), existing(state) as ledger:
        list(ledger.open())
    _, notice = writing(state, lambda ledger: ledger.record([outcome("front")], looks=(), catalogue=CATALOGUE))
    assert "moved to" in notice
    with existing(state) as ledger:
        assert ledger.epoch != epoch


def test_a_ledger_of_a_newer_version_is_left_alone(state):
    record(state, outcome("front"))
    with contextlib.closing(sqlite3.connect(state.ledger)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer dlvmguard"):
        record(state, outcome("front"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_directory_that_may_not_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="state"):
        record(State(str(tmp_path / "state")), outcome("front"))


def test_a_ledger_that_is_locked_for_long_is_said_and_not_broken(state, monkeypatch):
    record(state, outcome("front"))
    monkeypatch.setattr("agent.ledger_file._BUSY_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(state.ledger, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="locked"):
            record(state, outcome())
    assert held(state) == ["front"]


def test_a_sink_gets_what_it_has_not_settled_in_order(state):
    record(state, outcome("a", "b", "c", "d"))

    def work(ledger):
        outbox = Outbox(ledger, "cloud")
        outbox.settle({1, 3}, {}, problem="half way")
        first = ([event.sequence for event in outbox.waiting(9)], outbox.progress())
        outbox.settle({4}, {2: "too large"})
        return first, ([event.sequence for event in outbox.waiting(9)], outbox.progress())

    ((waiting, before), (rest, after)), _ = writing(state, work)
    assert (waiting, before.waiting, before.problem) == ([2, 4], 2, "half way")
    assert (rest, after.waiting, after.rejected, after.problem) == ([], 0, 1, "")


def test_two_sinks_do_not_know_of_each_other(state):
    record(state, outcome("a", "b"))

    def work(ledger):
        Outbox(ledger, "cloud").settle({1, 2}, {})
        return [event.sequence for event in Outbox(ledger, "file").waiting(9)]

    assert writing(state, work)[0] == [1, 2]
