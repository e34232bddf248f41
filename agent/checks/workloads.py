"""Work on the GPUs that nobody who pays for them would want: mining, and processes that hide."""

from __future__ import annotations

from collections.abc import Iterator

from agent.facts.workload import Workload
from agent.facts.workloads import Workloads
from agent.model import Duty, Finding, Severity, check

_INCIDENT = "Find out who started it; if nobody knows, treat it as an incident: cut the machine off and keep its disk."


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_INCIDENT)
def gpu_process_mines(workloads: Workloads) -> Iterator[Finding]:
    """A process on a GPU is called like a coin miner, or told what only miners are told.

    GPUs that others pay for are what intruders look for, and mining is what they do with them most. It rests on the
    names of known miners, on the addresses of mining pools (stratum) and on options that nothing else has; of the
    command line only which of these was met is kept. A miner under another name is not found by this.
    """
    found: dict[str, list[Workload]] = {}
    for each in workloads.workloads:
        if each.named:
            found.setdefault(f"program:{each.program.path or each.name}:{each.user or each.uid}", []).append(each)
    for subject, alike in found.items():
        first, marks = alike[0], ", ".join(sorted({mark for each in alike for mark in each.named}))
        yield Finding(
            subject=subject,
            detail=f"{first.label} of user {first.user or first.uid} bears the marks of a miner: {marks}",
            evidence={"marks": marks, "program": first.program.path, "unit": first.unit},
        )


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_INCIDENT)
def process_concealed(workloads: Workloads) -> Iterator[Finding]:
    """A process of this GPU machine is concealed from whoever looks.

    Something is mounted over its directory in /proc, so that ps, top and nvidia-smi show nothing of it. No program
    does this to itself by accident; it is a known trick of miners. What a kernel module hides is not found by this.
    """
    if workloads.hidden:
        count = len(workloads.hidden)
        yield Finding(
            subject="processes",
            detail=f"{count} process{'es are' if count > 1 else ' is'} hidden by a mount over its directory in /proc",
        )
