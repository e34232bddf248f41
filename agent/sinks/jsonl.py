"""A file of JSON lines: for people without Google Cloud, and for those whose logging agent does the sending.

Each batch opens the file anew, so that logrotate needs no signal. A batch is on disk before it counts as taken; a
kill between the two makes the next run write it again, with the same ``insertId`` and ``event_uid`` in each line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent import state
from agent.model import Event, Listed
from agent.sinks.delivery import Delivery, Identity
from agent.sinks.payload import json_line


class JsonLines:
    """Appends events to one file."""

    name = "jsonl"

    def __init__(self, path: str, catalogue: Mapping[str, Listed]) -> None:
        """Write to ``path``; the catalogue gives a finding its title."""
        self._path = path
        self._catalogue = catalogue

    def send(self, events: Sequence[Event], identity: Identity) -> Delivery:
        """Append the whole batch or nothing."""
        content = b"".join(json_line(event, identity, self._catalogue) for event in events)
        try:
            state.append(self._path, content)
        except state.StateError as error:
            return Delivery(
                problem=str(error), advice="Make sinks.jsonl.path a file that can be written to, on a disk with space."
            )
        return Delivery(accepted=frozenset(event.sequence for event in events))
