"""What the driver reported of GPUs and NVSwitches in the kernel's log, and who has to act."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence

from agent.facts.xid import Card, DeviceError, GpuErrors
from agent.knowledge import LinkReason, RecoveryAction, XidCodes, XidRule
from agent.model import Duty, Finding, Severity, Unknown, Value, check

_RESTART = "Stop what uses the GPU, then restart the VM: sudo reboot"
_SHOWN = 3
"""Kinds of errors that one line names; the worst come first."""


class _Error(Value, frozen=True, kw_only=True):
    """An error with what the table says of it for this card."""

    seen: DeviceError
    meaning: str
    kind: str
    severity: Severity
    fix: str = ""
    threat: str = ""


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_RESTART)
def gpu_needs_reset(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding | Unknown]:
    """A GPU met an error after which it needs a reset.

    What runs on it now may fail or compute wrong results; what starts now may not start at all. The driver says so in
    the kernel's log, as an Xid, which is believed only from the kernel itself. The finding ends when the driver says
    that the GPU needs nothing any more (Xid 154), is loaded anew, or the VM restarts; that no more errors come ends
    nothing.
    """
    yield from _needing(errors, codes, "reset")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Save what you can, then stop and start the VM, which moves it to other hardware; a restart alone does not.",
)
def gpu_needs_host_restart(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding | Unknown]:
    """A GPU met an error that only a restart of the VM, or other hardware, ends.

    The GPU has fallen off the bus, cannot be started, or has memory that cannot be repaired. Work on it is lost. If it
    comes back after the VM was stopped and started, tell Google Cloud support the time and the Xid. It ends as
    gpu-needs-reset does.
    """
    yield from _needing(errors, codes, "host")


@check(
    severity=Severity.LOW,
    duty=Duty.APPLICATIONS,
    fix="Tell whoever runs the program; run it under compute-sanitizer to find the mistake.",
)
def gpu_application_error(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding]:
    """A program on a GPU was stopped because of an error of its own.

    Mostly it read past the end of an array or was ended by somebody; the GPU is well. Only if programs that are known
    to be right fail on one GPU and not on others, the hardware is to blame. It is kept until the driver is loaded anew
    or the VM restarts.
    """
    yield from _of_kind(errors, codes, lambda error: error.kind == "application")


@check(severity=Severity.LOW, duty=Duty.MONITORING, fix="Watch for further errors of this GPU.")
def gpu_driver_warning(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding]:
    """The driver met an error of a GPU and went on.

    Nothing is to be done for one of these; many of them, or one before every failure of a job, are worth a look.
    Errors with codes that this version does not know are here too, as nobody can say how bad they are.
    """
    yield from _of_kind(errors, codes, lambda error: error.kind == "warning")


@check(severity=Severity.MEDIUM, duty=Duty.MONITORING, fix="Restart the VM when it is idle: sudo reboot")
def gpu_memory_warning(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding]:
    """A part of a GPU's memory is failing, and was or will be taken out of use.

    Results are right so far. Ampere and newer cards replace the row at their next reset, older ones such as the T4
    leave the page unused from the next load of the driver. Bits that flip often may also mean that somebody hammers
    the memory (https://gpuhammer.com).
    """
    yield from _of_kind(errors, codes, lambda error: error.kind == "memory")


@check(
    severity=Severity.MEDIUM,
    duty=Duty.MONITORING,
    fix="Find out what ran at the time, then restart the VM: sudo reboot",
)
def gpu_security_error(errors: GpuErrors, codes: XidCodes) -> Iterator[Finding]:
    """A GPU reported an error of what keeps its users, its firmware or its secrets apart.

    Mostly these are faults of hardware or mistakes in a program, but an attempt to reach what one may not reach looks
    the same. On machines that several users share, or with confidential computing, find out which it was.
    """
    yield from _of_kind(errors, codes, lambda error: error.kind == "security" or bool(error.threat))


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Restart the VM: sudo reboot; if it returns, stop and start the VM and tell Google Cloud support.",
)
def nvswitch_error(errors: GpuErrors) -> Iterator[Finding]:
    """An NVSwitch, which connects the GPUs of one machine, reported an error.

    After a fatal one GPUs cannot reach each other until the switch is reset, and jobs on several GPUs hang or fail.
    Others were corrected, and are of low severity. How bad an error is says the switch itself. It is kept until the
    driver is loaded anew or the VM restarts.
    """
    for address in sorted({each.address for each in errors.switch_errors}):
        found = [
            _Error(
                seen=each,
                meaning="fatal" if each.fatal else "not fatal",
                kind="switch",
                severity=Severity.HIGH if each.fatal else Severity.LOW,
                fix="" if each.fatal else "Watch for further errors of this switch.",
            )
            for each in errors.switch_errors
            if each.address == address
        ]
        yield _finding(address, f"NVSwitch at {address}", found, name="SXid")


def _needing(errors: GpuErrors, codes: XidCodes, need: str) -> Iterator[Finding | Unknown]:
    """The GPUs that need this and nothing more."""
    asked = {each.address: each for each in errors.needs}
    actions = {action.number: action for action in codes.actions}
    for card, found in _by_card(errors, codes):
        action = None
        if card.address in asked:
            number = asked[card.address].action
            action = actions.get(number) if number is not None else None
            if not action:
                yield Unknown(
                    reason=f"{_called(card)}: it needs something to recover that is not understood",
                    hint="nvidia-smi -q says what, under GPU Recovery Action.",
                    scope=card.key,
                )
        sick = [error for error in found if error.kind in {"reset", "host"}]
        needs = {error.kind for error in sick} | ({action.need} if action else set())
        if need in needs and (need == "host" or "host" not in needs):
            decisive = [error for error in sick if error.kind == need]
            fix = _worst_first(decisive)[0].fix if decisive else action.fix if action else ""
            yield _finding(card.key, _called(card), sick, fix=fix, action=action)


def _of_kind(errors: GpuErrors, codes: XidCodes, belongs: Callable[[_Error], bool]) -> Iterator[Finding]:
    for card, found in _by_card(errors, codes):
        if chosen := [error for error in found if belongs(error)]:
            yield _finding(card.key, _called(card), chosen)


def _by_card(errors: GpuErrors, codes: XidCodes) -> Iterator[tuple[Card, list[_Error]]]:
    rules = {code: rule for rule in codes.rules for code in rule.codes}
    for card in errors.cards:
        is_older = any(word in codes.cards_before_ampere for word in re.split(r"[ -]", card.model))
        yield (
            card,
            [
                _understood(each, rules.get(each.code), codes.link_reasons, is_older=is_older)
                for each in errors.errors
                if each.address == card.address
            ],
        )


def _understood(seen: DeviceError, rule: XidRule | None, reasons: Sequence[LinkReason], *, is_older: bool) -> _Error:
    if not rule:
        return _Error(
            seen=seen,
            meaning="not known to this version",
            kind="warning",
            severity=Severity.LOW,
            fix=f"See what Xid {seen.code} means: https://docs.nvidia.com/deploy/xid-errors/",
        )
    older = rule.before_ampere if is_older else None
    meaning, kind, severity = older.meaning if older else rule.meaning, str(rule.kind), rule.severity
    if kind == "link":
        kind, severity = ("reset", severity) if seen.fatal else ("warning", Severity.LOW)
        meaning = "; ".join(filter(None, (meaning, _link(seen, reasons))))
    return _Error(
        seen=seen,
        meaning=meaning,
        kind=kind,
        severity=severity,
        fix=(older.fix if older else "") or rule.fix,
        threat=rule.threat,
    )


def _link(seen: DeviceError, reasons: Sequence[LinkReason]) -> str:
    why = next((reason.meaning for reason in reasons if seen.reason in reason.numbers), "")
    return ", ".join(filter(None, (seen.part, f"link {seen.link}" if seen.link is not None else "", why)))


def _worst_first(found: Sequence[_Error]) -> list[_Error]:
    return sorted(found, key=lambda error: (error.severity.rank, error.kind != "host", error.seen.code))


def _finding(
    subject: str,
    called: str,
    found: Sequence[_Error],
    *,
    fix: str | None = None,
    action: RecoveryAction | None = None,
    name: str = "Xid",
) -> Finding:
    """One finding of all that was reported. How often is told in powers of two, or a flood would change it for ever."""
    worst = _worst_first(found)
    said = [_said(error, name) for error in worst[:_SHOWN]]
    if len(worst) > _SHOWN:
        said.append(f"{len(worst) - _SHOWN} other kinds of errors")
    evidence: dict[str, str | int] = {}
    if worst:
        evidence = {
            "codes": " ".join(map(str, sorted({error.seen.code for error in worst}))),
            "first_seconds_after_boot": min(error.seen.first for error in worst) // 1_000_000,
            "at_least": _at_least(sum(error.seen.count for error in worst)),
        }
    if action:
        said.append(f"the driver asks for {action.meaning}")
        evidence["recovery_action"] = action.number
    return Finding(
        subject=subject,
        detail=f"{called}: {'; '.join(said)}",
        evidence=evidence,
        severity=None if action else worst[0].severity,
        fix=worst[0].fix if fix is None else fix,
    )


def _said(error: _Error, name: str) -> str:
    seen = error.seen
    times = f", {_at_least(seen.count)} times or more" if seen.count > 1 else ""
    by = f", by {', '.join(seen.processes)}" if seen.processes else ""
    # Without seconds. The time of the day is not told: by the clock, the boot itself was not always at the same time.
    since = str(dt.timedelta(minutes=seen.first // 60_000_000))[:-3]
    return f"{name} {seen.code} ({error.meaning}) first {since} h after the boot{times}{by}"


def _at_least(count: int) -> int:
    return 1 << (count.bit_length() - 1)


def _called(card: Card) -> str:
    return f"{card.model or 'GPU'} at {card.address}"
