"""An event as an entry of Cloud Logging, and the same as one line of JSON. Pure.

The payload holds text, booleans and a few small integers; lower_snake names; one type for ever at each path, since
log sinks to BigQuery make a typed column of each. Numbers would come back as doubles, so ids are text. What is not
known is left out. Fields:
``schema_version event_type event_uid message time initial truncated finding previous subject remediation evidence
instances scan host``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.model import Event, EventKind, Instance, Judged, Listed, Scalar, Severity, Value
from agent.sinks.delivery import Identity

SCHEMA_VERSION = "1"

MAXIMUM_ENTRY_BYTES = 200 << 10
"""Below the server's 256 KiB, which counts its own encoding: https://cloud.google.com/logging/quotas"""

_SEVERITIES = {
    Severity.CRITICAL: "CRITICAL",
    Severity.HIGH: "ERROR",
    Severity.MEDIUM: "WARNING",
    Severity.LOW: "NOTICE",
    Severity.INFO: "INFO",
}
_SEVERITY_IDS = {
    severity: 5 - severity.rank for severity in Severity
}  # OCSF's severity_id: 1 informational, 5 critical
_STATUS_IDS = {EventKind.OPENED: 1, EventKind.CHANGED: 1, EventKind.RESOLVED: 4}  # OCSF's status_id: 1 new, 4 resolved
_LEADS = {EventKind.OPENED: "", EventKind.CHANGED: "Changed: ", EventKind.RESOLVED: "Resolved: "}

# The server takes an entry older than the retention of its bucket, 30 days at least, and silently drops it; one more
# than 24 hours ahead it refuses: https://cloud.google.com/logging/quotas
_OLDEST = dt.timedelta(days=25)
_NEWEST = dt.timedelta(hours=23)

_LONGEST_MESSAGE = 1_000
_LONGEST_NAME = 256


class _Room(Value, frozen=True, kw_only=True):
    """How much of an event's own words fits, in characters. One takes at most 7 bytes in JSON."""

    text: int
    value: int
    values: int
    places: int


_AMPLE = _Room(
    text=MAXIMUM_ENTRY_BYTES, value=MAXIMUM_ENTRY_BYTES, values=MAXIMUM_ENTRY_BYTES, places=MAXIMUM_ENTRY_BYTES
)
_SCANT = _Room(text=2_048, value=512, values=16, places=4)


def log_entry(event: Event, identity: Identity, catalogue: Mapping[str, Listed], *, now: dt.datetime) -> dict[str, Any]:
    """The entry without its log name and resource, which all entries of a batch share."""
    finding = event.change.finding
    return {
        "insertId": event.uid,
        "timestamp": _moment(_storable(event.time, now)),
        "severity": _level(event),
        "labels": _labels(event, identity),
        "jsonPayload": payload(event, identity, catalogue.get(finding.check)),
    }


def json_line(event: Event, identity: Identity, catalogue: Mapping[str, Listed]) -> bytes:
    """The payload as a line of a log file that a logging agent of Google's can take over.

    It takes the time from ``time`` and the rest from the special fields:
    https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
    """
    line = {
        "logging.googleapis.com/severity": _level(event),
        "logging.googleapis.com/insertId": event.uid,
        "logging.googleapis.com/labels": _labels(event, identity),
        **payload(event, identity, catalogue.get(event.change.finding.check)),
    }
    return msgspec.json.encode(line) + b"\n"


def payload(event: Event, identity: Identity, check: Listed | None) -> dict[str, Any]:
    """What happened, in fields. An event that is too large loses words and says ``truncated``, never itself."""
    whole = _payload(event, identity, check, _AMPLE)
    # The labels repeat only short parts of the payload; 8 KiB holds them and the rest of the entry.
    if len(msgspec.json.encode(whole)) <= MAXIMUM_ENTRY_BYTES - 8_192:
        return whole
    return {**_payload(event, identity, check, _SCANT), "truncated": True}


def finding_uid(identity: Identity, finding: Judged) -> str:
    """The name of a finding for ever and everywhere: 32 hexadecimal digits, as Security Command Center asks.

    What it says may change, and so may the agent be installed anew; neither changes its name.
    """
    parts = (identity.project_id, identity.instance_id or identity.hostname, finding.check, finding.subject)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _payload(event: Event, identity: Identity, check: Listed | None, room: _Room) -> dict[str, Any]:
    finding = event.change.finding
    previous = event.change.previous
    parts = {
        "schema_version": SCHEMA_VERSION,
        "event_type": event.change.kind.value,
        "event_uid": event.uid,
        "message": _message(event, check),
        "time": _moment(event.time),
        "initial": event.initial,
        "truncated": False,
        "finding": _finding(event, identity, check, room),
        "previous": _known(severity=_name(previous)) if previous else {},
        "subject": {"name": _text(finding.subject, room.text)},
        "remediation": _known(desc=_text(finding.fix, room.text)),
        "evidence": _evidence(finding.evidence, room),
        "instances": [_instance(each, room) for each in finding.instances[: room.places]],
        "scan": {"seq": event.sequence, **_known(epoch=_text(identity.epoch, _LONGEST_NAME))},
        "host": _host(identity),
    }
    return {name: part for name, part in parts.items() if part not in ({}, [])}


def _finding(event: Event, identity: Identity, check: Listed | None, room: _Room) -> dict[str, Any]:
    finding = event.change.finding
    return {
        "uid": finding_uid(identity, finding),
        "rule_id": finding.check,
        "severity": _name(finding.severity),
        "severity_id": _SEVERITY_IDS[finding.severity],
        "state": "INACTIVE" if event.change.kind is EventKind.RESOLVED else "ACTIVE",
        "status_id": _STATUS_IDS[event.change.kind],
        "detail": _text(finding.detail, room.text),
        **_known(reason=_text(event.change.reason, room.text)),
        **(_known(title=check.title, topic=check.topic, duty=check.duty.value) if check else {}),
    }


def _host(identity: Identity) -> dict[str, str]:
    names = ("project_id", "instance_id", "instance_name", "zone", "machine_type", "image", "hostname")
    return _known(**{name: _text(getattr(identity, name), _LONGEST_NAME) for name in names})


def _labels(event: Event, identity: Identity) -> dict[str, str]:
    """What logs are filtered by; of few values each, since metrics are made of them."""
    return _known(
        **{"compute.googleapis.com/resource_name": _text(identity.name, _LONGEST_NAME)},
        event_type=event.change.kind.value,
        rule_id=event.change.finding.check,
        severity=_name(event.change.finding.severity),
        agent_version=_text(identity.agent_version, _LONGEST_NAME),
        schema_version=SCHEMA_VERSION,
    )


def _evidence(evidence: Mapping[str, Scalar], room: _Room) -> dict[str, str]:
    """The evidence as text, since two checks may mean a number and a word by one name."""
    shown: dict[str, str] = {}
    for given, value in list(evidence.items())[: room.values]:
        name = re.sub(r"[^a-z0-9]+", "_", given.lower())[:_LONGEST_NAME] or "_"
        while name in shown:
            name += "_"
        shown[name] = _text(str(value).lower() if isinstance(value, bool) else str(value), room.value)
    return shown


def _instance(instance: Instance, room: _Room) -> dict[str, str]:
    return _known(
        place=_text(instance.place, room.value),
        version=_text(instance.version, room.value),
        fix=_text(instance.fix, room.value),
    )


def _message(event: Event, check: Listed | None) -> str:
    """One line for a person: what Logs Explorer shows of the entry."""
    change = event.change
    title = check.title.rstrip(".") if check else change.finding.check
    reason = f" ({change.reason})" if change.reason else ""
    line = f"{_LEADS[change.kind]}{title}: {change.finding.detail}{reason}"
    return _text(" ".join(line.split()), _LONGEST_MESSAGE)


def _level(event: Event) -> str:
    """What is resolved wakes nobody, however bad it was."""
    return "INFO" if event.change.kind is EventKind.RESOLVED else _SEVERITIES[event.change.finding.severity]


def _name(severity: Severity) -> str:
    return severity.name


def _known(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _text(text: str, longest: int) -> str:
    """Text that is valid UTF-8 and holds no NUL, cut to ``longest`` characters; what was neither is escaped."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isprintable():
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _storable(time: dt.datetime, now: dt.datetime) -> dt.datetime:
    """The event's own time where the server keeps such an entry, else the start of today.

    The payload keeps the true time. The start of the day stays the same when the entry is sent again, so that the
    server still knows it for the same one; across midnight ``event_uid`` does.
    """
    if -_OLDEST <= time - now <= _NEWEST:
        return time
    return now.astimezone(dt.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)


def _moment(time: dt.datetime) -> str:
    return time.astimezone(dt.timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
