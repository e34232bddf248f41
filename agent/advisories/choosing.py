"""Which shards of a published database this machine needs: its distribution's, and all that are of none. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.advisories.manifest import ManifestShard
from agent.facts.machine import ecosystem, parse_os_release

_DISTRIBUTIONS = {"AlmaLinux", "Debian", "Red Hat", "Rocky Linux", "SUSE", "Ubuntu"}
"""As OSV calls them; every other ecosystem may be on any machine: https://ossf.github.io/osv-schema/#defined-ecosystems"""
EVERYTHING = "*"


def ecosystems(os_release: str, also: Iterable[str]) -> tuple[str, ...]:
    """This machine's distribution in OSV's words, ``Debian:12``, ``Rocky Linux:9``, and those asked for beside it."""
    fields = parse_os_release(os_release)
    own = ecosystem(f"{fields.get('ID', '')} {fields.get('VERSION_ID', '')}")
    return tuple(sorted({*([own] if own else []), *also}))


def chosen(shards: Iterable[ManifestShard], wanted: tuple[str, ...]) -> tuple[ManifestShard, ...]:
    """The shards that answer for one of the wanted ecosystems, or for one that is no distribution's."""
    return tuple(shard for shard in shards if any(_is_wanted(each, wanted) for each in shard.ecosystems))


def _is_wanted(offered: str, wanted: tuple[str, ...]) -> bool:
    """``Ubuntu:Pro:22.04:LTS`` is wanted with ``Ubuntu:22.04``; ``Debian`` alone speaks of all its releases."""
    name, *rest = offered.split(":")
    if name not in _DISTRIBUTIONS or EVERYTHING in wanted:
        return True
    asked = [each.split(":") for each in wanted]
    return any(each[0] == name and (not rest or set(each[1:]) <= set(rest)) for each in asked)
