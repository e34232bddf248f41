"""What passes between the ledger and a sink: who speaks, a batch of events, and what became of each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from agent.model import Event, Value

MAXIMUM_EVENTS = 1_000
"""Events in one batch. No limit on entries is published; Google's own Ops Agent sends as many at once."""

MAXIMUM_BYTES = 4 << 20
"""Encoded bytes in one batch, well under the 10,485,760 of a request: https://cloud.google.com/logging/quotas"""

_ENVELOPE = 1_536
"""What names, labels and the identity add to an event on the wire, rounded up."""


class Identity(Value, frozen=True, kw_only=True):
    """Which machine speaks. Off Google Cloud ``zone`` is empty and ``instance_id`` is the machine's own identity."""

    project_id: str = ""
    instance_id: str = ""
    zone: str = ""
    instance_name: str = ""
    machine_type: str = ""
    image: str = ""
    hostname: str = ""
    epoch: str = ""
    agent_version: str = ""

    @property
    def name(self) -> str:
        """What people call the machine."""
        return self.instance_name or self.hostname


class Delivery(Value, frozen=True, kw_only=True):
    """What became of a batch, by sequence. What is in neither set was not taken and is to be sent again."""

    accepted: frozenset[int] = frozenset()
    rejected: Mapping[int, str] = {}
    """Never taken, however often it is sent, with the reason."""
    problem: str = ""
    """Why the rest was not taken; empty when all is settled."""
    advice: str = ""
    """What the operator can do about it; empty when it passes by itself."""


class Sink(Protocol):
    """A place that takes events.

    ``send`` tries once, says entry by entry what was taken, and raises for nothing that the other side does.
    """

    name: str

    def send(self, events: Sequence[Event], identity: Identity) -> Delivery:
        """Offer one batch."""


def batches(
    events: Iterable[Event], *, count: int = MAXIMUM_EVENTS, size: int = MAXIMUM_BYTES
) -> Iterator[tuple[Event, ...]]:
    """The events in order, in batches within both limits; one that is too large by itself goes alone.

    Takes no more of the stream than the batch in hand, so that a long backlog costs no memory.
    """
    batch: list[Event] = []
    held = 0
    for event in events:
        weight = _weight(event)
        if batch and (len(batch) >= count or held + weight > size):
            yield tuple(batch)
            batch, held = [], 0
        batch.append(event)
        held += weight
    if batch:
        yield tuple(batch)


def _weight(event: Event) -> int:
    """About the bytes of an event on the wire, where the client escapes all that is not ASCII."""
    return _ENVELOPE + len(json.dumps(msgspec.to_builtins(event)))
