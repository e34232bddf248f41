"""When what is due: never early, never twice at once, never a storm, never given up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.schedule import LONGEST_BACKOFF, Allowance, Turn

seconds = st.floats(0, 1e7)
costs = st.floats(0, 1e4)
chances = st.floats(0, 1, exclude_max=True)
intervals = st.floats(1, 86400)


@given(every=intervals, now=seconds, cost=costs, chance=chances)
def test_a_look_is_never_repeated_before_its_interval(every, now, cost, chance):
    turn = Turn(every=every, due=now).looked(now, cost=cost, chance=chance)
    assert not turn.is_due(now)
    assert turn.due - now >= every * 0.999999
    assert turn.due - now <= max(every, 900) * 1.1 + 1


def test_a_costly_look_waits_longer_than_it_asks_for():
    turn = Turn(every=30, due=0)
    assert turn.looked(100, cost=0.01, chance=0).due == 130
    assert turn.looked(100, cost=0.1, chance=0).due == 300
    assert turn.looked(100, cost=1000, chance=0).due == 1000


def test_what_is_not_finished_goes_on_when_the_others_had_their_turn():
    assert Turn(every=60, due=0).looked(100, cost=5, chance=0.5, unfinished=True).is_due(100)


@given(every=intervals, wakes=st.lists(st.floats(0.1, 1e6), max_size=60), chance=chances)
def test_however_long_the_machine_slept_a_wake_up_brings_one_look(every, wakes, chance):
    turn, now, looks = Turn(every=every, due=0), 0.0, []
    for slept in wakes:
        now += slept
        if turn.is_due(now):
            turn = turn.looked(now, cost=0, chance=chance)
            looks.append(now)
        assert not turn.is_due(now)
    assert all(later - earlier >= every * 0.999999 for earlier, later in itertools.pairwise(looks))


@given(every=intervals, chance=chances, provocations=st.lists(st.floats(0, 5), max_size=50), cost=costs)
def test_provoking_without_end_does_not_get_a_core(every, chance, provocations, cost):
    turn, now = Turn(every=every, due=1e9), 0.0
    looks = []
    for pause in provocations:
        now += pause
        turn = turn.provoked(now)
        if turn.is_due(now):
            looks.append(now)
            turn = turn.looked(now, cost=cost, chance=chance)
    rest = min(cost * 20, 60)
    assert all(later - earlier >= rest * 0.999 - 1e-6 for earlier, later in itertools.pairwise(looks))


def test_a_provocation_is_heard_at_once_and_never_puts_a_look_off():
    assert Turn(every=3600, due=5000, last=100, cost=0.01).provoked(2000).is_due(2000)
    assert Turn(every=3600, due=1000, last=990, cost=60).provoked(999).due == 1000


def test_a_provocation_during_the_rest_is_not_lost():
    turn = Turn(every=3600, due=5000, last=100, cost=1).provoked(101)
    assert not turn.is_due(101)
    assert turn.is_due(120)


@given(every=intervals, chance=chances, cost=costs, count=st.integers(1, 40))
def test_failures_put_a_look_off_further_each_time_up_to_an_hour(every, chance, cost, count):
    turn, now, waits = Turn(every=every, due=0), 0.0, []
    for number in range(count):
        turn = turn.failed(now, "broken", cost=cost, chance=chance)
        assert turn.failures == number + 1
        waits.append(turn.due - now)
        assert turn.provoked(now).due == turn.due
        now = turn.due
    assert waits == pytest.approx(sorted(waits), rel=1e-6)
    assert all(min(every, LONGEST_BACKOFF) * 0.999 <= wait <= LONGEST_BACKOFF * 1.001 for wait in waits)
    assert turn.looked(now, cost=cost, chance=chance).failures == 0


@given(times=st.lists(st.floats(0, 100), max_size=100))
def test_an_allowance_gives_a_burst_and_then_one_at_a_time(times):
    allowance, now, used = Allowance.full(burst=5, every=60, now=0), 0.0, []
    for pause in times:
        now += pause
        allowance = allowance.refilled(now)
        if allowance.permits:
            allowance = allowance.used()
            used.append(now)
    for first, sixth in zip(used, used[6:], strict=False):
        assert sixth - first >= 59.9
    assert len(used) <= 5 + now / 60 + 1


def test_an_allowance_comes_back_while_the_machine_sleeps_but_not_more_than_a_burst():
    allowance = Allowance.full(burst=2, every=60, now=0).used().used()
    assert not allowance.refilled(59).permits
    assert allowance.refilled(61).permits
    rested = allowance.refilled(1e6).used().used()
    assert not rested.permits
