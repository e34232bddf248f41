"""Snaps: what is installed, by name and version."""

from __future__ import annotations

from agent.model import Fact, Value


class Snap(Value, frozen=True, kw_only=True):
    """An installed snap at its current revision."""

    name: str
    version: str
    revision: str


class Snaps(Fact, frozen=True, kw_only=True):
    """The installed snaps, by name; none where snapd is not there."""

    snaps: tuple[Snap, ...] = ()
