"""Make the advisory database that ships with the program, from sources that are kept in the repository.

``make advisories`` makes it again, byte for byte. ``make advisories FROM=all.zip KEV=kev.json DATE=2026-07-23`` first
takes newer sources: of each published record only what the database is made from.
"""

from __future__ import annotations

import argparse
import datetime as dt
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from agent.advisories import database, exports
from agent.advisories.building import Gates, Inputs, Made, build
from agent.advisories.normalising import summary
from agent.advisories.records import Affected, Record, decoded
from release.wheels import ROOT

SOURCES = ROOT / "release" / "sources"
RECORDS, EXPLOITED, DATE = SOURCES / "pypi.jsonl.xz", SOURCES / "kev.jsonl.xz", SOURCES / "date"


def main() -> None:
    """Make the snapshot, from newer sources if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="records", default="", help="an OSV export of PyPI")
    parser.add_argument("--kev", default="", help="CISA's catalogue")
    parser.add_argument("--date", default="", help="the day of the newer sources")
    chosen = parser.parse_args()
    if chosen.records:
        lines = sorted(stripped(decoded(document)) for document in exports.documents(chosen.records))
        RECORDS.write_bytes(lzma.compress(b"".join(lines), preset=9 | lzma.PRESET_EXTREME))
        DATE.write_text(dt.date.fromisoformat(chosen.date).isoformat() + "\n", encoding="ascii")
    if chosen.kev:
        catalogue = exports.exploited(chosen.kev)
        EXPLOITED.write_bytes(lzma.compress(b"".join(_entries(catalogue)), preset=9 | lzma.PRESET_EXTREME))
    for each in made().built:
        Path(database.EMBEDDED, f"{each.shard.name}.sqlite").write_bytes(each.content)
        print(f"{each.shard.name}  {each.shard.records} advisories  {len(each.content) / 1e6:.2f} MB")  # noqa: T201 -- what make says


def made() -> Made:
    """The database of the sources in the repository."""
    date = dt.date.fromisoformat(DATE.read_text(encoding="ascii").strip())
    return build(Inputs(records=(str(RECORDS),), exploited=str(EXPLOITED)), date=date, gates=Gates())


def stripped(record: Record) -> bytes:
    """A record as a line of JSON, with no more than the database is made from."""
    kept: dict[str, Any] = {"id": record.id, "modified": record.modified}
    if record.withdrawn:
        kept["withdrawn"] = record.withdrawn
    else:
        kept |= {
            "aliases": record.aliases,
            "summary": summary(record),
            "severity": record.severity,
            "database_specific": record.database_specific,
            "affected": [_stripped(each) for each in record.affected or ()],
        }
    return msgspec.json.encode({name: value for name, value in kept.items() if value}) + b"\n"


def _stripped(affected: Affected) -> dict[str, Any]:
    kept = {
        "package": affected.package,
        "ranges": [
            {"type": each.type, "events": [_set(event) for event in each.events]}
            for each in affected.ranges or ()
            if each.type != "GIT"
        ],
        "versions": affected.versions,
    }
    return {name: value for name, value in kept.items() if value}


def _set(value: msgspec.Struct) -> dict[str, Any]:
    return {name: field for name, field in msgspec.to_builtins(value).items() if field is not None}


def _entries(catalogue: exports.Exploited) -> Iterator[bytes]:
    for flaw, ransomware in sorted(catalogue.flaws.items()):
        yield (
            msgspec.json.encode(
                {
                    "cveID": flaw,
                    "dateAdded": catalogue.date,
                    "knownRansomwareCampaignUse": "Known" if ransomware else "Unknown",
                }
            )
            + b"\n"
        )


if __name__ == "__main__":
    main()
