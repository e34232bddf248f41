"""An advisory database that one test makes, and what is published about Python packages."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.advisories.advisory import Advisories, Advisory, Range, Shard, Source
from agent.advisories.versions import NotOrderedError, order
from tests.fakes.trees import NOW

RECORDS = os.environ.get("DLVMGUARD_PYPI_RECORDS", "")
"""A file of OSV records about PyPI packages, one JSON object a line."""


def a_shard(ecosystem: str, *, built: dt.datetime = NOW.now, name: str = "", source: str = "a test") -> Shard:
    where = Source(name=source, url="https://example.org", licence="CC0", attribution="", date=built.date(), records=1)
    name = name or ecosystem.lower().replace(":", "-")
    return Shard(name=name, ecosystems=(ecosystem,), built=built, newest=built, records=1, sources=(where,))


def an_advisory(id: str, *spans: str, **more: Any) -> Advisory:  # noqa: A002 -- as the advisory calls it
    """An advisory; a span is written ``1.0 <= v < 2.0`` as ``1.0..2.0``, with ``..=2.0`` where 2.0 has it too."""
    return Advisory(id=id, ids=more.pop("ids", (id,)), ranges=tuple(map(_range, spans)), **more)


def _range(span: str) -> Range:
    introduced, _, end = span.partition("..")
    if end.startswith("="):
        return Range(introduced=introduced, last_affected=end[1:])
    return Range(introduced=introduced, fixed=end)


def known(about: Mapping[tuple[str, str], Iterable[Advisory]], *others: str, **more: Any) -> Advisories:
    """A database of these advisories by ecosystem and name; ``others`` are ecosystems with nothing in them."""
    rows = {key: tuple(value) for key, value in about.items()}
    ecosystems = sorted({ecosystem for ecosystem, _ in rows} | set(others))
    return Advisories([a_shard(each) for each in ecosystems], lambda *key: rows.get(key, ()), **more)


@functools.cache
def records() -> tuple[Mapping[str, Any], ...]:
    """The published records about PyPI packages, as OSV writes them; none where they are not there."""
    if not RECORDS:
        return ()
    return tuple(msgspec.json.decode(line) for line in Path(RECORDS).read_bytes().splitlines())


def of_record(record: Mapping[str, Any], affected: Mapping[str, Any]) -> Advisory:
    """What a record says about one package, with its bounds as they stand there."""
    ranges = [each for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM"]
    return Advisory(
        id=record["id"],
        ids=(record["id"], *record.get("aliases", ())),
        ranges=tuple(itertools.chain.from_iterable(_ranges(each["events"]) for each in ranges)),
        versions=() if ranges else tuple(affected.get("versions", ())),
    )


def _ranges(events: Iterable[Mapping[str, str]]) -> Iterable[Range]:
    """What an event begins ends at the next end; of several ends the nearest counts."""
    introduced: str | None = None
    for event in sorted(events, key=_place):
        kind, version = next(iter(event.items()))
        if kind == "introduced":
            introduced = version if introduced is None else introduced
        elif introduced is not None:
            yield Range(introduced=introduced, **{kind: version})
            introduced = None
    if introduced is not None:
        yield Range(introduced=introduced)


def _place(event: Mapping[str, str]) -> tuple[bool, Any]:
    """The order of events; what is no version comes last, and in the order in which it was written."""
    version = next(iter(event.values()))
    try:
        return (False, order("PyPI", version) if version != "0" else order("PyPI", "0.dev0"))
    except NotOrderedError:
        return (True, 0)
