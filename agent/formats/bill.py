"""What a software bill of materials is made of, whichever format it is written in. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable

from agent.formats.purl import purl
from agent.inventory import Component
from agent.model import Unknown, Value


class Bill(Value, frozen=True, kw_only=True):
    """Everything installed on one machine at one time, and what could not be looked at."""

    agent_version: str
    machine: str
    taken: dt.datetime
    components: tuple[Component, ...]
    unknowns: tuple[Unknown, ...] = ()

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that are others for other contents, machines or times."""
        text = "\0".join((self.machine, self.taken.isoformat(), *(entry.purl for entry in entries(self.components))))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Entry(Value, frozen=True, kw_only=True):
    """One thing in one version, wherever it is installed."""

    purl: str
    instances: tuple[Component, ...]

    @property
    def name(self) -> str:
        """Its name as installed."""
        return self.instances[0].name

    @property
    def version(self) -> str:
        """Its version as installed; empty where nothing tells it."""
        return self.instances[0].version


def entries(components: Iterable[Component]) -> tuple[Entry, ...]:
    """The components, those of one package URL together, in the order of these."""
    found: dict[str, list[Component]] = {}
    for component in components:
        found.setdefault(purl(component), []).append(component)
    return tuple(Entry(purl=name, instances=tuple(found[name])) for name in sorted(found))
