"""The operating system that everything else stands on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from agent.facts.machine import Machine
from agent.knowledge import OperatingSystems
from agent.model import Duty, Finding, Moment, Severity, check


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Create the VM anew from a current image family; an upgrade in place is not supported on DLVM images.",
)
def operating_system_end_of_life(machine: Machine, systems: OperatingSystems, moment: Moment) -> Iterator[Finding]:
    """The operating system gets no more security updates.

    After the end of its free security support a release gets no fixes: new kernel and library flaws stay open for
    good, and "no pending updates" no longer means anything. The dates are those of the distributor.
    """
    for release in systems.releases:
        if release.name == machine.release and release.end < moment.now.date():
            yield Finding(
                subject="operating-system",
                detail=f"{machine.pretty_name}: security support ended on {release.end:%Y-%m-%d}",
                evidence={"release": machine.release, "end": release.end.isoformat()},
            )


@check(
    severity=Severity.LOW,
    duty=Duty.LATEST_IMAGES,
    fix="Plan to move to a current image family before the date.",
)
def operating_system_support_ends_soon(
    machine: Machine, systems: OperatingSystems, moment: Moment
) -> Iterator[Finding]:
    """Security support of the operating system ends within half a year.

    Moving long-lived GPU machines takes planning; this is the time to begin.
    """
    today = moment.now.date()
    for release in systems.releases:
        if release.name == machine.release and today <= release.end <= today + dt.timedelta(days=182):
            yield Finding(
                subject="operating-system",
                detail=f"{machine.pretty_name}: security support ends on {release.end:%Y-%m-%d}",
                evidence={"release": machine.release, "end": release.end.isoformat()},
            )
