"""What a person sees in a terminal: one page per command, drawn with rich.

Nothing here interprets markup: all text may come from the machine. Colour never carries a meaning alone.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.model import Check, Event, Judged, Severity, Unknown
from agent.views.summary import Summary, counted, first_sentence, grouped, in_words

_STYLE = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "bold red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}
_SHOWN = 5
"""Subjects of one check that are listed before the rest is only counted."""


class Page(Console):
    """A console that leaves it to the program what it means when the reader goes away."""

    def on_broken_pipe(self) -> None:
        """Let the error through; rich would end the process with exit code 1, which means findings."""
        raise BrokenPipeError


def console() -> Console:
    """A console as wide as the terminal; a pipe gets lines that are wrapped late, and no colour."""
    width = None if sys.stdout.isatty() else 120
    return Page(width=width, markup=False, highlight=False, emoji=False)


def draw_scan(console: Console, summary: Summary, *, everything: bool = False) -> None:
    """Findings by duty, then what could not be seen, then one line that sums it up."""
    console.print(Text.assemble((f"dlvmguard {summary.agent_version}", "bold"), f"   {summary.machine}"))
    for duty, findings in summary.by_duty().items():
        console.print()
        console.print(Text.assemble((duty.title, "bold underline"), f"   {in_words(counted(findings))}"))
        for group in grouped(findings):
            check = summary.checks[group[0].check]
            console.print(Padding(_group(check, group, everything=everything), (0, 0, 0, 2)))
    _draw_unknowns(console, summary, everything=everything)
    for notice in summary.notices:
        console.print(Text(f"\n{notice}", style="yellow"))
    console.print()
    console.print(Text(_summed_up(summary)))


def _group(check: Check, findings: Sequence[Judged], *, everything: bool) -> RenderableType:
    severity = findings[0].severity
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    heading = Text.assemble((check.title.rstrip("."), "bold"), (f"   {check.id}", "dim"))
    grid.add_row(Text(severity.value.upper(), style=_STYLE[severity]), heading)
    listed = findings if everything else findings[:_SHOWN]
    for finding in listed:
        grid.add_row("", Text.assemble("- ", finding.detail, (f"   [{finding.id}]", "dim")))
    if rest := len(findings) - len(listed):
        grid.add_row("", Text(f"- and {rest} more: dlvmguard scan --all", style="dim"))
    grid.add_row("", Text.assemble(("why  ", "dim"), first_sentence(check.manual)))
    fixes = list(dict.fromkeys(finding.fix for finding in listed))
    for fix in fixes:
        grid.add_row("", Text.assemble(("fix  ", "dim"), (fix, "green")))
    return grid


def _draw_unknowns(console: Console, summary: Summary, *, everything: bool) -> None:
    named = [(topic.name, unknown) for topic in summary.topics for unknown in topic.unknowns]
    named += [(f"check {check}", unknown) for check, unknown in summary.broken]
    if not named:
        return
    console.print()
    console.print(Text.assemble(("Could not be looked at", "bold underline"), f"   {len(named)}"))
    console.print(Padding(unknowns_table(named, everything=everything), (0, 0, 0, 2)))


def unknowns_table(named: Sequence[tuple[str, Unknown]], *, everything: bool) -> RenderableType:
    """Topic by topic, what could not be seen, why, and what would help."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name in dict.fromkeys(name for name, _ in named):
        unknowns = [unknown for topic, unknown in named if topic == name]
        listed = unknowns if everything else unknowns[:_SHOWN]
        for number, unknown in enumerate(listed):
            hint = f" ({unknown.hint})" if unknown.hint else ""
            grid.add_row("" if number else Text(name), Text(f"{unknown.reason}{hint}"))
        if rest := len(unknowns) - len(listed):
            grid.add_row("", Text(f"and {rest} more", style="dim"))
    return grid


def _summed_up(summary: Summary) -> str:
    checks = len(summary.outcomes)
    found = len([each for each in summary.outcomes if each.findings])
    findings = in_words(counted(summary.findings)) or "no findings"
    unknown = len(summary.unknown)
    judged = f"{checks} checks: {found} with findings, {len(summary.passed)} passed"
    judged += f", {unknown} could not judge everything" if unknown else ""
    return f"{findings}. {judged}. {summary.seconds:.1f} s"


def draw_check(console: Console, check: Check) -> None:
    """A check's manual page."""
    console.print(Text.assemble((check.id, "bold"), f"   {check.title}"))
    about = f"{check.severity.value} · {check.duty.title} · topic {check.topic}"
    console.print(Text(about if _is_unicode(console) else about.replace("·", "-"), style="dim"))
    console.print()
    for paragraph in check.manual.split("\n\n"):
        console.print(Text(" ".join(paragraph.split())))
        console.print()
    console.print(Text.assemble(("fix  ", "dim"), (check.fix, "green")))


def draw_finding(console: Console, finding: Judged, since: dt.datetime | None, history: Iterable[Event]) -> None:
    """A finding with its evidence and all that happened to it."""
    state = f"open since {moment(since)}" if since else "resolved"
    severity = Text(finding.severity.value.upper(), style=_STYLE[finding.severity])
    console.print(Text.assemble(severity, f" {finding.detail}   ", (f"[{finding.id}] {state}", "dim")))
    console.print(Text.assemble(("subject  ", "dim"), finding.subject))
    for name, value in finding.evidence.items():
        console.print(Text.assemble((f"{name}  ", "dim"), str(value)))
    console.print(Text.assemble(("fix  ", "dim"), (finding.fix, "green")))
    console.print()
    console.print(Text("History", style="bold underline"))
    for event in history:
        console.print(event_line(event))


def event_line(event: Event) -> Text:
    """One event on one line."""
    change = event.change
    before = f" (was {change.previous.value})" if change.previous not in {None, change.finding.severity} else ""
    reason = f": {change.reason}" if change.reason else ""
    return Text.assemble(
        f"{moment(event.time)}  {change.kind.value:<8} ",
        (f"{change.finding.severity.value:<8}", _STYLE[change.finding.severity]),
        f" {change.finding.detail}{before}{reason}",
    )


def draw_catalogue(console: Console, checks: Iterable[Check]) -> None:
    """All checks, a line each."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in ("check", "severity", "topic", "what it finds"):
        table.add_column(name, overflow="fold", no_wrap=name == "check")
    for check in checks:
        severity = Text(check.severity.value, style=_STYLE[check.severity])
        table.add_row(check.id, severity, check.topic, Text(check.title))
    console.print(table)


def moment(time: dt.datetime | None) -> str:
    """A time as a person reads it, in UTC as in Cloud Logging."""
    return f"{time:%Y-%m-%d %H:%M:%S}Z" if time else "never"


def _is_unicode(console: Console) -> bool:
    return (console.encoding or "").lower().startswith("utf")
