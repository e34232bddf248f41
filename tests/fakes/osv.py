"""Records of the OSV schema, made for one test."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.advisories.advisory import Advisory, Range, Shard
from agent.advisories.records import Record, decoded
from agent.advisories.shards import packed

BUILT = dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc)


def a_record(
    record_id: str,
    name: str,
    *events: tuple[str, str],
    ecosystem: str = "PyPI",
    versions: tuple[str, ...] = (),
    specific: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A record about one package; ``events`` make one range, and ``fields`` are those of the record."""
    affected: dict[str, Any] = {"package": {"ecosystem": ecosystem, "name": name}, "versions": versions}
    if events:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [{kind: version} for kind, version in events]}]
    if specific:
        affected["ecosystem_specific"] = specific
    return {"id": record_id, "modified": "2026-11-20T00:00:00Z", "affected": [affected], **fields}


def read(record: Mapping[str, Any]) -> Record:
    """The record as it is read from an export."""
    return decoded(msgspec.json.encode(record))


def an_export(path: Path, *records: Mapping[str, Any]) -> str:
    """A file with a record a line."""
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in records))
    return str(path)


def a_shard(name: str = "pypi", ecosystem: str = "PyPI", *, built: dt.datetime = BUILT) -> Shard:
    """A shard of nothing yet."""
    return Shard(name=name, ecosystems=(ecosystem,), built=built, newest=built, records=0, sources=())


def an_advisory(number: int = 1, **fields: Any) -> Advisory:
    """An advisory about versions before 2."""
    name = f"CVE-2026-{number:04}"
    return Advisory(**{"id": name, "ids": (name,), "ranges": (Range(fixed="2"),), **fields})


def plant(path: Path, shard: Shard, packages: Mapping[str, tuple[Advisory, ...]]) -> Path:
    """A file of the database."""
    rows = ((shard.ecosystems[0], name, advisories) for name, advisories in packages.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(shard, rows)[1])
    return path
