"""Programs that still run what was replaced on the disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from agent.facts.ports import Listeners
from agent.facts.use import SoftwareUse, StaleProgram
from agent.model import Duty, Finding, Instance, Severity, Unknown, check

_NAMED = 4
_REBOOT = "Reboot when no job runs: sudo systemctl reboot"
_NEVER_RESTARTED = {"dbus.service", "dbus-broker.service"}
"""Everything on the machine talks through it: https://github.com/liske/needrestart/blob/master/ex/needrestart.conf"""


@check(
    severity=Severity.LOW,
    duty=Duty.LATEST_IMAGES,
    fix=f"Restart each as said beside it. Or: {_REBOOT}",
)
def replaced_file_in_memory(software_use: SoftwareUse, listeners: Listeners | Unknown) -> Iterator[Finding]:
    """Programs still run files that were replaced or removed on the disk.

    A program keeps the libraries that it was started with. After an update the fixed file lies on the disk and the
    flaw stays in memory until the program is started anew, while every list of versions says that all is well. The
    kernel tells which mapped files are gone; only code of the system and of Python environments counts. It is worse
    where one of the programs listens beyond this machine. Containers are left out.
    """
    services = [each for each in software_use.stale if each.kind != "program"]
    programs = [each for each in software_use.stale if each.kind == "program"]
    for subject, noun, group in (("services", "service", services), ("sessions", "program", programs)):
        if group:
            yield _finding(
                subject, noun, group, exposed=sorted(_place(each) for each in group if _listens(each, listeners))
            )


def _finding(subject: str, noun: str, group: Sequence[StaleProgram], *, exposed: Sequence[str]) -> Finding:
    files = sorted({path for each in group for path in each.files})
    who = f"1 {noun} still runs" if len(group) == 1 else f"{len(group)} {noun}s still run"
    reached = f"; {_joined(exposed)} can be reached over the network" if exposed else ""
    evidence = {"files": _joined(files), "exposed": _joined(exposed)}
    instances = (Instance(place=_place(each), fix=_fix(each)) for each in group)
    return Finding(
        subject=subject,
        detail=f"{who} what was replaced on the disk: {_joined(path.rpartition('/')[2] for path in files)}{reached}",
        severity=Severity.MEDIUM if exposed else Severity.LOW,
        evidence={name: value for name, value in evidence.items() if value},
        instances=tuple(sorted(instances, key=lambda each: each.place)),
        fix=_fix(group[0]) if len(group) == 1 else "",
    )


def _place(program: StaleProgram) -> str:
    return f"{program.user}:{program.name}" if program.kind == "program" else program.name


def _fix(program: StaleProgram) -> str:
    """What puts the files of now into its memory."""
    if program.kind == "init":
        return "sudo systemctl daemon-reexec"
    if program.name in _NEVER_RESTARTED:
        return _REBOOT
    if program.kind == "service":
        return f"sudo systemctl restart {shlex.quote(program.name)}"
    return f"End {program.name} and start it anew, or let {program.user} log out and in."


def _listens(program: StaleProgram, listeners: Listeners | Unknown) -> bool:
    """Whether it can be reached from beyond this machine, as far as that is known."""
    if isinstance(listeners, Unknown) or program.kind == "init":
        return False
    reachable = (each for each in listeners.listeners if each.reachable)
    if program.kind == "service":
        return any(each.unit == program.name for each in reachable)
    return any((each.process, each.user) == (program.name, program.user) for each in reachable)


def _joined(words: Iterable[str]) -> str:
    """Different words in order, and how many more than a line should hold."""
    distinct = sorted(set(words))
    more = len(distinct) - _NAMED
    return ", ".join(distinct[:_NAMED]) + (f" and {more} more" if more > 0 else "")
