"""Events, as the ledger would hand them out."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

from agent.model import Change, Check, Duty, Event, EventKind, Judged, Severity
from agent.sinks.delivery import Identity

TIME = dt.datetime(2026, 11, 23, 12, 0, 0, 250, tzinfo=dt.timezone.utc)

VM = Identity(
    project_id="fake-project", instance_id="1234567890123456789", zone="europe-west4-a", instance_name="gpu-1",
    machine_type="a2-highgpu-1g", image="common-cu129-debian-12", hostname="gpu-1.internal", epoch="e1",
    agent_version="0.1.0",
)  # fmt: skip
LAPTOP = Identity(project_id="fake-project", instance_id="0f" * 16, hostname="laptop", epoch="e1")


def an_event(
    sequence: int = 1, *, kind: EventKind = EventKind.OPENED, time: dt.datetime | None = None, **finding: Any
) -> Event:
    """An event about root's SSH login, but for what is given of its finding."""
    said: dict[str, Any] = {
        "check": "ssh-root-login",
        "subject": f"sshd#{sequence}",
        "detail": "PermitRootLogin is yes",
        "severity": Severity.HIGH,
        "evidence": {"permit_root_login": "yes", "port": 22, "reachable": True},
        "fix": "Set PermitRootLogin no and reload ssh.",
    }
    change = Change(
        kind=kind,
        finding=Judged(**(said | finding)),
        reason="no longer found" if kind is EventKind.RESOLVED else "",
        previous=Severity.LOW if kind is EventKind.CHANGED else None,
    )
    uid = hashlib.sha256(str(sequence).encode()).hexdigest()[:32]
    return Event(sequence=sequence, uid=uid, time=time or dt.datetime.now(dt.timezone.utc), change=change)


def some_events(count: int, **finding: Any) -> list[Event]:
    """Events 1 to ``count``."""
    return [an_event(sequence, **finding) for sequence in range(1, count + 1)]


CATALOGUE = {
    "ssh-root-login": Check(
        id="ssh-root-login",
        topic="access",
        title="Root may log in over SSH.",
        manual="",
        severity=Severity.HIGH,
        duty=Duty.ACCESS,
        fix="",
        needs={},
        wants={},
        judge=lambda: (),
    )
}
