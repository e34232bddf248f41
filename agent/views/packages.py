"""What is installed and what is wrong with it: for a person, and as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from agent import __version__
from agent.advisories import fixing, versions
from agent.advisories.advisory import Shard
from agent.advisories.matching import Match, Matched
from agent.formats.bill import Bill
from agent.formats.purl import purl
from agent.inventory import Component
from agent.model import Check, Judged, Outcome, Unknown, Value
from agent.views import data
from agent.views.summary import counted, in_words
from agent.views.text import STYLE, draw_reasons, hang

_INDENT = 12
_DETAILS = 3
"""Flaws of one package that are described one by one."""
_PLACES = 5


class Listing(Value, frozen=True, kw_only=True):
    """Everything installed, what matches the advisories, and what the checks make of it.

    ``unknowns`` are what of it could not be looked at; what could not be judged stands in ``outcomes``.
    """

    machine: str
    taken: dt.datetime
    components: tuple[Component, ...]
    matched: Matched
    outcomes: tuple[Outcome, ...]
    shards: tuple[Shard, ...]
    unknowns: tuple[Unknown, ...]

    @property
    def findings(self) -> tuple[Judged, ...]:
        """The flaws of packages, worst first; the checks find things about the database besides."""
        found = (finding for outcome in self.outcomes for finding in outcome.findings if "#" in finding.subject)
        return tuple(sorted(found, key=lambda each: (each.severity.rank, each.subject)))

    @property
    def unjudged(self) -> tuple[Unknown, ...]:
        """What could not be looked at or not be judged, each once."""
        said = (unknown for outcome in self.outcomes for unknown in outcome.unknowns)
        return tuple(dict.fromkeys((*self.unknowns, *said)))

    @property
    def bill(self) -> Bill:
        """The same as a bill of materials."""
        return Bill(
            agent_version=__version__,
            machine=self.machine,
            taken=self.taken,
            components=self.components,
            unknowns=self.unknowns,
        )


def draw_installed(console: Console, listing: Listing, components: Sequence[Component]) -> None:
    """Every package under the place where it is installed."""
    places = _by_place(components)
    console.print(
        Text.assemble((f"{len(components)} packages in {len(places)} places", "bold"), f"   {listing.machine}")
    )
    for place, found in places.items():
        console.print()
        about = ", ".join(filter(None, (found[0].kind, found[0].interpreter)))
        console.print(Text.assemble((place, "bold underline"), f"   {about}, {len(found)} packages"))
        for each in found:
            aside = "  ".join(filter(None, (each.installer, each.owner, _built(each))))
            console.print(Text.assemble(f"  {each.name} {each.version}", (f"   {aside}" if aside else "", "dim")))
    _draw_rest(console, listing)


def draw_vulnerable(console: Console, listing: Listing, findings: Sequence[Judged], *, everything: bool) -> None:
    """The packages that have known flaws, the most urgent first, each with what fixes it where."""
    remedies = _remedies(listing)
    for name, found in _by_package(findings).items():
        worst = found[0]
        heading = Text.assemble((_called(name, found), "bold"), f"   {in_words(counted(found))}")
        hang(console, heading, label=Text(worst.severity.value.upper(), style=STYLE[worst.severity]), indent=_INDENT)
        listed = found if everything else found[:_DETAILS]
        for each in listed:
            hang(console, Text.assemble("- ", each.detail, (f"   [{each.id}]", "dim")), indent=_INDENT)
        if rest := len(found) - len(listed):
            hang(
                console, Text(f"- and {rest} more: dlvmguard packages --vulnerable --all", style="dim"), indent=_INDENT
            )
        _draw_remedies(console, found, remedies, everything=everything)
        console.print()
    packages = len(_by_package(findings))
    summed = f"{in_words(counted(findings))} flaws in {packages} packages" if findings else "no known flaws found"
    console.print(Text(summed, style="bold"))
    _draw_rest(console, listing)


def _draw_remedies(console: Console, found: Sequence[Judged], remedies: Mapping[str, str], *, everything: bool) -> None:
    """One command for each place, which brings what fixes all of its flaws."""
    places = list(dict.fromkeys(instance.place for each in found for instance in each.instances))
    fixes: dict[str, list[str]] = {}
    for place in places:
        fixes.setdefault(remedies.get(place, found[0].fix), []).append(place)
    listed = list(fixes.items()) if everything else list(fixes.items())[:_PLACES]
    for fix, concerned in listed:
        hang(
            console,
            Text.assemble(("where  ", "dim"), ", ".join(_shortened(concerned, everything=everything))),
            indent=_INDENT,
        )
        hang(console, Text.assemble(("fix    ", "dim"), (fix, "green")), indent=_INDENT)
    if rest := len(fixes) - len(listed):
        hang(console, Text(f"and {rest} more places: --all", style="dim"), indent=_INDENT)


def _draw_rest(console: Console, listing: Listing) -> None:
    """What the answer rests on, and what is missing from it."""
    coverage = listing.matched.coverage
    console.print()
    shards = ", ".join(f"{shard.name} of {shard.newest:%Y-%m-%d}" for shard in listing.shards) or "no advisories at all"
    unseen = sum(coverage.without_shard.values())
    console.print(
        Text(f"{coverage.compared} packages compared with {shards}" + (f"; {unseen} with nothing" if unseen else ""))
    )
    if listing.unjudged:
        console.print()
        console.print(Text("Could not be judged", style="bold underline"))
        draw_reasons(console, [("", each) for each in listing.unjudged])


def as_data(
    listing: Listing, components: Iterable[Component], findings: Sequence[Judged], checks: Mapping[str, Check]
) -> dict[str, Any]:
    """The same for programs."""
    coverage = listing.matched.coverage
    return {
        "schema": "dlvmguard.packages/1",
        "machine": listing.machine,
        "taken": listing.taken,
        "counts": {severity.value: count for severity, count in counted(findings).items()},
        "packages": [_package(each) for each in components],
        "findings": [data.finding(each, checks) for each in findings],
        "coverage": {
            "compared": coverage.compared,
            "left_out": dict(coverage.left_out),
            "without_advisories": dict(coverage.without_shard),
        },
        "unknown": data.unknowns(listing.unjudged),
    }


_FIELDS = (
    "ecosystem", "name", "version", "place", "kind", "source", "source_version", "architecture", "installer",
    "interpreter", "owner", "built", "inside", "path", "module", "left_out",
)  # fmt: skip


def _package(component: Component) -> dict[str, str]:
    return {"purl": purl(component), **{name: getattr(component, name) for name in _FIELDS}}


def _by_place(components: Iterable[Component]) -> dict[str, list[Component]]:
    places: dict[str, list[Component]] = {}
    for each in sorted(components, key=lambda each: (each.place, each.name, each.version)):
        places.setdefault(each.place, []).append(each)
    return places


def _by_package(findings: Iterable[Judged]) -> dict[str, list[Judged]]:
    """The findings of one package together, those first of which one is worst."""
    packages: dict[str, list[Judged]] = {}
    for each in findings:
        packages.setdefault(each.subject.partition("#")[0], []).append(each)
    return dict(sorted(packages.items(), key=lambda item: [found.severity.rank for found in item[1]]))


def _called(name: str, found: Sequence[Judged]) -> str:
    """The package with the versions that are affected."""
    affected = sorted({instance.version for each in found for instance in each.instances if instance.version})
    shown = ", ".join(affected[:_DETAILS]) + (" …" if len(affected) > _DETAILS else "")
    return f"{name.partition(':')[2] or name} {shown}".rstrip()


def _built(component: Component) -> str:
    return "" if component.built == "release" else component.built


def _shortened(places: Sequence[str], *, everything: bool) -> Iterator[str]:
    listed = places if everything else places[:_PLACES]
    yield from listed
    if rest := len(places) - len(listed):
        yield f"and {rest} more"


def _remedies(listing: Listing) -> dict[str, str]:
    """For each component, what fixes all of its flaws that can be fixed."""
    matches: dict[str, list[Match]] = {}
    for found in listing.matched.vulnerabilities:
        for each in found.affected:
            matches.setdefault(each.component.key, []).append(each)
    return {key: _remedy(found) for key, found in matches.items()}


def _remedy(found: Sequence[Match]) -> str:
    """The fix that brings the latest of the fixed versions; it has the others too."""
    fixable = [each for each in found if each.fixed]
    if not fixable:
        return found[0].fix
    component = found[0].component

    def wanted(each: Match) -> str:
        return each.fixed_in_major or each.fixed

    latest = max(fixable, key=lambda each: versions.order(component.ecosystem, wanted(each)))
    return fixing.advice(component, fixed=wanted(latest), needs=latest.advisory.fix_needs)
