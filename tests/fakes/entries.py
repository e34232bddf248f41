"""What Cloud Logging says to one request of entries:write, as a strict reading of its published rules. Pure.

Rules: https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/write,
https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry and https://cloud.google.com/logging/quotas.
How entries are measured, and the order of the checks, are not published: size is that of compact JSON here.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

REQUEST_BYTES = 10_485_760
ENTRY_BYTES = 256 << 10
INVALID, DENIED = 3, 7
STATUSES = {
    3: (400, "INVALID_ARGUMENT"), 5: (404, "NOT_FOUND"), 7: (403, "PERMISSION_DENIED"), 8: (429, "RESOURCE_EXHAUSTED"),
    10: (409, "ABORTED"), 13: (500, "INTERNAL"), 14: (503, "UNAVAILABLE"), 16: (401, "UNAUTHENTICATED"),
}  # fmt: skip

_SEVERITIES = {"DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"}
_REQUEST_FIELDS = {"logName", "resource", "labels", "entries", "partialSuccess", "dryRun"}
_ENTRY_FIELDS = {
    "logName", "resource", "timestamp", "receiveTimestamp", "severity", "insertId", "httpRequest", "labels",
    "operation", "trace", "spanId", "traceSampled", "sourceLocation", "split", "jsonPayload", "textPayload",
    "protoPayload",
}  # fmt: skip
_RESOURCES = {
    "global": {"project_id"},
    "gce_instance": {"project_id", "instance_id", "zone"},
    "generic_node": {"project_id", "location", "namespace", "node_id"},
}
_SNAKE = re.compile(r"_([a-z])")
_LOG_NAME = re.compile(r"(?:projects|organizations|billingAccounts|folders)/([^/\s]+)/logs/([^/\s]+)")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class RefusedError(Exception):
    """The whole request is refused."""

    def __init__(self, code: int, message: str, details: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details

    def answer(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body."""
        status, name = STATUSES[self.code]
        error: dict[str, Any] = {"code": status, "message": self.message, "status": name}
        return status, {"error": error | ({"details": list(self.details)} if self.details else {})}


class Request(NamedTuple):
    """One request, its defaults merged into its entries."""

    entries: tuple[dict[str, Any], ...]
    partial_success: bool
    dry_run: bool


def parse(body: bytes) -> Request:
    """The request as the server's JSON parser reads it: one field that it does not know and nothing is written."""
    if len(body) > REQUEST_BYTES:
        raise RefusedError(INVALID, f"Request payload size exceeds the limit: {REQUEST_BYTES} bytes.")
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        if b"\\ud" in body.lower():  # pairs are letters, halves of one are not
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise RefusedError(INVALID, f"Invalid JSON payload received. {error}") from error
    fields = _fields(document, _REQUEST_FIELDS, at="")
    entries = fields.get("entries", [])
    if not isinstance(entries, list) or not entries:
        raise RefusedError(INVALID, "A valid entries list must be specified.")
    defaults = {"logName": fields.get("logName"), "resource": fields.get("resource")}
    merged = [
        {name: value for name, value in defaults.items() if value is not None}
        | _typed(entry, at=f"entries[{index}]", labels=fields.get("labels", {}))
        for index, entry in enumerate(entries)
    ]
    return Request(tuple(merged), bool(fields.get("partialSuccess")), bool(fields.get("dryRun")))


def _no_constant(name: str) -> None:
    raise ValueError(f"Unexpected token. {name}")


def _fields(value: object, known: set[str], *, at: str) -> dict[str, Any]:
    """An object's fields by their JSON names; the parser takes the names of the proto as well."""
    if not isinstance(value, dict):
        raise _violation(at, f"Invalid value at '{at}', an object is expected")
    fields = {_SNAKE.sub(lambda match: match[1].upper(), name): each for name, each in value.items()}
    for name in fields.keys() - known:
        raise _violation(at, f"Invalid JSON payload received. Unknown name \"{name}\" at '{at}': Cannot find field.")
    return fields


def _typed(entry: object, *, at: str, labels: Mapping[str, str]) -> dict[str, Any]:
    fields = _fields(entry, _ENTRY_FIELDS, at=at)
    fields["labels"] = {**labels, **fields.get("labels", {})}
    for name in ("logName", "timestamp", "severity", "insertId", "textPayload"):
        if not isinstance(fields.get(name, ""), str):
            raise _violation(at, f"Invalid value at '{at}.{name}' (TYPE_STRING), {fields[name]!r}")
    if fields.get("severity", "DEFAULT") not in _SEVERITIES:
        raise _violation(
            at,
            f"Invalid value at '{at}.severity' (type.googleapis.com/google.logging.type.LogSeverity), "
            f'"{fields["severity"]}"',
        )
    if not isinstance(fields.get("jsonPayload", {}), dict):
        raise _violation(at, f"Invalid value at '{at}.json_payload' (type.googleapis.com/google.protobuf.Struct)")
    for each in (fields["labels"], fields.get("resource", {}).get("labels", {})):
        if not all(isinstance(value, str) for value in each.values()):
            raise _violation(at, f"Invalid value at '{at}.labels[0].value' (TYPE_STRING)")
    if "timestamp" in fields and moment(fields["timestamp"]) is None:
        raise _violation(
            at,
            f"Invalid value at '{at}.timestamp' (type.googleapis.com/google.protobuf.Timestamp), "
            f"Field 'timestamp', Illegal timestamp format",
        )
    return fields


def _violation(field: str, message: str) -> RefusedError:
    violations = [{"field": field, "description": message}]
    return RefusedError(
        INVALID, message, ({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations},)
    )


def fault(entry: Mapping[str, Any], *, projects: set[str], now: dt.datetime) -> tuple[int, str] | None:
    """Why this entry cannot be written, as code and text, or None."""
    name = _LOG_NAME.fullmatch(entry.get("logName", ""))
    if name and name[1] not in projects:
        return DENIED, f"Permission 'logging.logEntries.create' denied on resource 'projects/{name[1]}'."
    log_id = urllib.parse.unquote(name[2]) if name else ""
    return next(((INVALID, text) for text in _faults(entry, log_id, now)), None)


def _faults(entry: Mapping[str, Any], log_id: str, now: dt.datetime) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9/_.-]{1,511}", log_id):
        yield "Log name contains illegal character or is not well formed"
    yield from _resource_faults(entry.get("resource"))
    if len({"jsonPayload", "textPayload", "protoPayload"} & entry.keys()) != 1:
        yield "Log entry has no payload"
    if len(entry["labels"]) > 64:
        yield "Log entry has more than 64 labels"
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", entry.get("insertId", "")):
        yield "Insert id is not valid"
    time = moment(entry.get("timestamp", ""))
    if time and time > now + dt.timedelta(hours=24):
        yield "Log entry timestamp is more than 24 hours in the future"
    size = len(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
    if size > ENTRY_BYTES:
        yield f"Log entry with size {size / 1024:.1f}K exceeds maximum size of {ENTRY_BYTES / 1024:.1f}K"


def _resource_faults(resource: object) -> Iterator[str]:
    if not isinstance(resource, dict) or not isinstance(resource.get("type"), str):
        yield "A monitored resource must be specified for each log entry"
        return
    expected = _RESOURCES.get(resource["type"])
    labels = resource.get("labels", {})
    if expected is None:
        yield f"Unknown monitored resource type: {resource['type']}"
    elif labels.keys() != expected or not all(labels.values()):
        yield f"The labels of {resource['type']} are {', '.join(sorted(expected))}"


def partial(failures: Mapping[int, tuple[int, str]]) -> tuple[int, dict[str, Any]]:
    """The answer when some entries were written and these were not."""
    index, (code, message) = next(iter(failures.items()))
    errors = {str(index): {"code": code, "message": message} for index, (code, message) in failures.items()}
    details = (
        {"@type": "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors", "logEntryErrors": errors},
        {
            "@type": "type.googleapis.com/google.rpc.DebugInfo",
            "detail": f"[ORIGINAL ERROR] generic::{STATUSES[code][1].lower()}: {message} [key: {index}]",
        },
    )
    return RefusedError(code, message, details).answer()


def cut_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels as stored: long ones are cut, not refused."""
    return {_cut(name, 512): _cut(value, 64 << 10) for name, value in labels.items()}


def _cut(text: str, limit: int) -> str:
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "..."


def moment(text: str) -> dt.datetime | None:
    """An RFC 3339 timestamp, or None for what is none."""
    match = _TIME.fullmatch(text)
    if not match:
        return None
    fraction = (match[2] or "").ljust(6, "0")[:6]
    try:
        return dt.datetime.fromisoformat(f"{match[1]}.{fraction}{match[3].replace('Z', '+00:00')}")
    except ValueError:
        return None
