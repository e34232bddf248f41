"""Looking: run the probes, one after the other, and keep what they saw as one snapshot."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from agent import __version__
from agent.config import Config
from agent.evaluate import Facts
from agent.host import Host
from agent.model import Fact, Probe, Seen, Unknown, Value, attempt
from agent.state import StateError


class Look(Value, frozen=True, kw_only=True):
    """What one probe saw, when, and how long it took."""

    probe: Probe[Any]
    taken: dt.datetime
    seconds: float
    fact: Fact | Unknown

    @property
    def unknowns(self) -> tuple[Unknown, ...]:
        """What it could not see: everything, or the gaps of what it saw."""
        return (self.fact,) if isinstance(self.fact, Unknown) else self.fact.gaps


def collect(
    probes: Iterable[Probe[Any]],
    host: Host,
    config: Config,
    *,
    before: Callable[[Probe[Any]], None] | None = None,
    earlier: Callable[[Probe[Any]], Fact | None] = lambda _probe: None,
) -> tuple[Look, ...]:
    """Run the probes; one that fails is an Unknown and stops no other.

    ``before`` is told what comes next; ``earlier`` gives a probe that remembers the fact that it returned last.
    """
    looks = []
    for probe in probes:
        if before:
            before(probe)
        looks.append(_look(probe, (host, config, earlier(probe)) if probe.remembers else (host, config)))
    return tuple(looks)


def _look(probe: Probe[Any], arguments: tuple[Any, ...]) -> Look:
    taken, start = dt.datetime.now(dt.timezone.utc), time.monotonic()
    fact = attempt(lambda: probe.look(*arguments), what=f"probe {probe.name}")
    return Look(probe=probe, taken=taken, seconds=time.monotonic() - start, fact=fact)


def facts(looks: Iterable[Look]) -> Facts:
    """What was seen, as the checks ask for it."""
    return {look.probe.fact: Seen(fact=look.fact, taken=look.taken) for look in looks}


_NOTHING = msgspec.Raw(b"null")


class Saved(Value, frozen=True, kw_only=True):
    """A look as it is kept in a file. Exactly one of ``fact`` and ``unknown`` is not null."""

    probe: str
    topic: str
    taken: dt.datetime
    seconds: float
    fact: msgspec.Raw = _NOTHING
    unknown: Unknown | None = None

    def digest(self) -> bytes:
        """What is another one if something else was seen, whenever."""
        return hashlib.sha256(bytes(self.fact) + msgspec.json.encode(self.unknown)).digest()


class _Snapshot(Value, frozen=True, kw_only=True):
    """The file that one side hands to the other."""

    agent_version: str
    looks: tuple[Saved, ...]


def saved(look: Look) -> Saved:
    """A look as it is kept."""
    return Saved(
        probe=look.probe.name,
        topic=look.probe.topic,
        taken=look.taken,
        seconds=round(look.seconds, 6),
        fact=_NOTHING if isinstance(look.fact, Unknown) else msgspec.Raw(msgspec.json.encode(look.fact)),
        unknown=look.fact if isinstance(look.fact, Unknown) else None,
    )


def encode(looks: Iterable[Look]) -> bytes:
    """A snapshot as JSON."""
    return snapshot(map(saved, looks))


def snapshot(looks: Iterable[Saved]) -> bytes:
    """A snapshot as JSON, of looks as they are kept."""
    return msgspec.json.encode(_Snapshot(agent_version=__version__, looks=tuple(looks)))


def merged(text: bytes | None, fresh: Iterable[Saved]) -> bytes:
    """A snapshot with these looks in the place of older ones; of a probe that is not among them, what it saw stays.

    The facts that stay are not decoded. A damaged snapshot has nothing worth keeping, and is replaced whole.
    """
    looks = {each.probe: each for each in _looks(text)}
    looks.update((each.probe, each) for each in fresh)
    return snapshot(looks.values())


def _looks(text: bytes | None) -> tuple[Saved, ...]:
    """What a snapshot holds; nothing where there is none, or a damaged one."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        return msgspec.json.decode(text, type=_Snapshot).looks if text else ()
    return ()


def remembered(text: bytes | None) -> Callable[[Probe[Any]], Fact | None]:
    """What each probe returned last, according to a snapshot. Where it tells nothing, there is no memory."""
    looks = functools.cache(lambda: {each.probe: each for each in _looks(text)})

    def earlier(probe: Probe[Any]) -> Fact | None:
        known = looks().get(probe.name)
        fact = _restored(known, probe).fact if known else None
        return fact if isinstance(fact, Fact) else None

    return earlier


def decode(text: bytes, probes: Sequence[Probe[Any]]) -> tuple[Look, ...]:
    """A snapshot back as looks; of a probe that does not exist (any more) nothing comes back.

    Raises:
        StateError: the file is no snapshot.
    """
    try:
        snapshot = msgspec.json.decode(text, type=_Snapshot)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"the snapshot of facts is damaged: {error}") from error
    by_name = {probe.name: probe for probe in probes}
    return tuple(_restored(saved, by_name[saved.probe]) for saved in snapshot.looks if saved.probe in by_name)


def _restored(saved: Saved, probe: Probe[Any]) -> Look:
    fact: Fact | Unknown
    try:
        fact = saved.unknown or msgspec.json.decode(saved.fact, type=probe.fact)
    except (msgspec.MsgspecError, ValueError) as error:
        # Seen by another version of dlvmguard, whose facts had another shape: not seen, for us.
        fact = Unknown(reason=f"what {probe.name} saw cannot be read back: {error}", hint="Scan again.")
    return Look(probe=probe, taken=saved.taken, seconds=saved.seconds, fact=fact)
