"""How things stand, from memory alone: the value, and how it looks in a terminal and as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from agent.ledger import Look, OpenFinding
from agent.model import Duty, Event, Judged, Listed, Severity, Unknown, Value
from agent.outbox import Progress
from agent.pulse import Beat, Watcher
from agent.views import data
from agent.views.summary import counted, in_words
from agent.views.text import draw_reasons, event_line, finding_line, hang, moment

_WORST = 10
"""Findings of high severity or worse that are named one by one."""
_LABEL = 14
"""Columns before what is said of a topic: two, and the longest one."""
_INDENT = 36
"""Columns before the numbers: two, and the longest duty."""


class Status(Value, frozen=True, kw_only=True):
    """What the ledger knows."""

    agent_version: str
    ledger: str
    now: dt.datetime
    stale_after: dt.timedelta
    checks: Mapping[str, Listed]
    watcher: Watcher
    open: tuple[OpenFinding, ...] = ()
    newest: tuple[Event, ...] = ()
    looks: tuple[Look, ...] = ()
    unknown: Mapping[str, tuple[Unknown, ...]] = {}
    deliveries: tuple[Progress, ...] = ()

    def is_stale(self, look: Look) -> bool:
        """Whether a topic was looked at too long ago to rely on."""
        return self.now - look.taken > self.stale_after

    def duty(self, found: OpenFinding) -> Duty | None:
        """The duty that a finding belongs to; none once its check is gone."""
        check = self.checks.get(found.finding.check)
        return check.duty if check else None


def as_data(status: Status) -> dict[str, Any]:
    """As ``dlvmguard status --format json`` prints it."""
    found = [each.finding for each in status.open]
    duties = {duty: [each.finding for each in status.open if status.duty(each) is duty] for duty in Duty}
    return {
        "schema": "dlvmguard.status/1",
        "agent_version": status.agent_version,
        "ledger": status.ledger,
        "taken": status.now,
        "open": _numbers(counted(found)),
        "open_by_duty": {duty.value: _numbers(counted(under)) for duty, under in duties.items()},
        "findings": [{**data.finding(each.finding, status.checks), "since": each.since} for each in status.open],
        "newest": [data.event(each, status.checks) for each in status.newest],
        "topics": [
            {
                "topic": each.topic,
                "taken": each.taken,
                "stale": status.is_stale(each),
                "unknown": data.unknowns(each.unknowns),
            }
            for each in status.looks
        ],
        "unknown_checks": sorted(status.unknown),
        "deliveries": [
            {
                "sink": each.sink,
                "waiting": each.waiting,
                "waiting_since": each.waiting_since,
                "rejected": each.rejected,
                "delivered": each.delivered,
                "tried": each.tried,
                "problem": each.problem,
                "advice": each.advice,
            }
            for each in status.deliveries
        ],
        "watcher": _watcher_data(status.watcher),
    }


def _watcher_data(watcher: Watcher) -> dict[str, Any]:
    said = watcher.pulse
    return {
        "running": watcher.running,
        "version": said.version if said else "",
        "since": said.started if said else None,
        "configuration_refused": said.refused if said else "",
        "problem": said.problem if said else "",
        "probes": [
            {
                "probe": each.probe,
                "topic": each.topic,
                "running": each.running,
                "last": each.last,
                "next": each.next,
                "failures": each.failures,
                "reason": each.reason,
            }
            for each in (said.beats if said else ())
        ],
    }


def _numbers(counts: Mapping[Severity, int]) -> dict[str, int]:
    return {severity.value: counts.get(severity, 0) for severity in Severity}


def draw(console: Console, status: Status) -> None:
    """One page."""
    found = [each.finding for each in status.open]
    console.print(Text.assemble((f"dlvmguard {status.agent_version}", "bold"), f"   {status.ledger}"))
    console.print()
    console.print(Text.assemble(("Open findings", "bold underline"), f"   {in_words(counted(found)) or 'none'}"))
    for duty in Duty:
        under = [each.finding for each in status.open if status.duty(each) is duty]
        if under:
            hang(console, in_words(counted(under)), label=duty.title, indent=_INDENT)
    _draw_worst(console, [each for each in found if each.severity.at_least(Severity.HIGH)])
    _draw_newest(console, status)
    _draw_looks(console, status)
    _draw_watcher(console, status)
    _draw_deliveries(console, status.deliveries)


def _draw_worst(console: Console, found: Sequence[Judged]) -> None:
    for finding in found[:_WORST]:
        hang(console, finding_line(finding), indent=4)
    if len(found) > _WORST:
        hang(console, f"and {len(found) - _WORST} more: dlvmguard status --format json", indent=4)


def _draw_newest(console: Console, status: Status) -> None:
    if not status.newest:
        return
    console.print()
    console.print(Text("Newest changes", style="bold underline"))
    for event in status.newest:
        hang(console, event_line(event), indent=2)


def _draw_looks(console: Console, status: Status) -> None:
    console.print()
    console.print(Text("Last looked at", style="bold underline"))
    for look in status.looks:
        line = Text(f"  {look.topic:<12}{moment(look.taken)}  {_ago(status.now - look.taken)}")
        if status.is_stale(look):
            line.append("  stale: scan again", style="yellow")
        console.print(line)
    named = [(look.topic, unknown) for look in status.looks for unknown in look.unknowns]
    if named:
        console.print()
        affected = f"{len(status.unknown)} of {len(status.checks)} checks could not judge everything"
        console.print(Text.assemble(("Unknown", "bold underline"), f"   {affected}"))
        draw_reasons(console, named)


def _draw_watcher(console: Console, status: Status) -> None:
    """Who looks, and when next; what is being put off, and why."""
    console.print()
    console.print(Text("Watcher", style="bold underline"))
    said = status.watcher.pulse
    if not status.watcher.running or said is None:
        gone = "stopped without a word; see: journalctl -u dlvmguard-watch" if said else "not running"
        console.print(Text(f"  {gone}; nothing is looked at until: dlvmguard scan", style="yellow"))
        return
    console.print(Text(f"  {'running':<12}{said.version}, since {moment(said.started)}"))
    for trouble in filter(None, (said.refused and f"configuration refused: {said.refused}", said.problem)):
        hang(console, Text(trouble, style="yellow"), indent=_LABEL)
    for topic in dict.fromkeys(each.topic for each in said.beats):
        beats = [each for each in said.beats if each.topic == topic]
        hang(console, _next(beats, status.now), label=topic, indent=_LABEL)
        for beat in beats:
            if beat.failures:
                again = f"{beat.probe} failed {beat.failures} times: {beat.reason}"
                hang(console, Text(again, style="yellow"), indent=_LABEL)


def _next(beats: Sequence[Beat], now: dt.datetime) -> str:
    if any(each.running for each in beats):
        return "looking now"
    times = [each.next for each in beats if each.next]
    wait = int((min(times) - now).total_seconds()) if times else 0
    return f"next look in {_span(wait)}" if wait > 0 else "next look now"


def _draw_deliveries(console: Console, deliveries: Sequence[Progress]) -> None:
    console.print()
    console.print(Text("Shipping", style="bold underline"))
    if not deliveries:
        console.print(Text("  nowhere: no sink is configured, and this is no Google Cloud machine"))
    for each in deliveries:
        waiting = f"{each.waiting} waiting since {moment(each.waiting_since)}" if each.waiting else "nothing waiting"
        refused = f", {each.rejected} refused for good" if each.rejected else ""
        console.print(Text(f"  {each.sink:<14}{waiting}{refused}; last delivered {moment(each.delivered)}"))
        if each.problem:
            advice = f" ({each.advice})" if each.advice else ""
            console.print(Text(f"  {'':<14}{moment(each.tried)}: {each.problem}{advice}", style="yellow"))


def draw_report(console: Console, deliveries: Sequence[Progress], notices: Iterable[str]) -> None:
    """What became of a report."""
    for notice in notices:
        console.print(Text(notice, style="yellow"))
    _draw_deliveries(console, deliveries)


def _ago(age: dt.timedelta) -> str:
    return f"{_span(int(age.total_seconds()))} ago"


def _span(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(0, seconds)} s"
