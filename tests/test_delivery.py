"""Batches are within the limits, complete, in order, and cost no more memory than one."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from agent.sinks.delivery import MAXIMUM_BYTES, MAXIMUM_EVENTS, batches
from agent.sinks.payload import log_entry
from tests.fakes.events import CATALOGUE, TIME, VM, an_event, some_events


def test_no_events_are_no_batch():
    assert list(batches([])) == []


def test_a_thousand_events_are_one_batch_and_one_more_is_another():
    assert [len(batch) for batch in batches(some_events(MAXIMUM_EVENTS + 1))] == [MAXIMUM_EVENTS, 1]


def test_an_event_beyond_the_limit_goes_alone():
    events = [an_event(1), an_event(2, detail="x" * MAXIMUM_BYTES), an_event(3)]
    assert [[event.sequence for event in batch] for batch in batches(events)] == [[1], [2], [3]]


def test_a_stream_is_read_no_further_than_the_batch_in_hand():
    numbers = itertools.count(1)
    next(batches((an_event(number) for number in numbers), count=10))
    assert next(numbers) == 12


@given(details=st.lists(st.text(st.characters(codec=None), max_size=400), max_size=30), size=st.integers(1, 20_000))
def test_batches_hold_every_event_in_order_and_stay_within_the_limit(details, size):
    events = [an_event(number, detail=detail) for number, detail in enumerate(details)]
    made = list(batches(events, count=7, size=size))
    assert [event for batch in made for event in batch] == events
    for batch in made:
        sent = json.dumps([log_entry(event, VM, CATALOGUE, now=TIME) for event in batch])
        assert 1 <= len(batch) <= 7
        assert len(batch) == 1 or len(sent) <= size
