"""The advisory database as people and programs see it: what it holds, how old, from where, under which licence."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rich.console import Console
from rich.text import Text

from agent.advisories.advisory import Advisories, Freshness, Shard, freshness
from agent.views.text import hang, moment

_INDENT = 16
_MEANING = {
    Freshness.OK: "",
    Freshness.STALE: "stale: what was published since is not known",
    Freshness.DEGRADED: "degraded: much may have been published since",
}


def as_data(advisories: Advisories, now: dt.datetime) -> dict[str, Any]:
    """As ``dlvmguard advisories info --format json`` prints it."""
    return {
        "schema": "dlvmguard.advisories/1",
        "taken": now,
        "freshness": freshness(advisories.shards, now).value,
        "shards": [_shard(each, now) for each in advisories.shards],
        "problems": list(advisories.problems),
    }


def _shard(shard: Shard, now: dt.datetime) -> dict[str, Any]:
    return {
        "name": shard.name,
        "ecosystems": list(shard.ecosystems),
        "origin": shard.origin,
        "serial": shard.serial,
        "built": shard.built,
        "newest": shard.newest,
        "records": shard.records,
        "freshness": freshness((shard,), now).value,
        "sources": [
            {
                "name": each.name,
                "url": each.url,
                "licence": each.licence,
                "attribution": each.attribution,
                "date": each.date,
                "records": each.records,
            }
            for each in shard.sources
        ],
    }


def draw(console: Console, advisories: Advisories, now: dt.datetime) -> None:
    """Every shard with its sources, then what could not be used."""
    for shard in advisories.shards:
        days = (now - shard.built).days
        age = f"{days} day{'' if days == 1 else 's'} old"
        console.print(Text.assemble((shard.name, "bold"), f"   {shard.records} advisories, {age}, {shard.origin}"))
        if meaning := _MEANING[freshness((shard,), now)]:
            hang(console, Text(meaning, style="yellow"), indent=_INDENT)
        serial = f", serial {shard.serial}" if shard.serial else ""
        hang(console, ", ".join(shard.ecosystems), label=Text("about", style="dim"), indent=_INDENT)
        hang(console, f"{moment(shard.built)}{serial}", label=Text("built", style="dim"), indent=_INDENT)
        hang(console, moment(shard.newest), label=Text("newest record", style="dim"), indent=_INDENT)
        for source in shard.sources:
            said = f"{source.attribution} ({source.licence}): {source.records} records as of {source.date}"
            hang(console, said, label=Text("from", style="dim"), indent=_INDENT)
        console.print()
    for problem in advisories.problems:
        hang(console, Text(problem, style="yellow"), indent=2)
    if not advisories.shards:
        console.print(Text("There is no advisory database: nothing that is installed can be judged by one."))
    else:
        console.print(Text(f"Of other ecosystems nothing is known. As a whole it is {_whole(advisories, now)}."))


def _whole(advisories: Advisories, now: dt.datetime) -> str:
    return freshness(advisories.shards, now).value
