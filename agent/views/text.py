"""What a person sees in a terminal: one page per command, drawn with rich.

Nothing here interprets markup: all text may come from the machine. Colour never carries a meaning alone.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from agent.model import Check, Event, Judged, Severity, Unknown
from agent.views.summary import Summary, counted, first_sentence, grouped, in_words

STYLE = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "bold red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}
_INDENT = 12
"""Columns before the text: two, and the longest severity or topic."""
_FIXES = 2
"""Fixes that are listed one by one; where there are more, the check's own is for all of them."""
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


def hang(console: Console, body: Text | str, *, label: Text | str = "", indent: int) -> None:
    """Print a label and beside it, ``indent`` columns in, a text that wraps there; no line ends in spaces."""
    text = Text(body) if isinstance(body, str) else body
    lead = Text.assemble("  ", label)
    if lead.cell_len >= indent:
        console.print(lead, no_wrap=True, overflow="ignore", crop=False)
        lead = Text()
    lead.pad_right(indent - lead.cell_len)
    for line in text.wrap(console, max(20, console.width - indent), overflow="fold"):
        line.rstrip()
        console.print(Text.assemble(lead, line), no_wrap=True, overflow="ignore", crop=False)
        lead = Text(" " * indent)


def draw_scan(console: Console, summary: Summary, *, everything: bool = False) -> None:
    """Findings by duty, then what could not be seen, then one line that sums it up."""
    console.print(Text.assemble((f"dlvmguard {summary.agent_version}", "bold"), f"   {summary.machine}"))
    for duty, findings in summary.by_duty().items():
        console.print()
        console.print(Text.assemble((duty.title, "bold underline"), f"   {in_words(counted(findings))}"))
        for group in grouped(findings):
            check = summary.checks[group[0].check]
            _draw_group(console, check, group, everything=everything)
    _draw_unknowns(console, summary, everything=everything)
    for notice in summary.notices:
        console.print(Text(f"\n{notice}", style="yellow"))
    console.print()
    console.print(Text(_summed_up(summary)))


def _draw_group(console: Console, check: Check, findings: Sequence[Judged], *, everything: bool) -> None:
    severity = findings[0].severity
    heading = Text.assemble((check.title.rstrip("."), "bold"), (f"   {check.id}", "dim"))
    hang(console, heading, label=Text(severity.value.upper(), style=STYLE[severity]), indent=_INDENT)
    listed = findings if everything else findings[:_SHOWN]
    for finding in listed:
        hang(console, Text.assemble("- ", finding.detail, (f"   [{finding.id}]", "dim")), indent=_INDENT)
    if rest := len(findings) - len(listed):
        hang(console, Text(f"- and {rest} more: dlvmguard scan --all", style="dim"), indent=_INDENT)
    hang(console, Text.assemble(("why  ", "dim"), first_sentence(check.manual)), indent=_INDENT)
    fixes = list(dict.fromkeys(finding.fix for finding in findings))
    for fix in fixes if len(fixes) <= _FIXES else [check.fix]:
        hang(console, Text.assemble(("fix  ", "dim"), (fix, "green")), indent=_INDENT)


def _draw_unknowns(console: Console, summary: Summary, *, everything: bool) -> None:
    named = [(topic.name, unknown) for topic in summary.topics for unknown in topic.unknowns]
    named += [(f"check {check}", unknown) for check, unknown in summary.broken]
    if not named:
        return
    console.print()
    console.print(Text.assemble(("Could not be looked at", "bold underline"), f"   {len(named)}"))
    draw_reasons(console, named, everything=everything)


def draw_reasons(console: Console, named: Sequence[tuple[str, Unknown]], *, everything: bool = False) -> None:
    """Topic by topic, what could not be seen, why, and what would help; the same reason once."""
    scopes: dict[tuple[str, str, str], list[str]] = {}
    for name, unknown in named:
        scopes.setdefault((name, unknown.reason, unknown.hint), []).append(unknown.scope)
    for name in dict.fromkeys(name for name, _ in named):
        reasons = [reason for reason in scopes if reason[0] == name]
        listed = reasons if everything else reasons[:_SHOWN]
        for number, reason in enumerate(listed):
            body = _reason(reason[1], reason[2], scopes[reason])
            hang(console, body, label="" if number else name, indent=_INDENT)
        if rest := len(reasons) - len(listed):
            hang(console, Text(f"and {rest} more: dlvmguard scan --all", style="dim"), indent=_INDENT)


def _reason(reason: str, hint: str, scopes: Sequence[str]) -> Text:
    """Why, for what where the reason itself does not name it, and what would help."""
    unnamed = [scope for scope in scopes if scope and scope not in reason]
    concerned = ", ".join(unnamed[:_SHOWN]) + (" ..." if len(unnamed) > _SHOWN else "")
    return Text.assemble(reason, f" [{concerned}]" if concerned else "", (f"  {hint}", "dim") if hint else "")


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
    severity = Text(finding.severity.value.upper(), style=STYLE[finding.severity])
    console.print(Text.assemble(severity, f" {finding.detail}   ", (f"[{finding.id}] {state}", "dim")))
    console.print(Text.assemble(("subject  ", "dim"), finding.subject))
    for name, value in finding.evidence.items():
        console.print(Text.assemble((f"{name}  ", "dim"), str(value)))
    for instance in finding.instances:
        fix = (f"   {instance.fix}", "green") if instance.fix != finding.fix else ""
        console.print(Text.assemble(("where  ", "dim"), f"{instance.place} {instance.version}".rstrip(), fix))
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
        (f"{change.finding.severity.value:<8}", STYLE[change.finding.severity]),
        f" {change.finding.detail}{before}{reason}",
    )


def finding_line(finding: Judged) -> Text:
    """One finding on one line."""
    severity = (f"{finding.severity.value:<8}", STYLE[finding.severity])
    return Text.assemble(severity, f" {finding.detail}", (f"   [{finding.id}]", "dim"))


def draw_catalogue(console: Console, checks: Sequence[Check]) -> None:
    """All checks, topic by topic."""
    for topic in dict.fromkeys(check.topic for check in checks):
        console.print(Text(topic, style="bold underline"))
        for check in (each for each in checks if each.topic == topic):
            label = Text(check.severity.value.upper(), style=STYLE[check.severity])
            hang(console, Text.assemble((check.id, "bold"), f"  {check.title}"), label=label, indent=_INDENT)


def moment(time: dt.datetime | None) -> str:
    """A time as a person reads it, in UTC as in Cloud Logging."""
    return f"{time:%Y-%m-%d %H:%M:%S}Z" if time else "never"


def _is_unicode(console: Console) -> bool:
    return (console.encoding or "").lower().startswith("utf")
