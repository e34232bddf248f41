"""An advisory database that one test makes, and what is published about Python packages."""

from __future__ import annotations

import datetime as dt
import functools
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.advisories import database
from agent.advisories.advisory import Advisories, Advisory, Range, Shard, Source
from agent.facts.python_distributions import normalised
from tests.fakes.trees import NOW

RECORDS = Path(__file__).parents[2] / "release" / "sources" / "pypi.jsonl.xz"


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
    """The published records about Python packages that stand, as OSV writes them, of which the snapshot is made."""
    lines = lzma.decompress(RECORDS.read_bytes()).splitlines()
    found = (msgspec.json.decode(line) for line in lines)
    return tuple(each for each in found if not each.get("withdrawn"))


@functools.cache
def shipped() -> Mapping[str, Mapping[str, Advisory]]:
    """What the database that ships with the program says of each of their packages, by the id of the record."""
    names = {affected["package"]["name"] for record in records() for affected in record["affected"]}
    with database.opened(None) as advisories:
        about = {name: advisories.about("PyPI", normalised(name)) for name in names}
    return {name: {each: advisory for advisory in said for each in advisory.ids} for name, said in about.items()}
