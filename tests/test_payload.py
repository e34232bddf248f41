"""An event becomes an entry that the server takes, whatever the machine calls its files."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest
from google.cloud.logging_v2.types import LogEntry
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from agent.model import EventKind, Instance, Severity
from agent.sinks.delivery import Identity
from agent.sinks.payload import MAXIMUM_ENTRY_BYTES, finding_uid, json_line, log_entry, payload
from tests.fakes.events import CATALOGUE, LAPTOP, TIME, VM, an_event

DAY = dt.timedelta(days=1)
ANY_TEXT = st.text(st.characters(codec=None), max_size=200)  # lone surrogates too
WORDS = ANY_TEXT | st.builds(lambda text, times: text * times, ANY_TEXT, st.integers(1, 5_000))
FINDINGS = st.fixed_dictionaries(
    {
        "subject": WORDS,
        "detail": WORDS,
        "fix": WORDS,
        "evidence": st.dictionaries(
            ANY_TEXT, WORDS | st.integers() | st.floats(allow_nan=True) | st.booleans(), max_size=40
        ),
        "instances": st.lists(st.builds(Instance, place=WORDS, version=WORDS, fix=WORDS), max_size=40).map(tuple),
        "severity": st.sampled_from(Severity),
    }
)
KINDS = st.sampled_from(EventKind)


def entry_of(event, identity=VM, now=TIME):
    return log_entry(event, identity, CATALOGUE, now=now)


def test_an_opened_finding_is_written_field_by_field():
    assert entry_of(an_event(7, time=TIME, subject="sshd")) == {
        "insertId": an_event(7).uid,
        "timestamp": "2026-11-23T12:00:00.000250Z",
        "severity": "ERROR",
        "labels": {
            "compute.googleapis.com/resource_name": "gpu-1",
            "event_type": "opened",
            "rule_id": "ssh-root-login",
            "severity": "HIGH",
            "agent_version": "0.1.0",
            "schema_version": "1",
        },
        "jsonPayload": {
            "schema_version": "1",
            "event_type": "opened",
            "event_uid": an_event(7).uid,
            "message": "Root may log in over SSH: PermitRootLogin is yes",
            "time": "2026-11-23T12:00:00.000250Z",
            "initial": False,
            "truncated": False,
            "finding": {
                "uid": finding_uid(VM, an_event(subject="sshd").change.finding),
                "rule_id": "ssh-root-login",
                "severity": "HIGH",
                "severity_id": 4,
                "state": "ACTIVE",
                "status_id": 1,
                "detail": "PermitRootLogin is yes",
                "title": "Root may log in over SSH.",
                "topic": "access",
                "duty": "access",
            },
            "subject": {"name": "sshd"},
            "remediation": {"desc": "Set PermitRootLogin no and reload ssh."},
            "evidence": {"permit_root_login": "yes", "port": "22", "reachable": "true"},
            "scan": {"seq": 7, "epoch": "e1"},
            "host": {
                "project_id": "fake-project",
                "instance_id": "1234567890123456789",
                "instance_name": "gpu-1",
                "zone": "europe-west4-a",
                "machine_type": "a2-highgpu-1g",
                "image": "common-cu129-debian-12",
                "hostname": "gpu-1.internal",
            },
        },
    }


def test_a_check_that_no_longer_exists_still_has_a_name():
    said = payload(an_event(check="retired"), VM, None)
    assert said["message"] == "retired: PermitRootLogin is yes"
    assert "title" not in said["finding"]


@pytest.mark.parametrize(
    ("severity", "level"),
    list(zip(Severity, ["CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO"], strict=True)),
)
def test_severity_is_the_log_level(severity, level):
    assert entry_of(an_event(severity=severity))["severity"] == level


def test_a_resolved_finding_wakes_nobody():
    entry = entry_of(an_event(kind=EventKind.RESOLVED, severity=Severity.CRITICAL))
    finding = entry["jsonPayload"]["finding"]
    assert entry["severity"] == "INFO"
    assert (finding["state"], finding["status_id"], finding["severity"]) == ("INACTIVE", 4, "CRITICAL")
    assert entry["jsonPayload"]["message"].startswith("Resolved: Root may log in over SSH: ")
    assert finding["reason"] == "no longer found"


def test_a_changed_finding_says_how_bad_it_was():
    assert payload(an_event(kind=EventKind.CHANGED), VM, None)["previous"] == {"severity": "LOW"}


def test_other_words_do_not_make_another_finding():
    names = {finding_uid(VM, an_event(1, detail=detail, severity=severity).change.finding)
             for detail in ("one", "two") for severity in Severity}  # fmt: skip
    assert len(names) == 1
    assert re.fullmatch("[0-9a-f]{32}", names.pop())


def test_each_part_of_the_identity_makes_another_finding():
    finding = an_event(1).change.finding
    assert (
        len(
            {
                finding_uid(VM, finding),
                finding_uid(LAPTOP, finding),
                finding_uid(Identity(project_id="other", instance_id=VM.instance_id), finding),
                finding_uid(VM, an_event(2).change.finding),
                finding_uid(VM, an_event(1, check="other").change.finding),
            }
        )
        == 5
    )


@pytest.mark.parametrize("age", [-0.9, 0, 1, 24])
def test_an_entry_keeps_its_time_where_the_server_keeps_the_entry(age):
    event = an_event(time=TIME - age * DAY)
    assert entry_of(event)["timestamp"] == event.time.isoformat(timespec="microseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("age", [-400, -2, 26, 20_000])
def test_an_entry_that_the_server_would_lose_is_stamped_with_the_day_it_is_sent(age):
    event = an_event(time=TIME - age * DAY)
    entries = [entry_of(event, now=TIME + later) for later in (0 * DAY, dt.timedelta(hours=11))]
    assert {entry["timestamp"] for entry in entries} == {"2026-11-23T00:00:00.000000Z"}
    assert entries[0]["jsonPayload"]["time"].startswith(str(event.time.year))


def test_time_is_written_in_utc():
    local = TIME.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert entry_of(an_event(time=local))["timestamp"] == "2026-11-23T12:00:00.000250Z"


def test_an_event_that_is_too_large_loses_words_and_says_so():
    event = an_event(detail="d" * 300_000, evidence={f"key_{number}": "v" * 10_000 for number in range(30)})
    said = payload(event, VM, None)
    assert said["truncated"] is True
    assert said["event_uid"] == event.uid
    assert said["finding"]["uid"] == finding_uid(VM, event.change.finding)
    assert said["finding"]["detail"].startswith("ddd")


def test_an_event_that_fits_loses_nothing():
    said = payload(an_event(detail="d" * 150_000), VM, None)
    assert (len(said["finding"]["detail"]), said["truncated"]) == (150_000, False)


def test_the_places_of_a_finding_are_told_one_by_one():
    places = (Instance(place="/opt/conda", version="2.1.0", fix="conda update torch"), Instance(place="/usr"))
    said = payload(an_event(instances=places), VM, None)
    assert said["instances"] == [
        {"place": "/opt/conda", "version": "2.1.0", "fix": "conda update torch"},
        {"place": "/usr"},
    ]


def test_of_too_many_places_some_are_told():
    places = tuple(Instance(place=f"/{number}/" + "p" * 1_000) for number in range(500))
    said = payload(an_event(instances=places), VM, None)
    assert (said["truncated"], 0 < len(said["instances"]) < 500) == (True, True)


def test_names_of_evidence_that_meet_are_kept_apart():
    said = payload(an_event(evidence={"A b": 1, "a-b": 2, "é": 3, "": 4}), VM, None)
    assert sorted(said["evidence"].values()) == ["1", "2", "3", "4"]


def test_a_line_of_json_carries_what_a_logging_agent_looks_for():
    event = an_event(subject="a\nb", time=TIME)
    line = json_line(event, VM, CATALOGUE)
    said = json.loads(line)
    assert line.count(b"\n") == 1
    assert said.pop("logging.googleapis.com/severity") == "ERROR"
    assert said.pop("logging.googleapis.com/insertId") == event.uid
    assert said.pop("logging.googleapis.com/labels") == entry_of(event)["labels"]
    assert said == entry_of(event)["jsonPayload"]


@given(finding=FINDINGS, kind=KINDS)
def test_any_finding_fits_and_is_valid_utf8_json(finding, kind):
    entry = entry_of(an_event(1, kind=kind, **finding))
    encoded = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert len(encoded) <= MAXIMUM_ENTRY_BYTES
    assert json.loads(encoded) == entry
    assert b"\\u0000" not in encoded
    assert len(entry["jsonPayload"]["message"].splitlines()) <= 1


@given(finding=FINDINGS, kind=KINDS, identity=st.sampled_from([VM, LAPTOP]))
def test_the_type_of_the_api_takes_any_entry(finding, kind, identity):
    entry = entry_of(an_event(1, kind=kind, **finding), identity)
    parsed = json_format.ParseDict(entry, LogEntry.pb()())
    assert parsed.ByteSize() <= 256 << 10
    assert parsed.insert_id == an_event(1).uid


@given(first=FINDINGS, second=FINDINGS, kind=KINDS)
def test_a_path_has_the_same_type_in_every_payload(first, second, kind):
    one, other = (
        types_of(payload(an_event(1, **first), VM, None)),
        types_of(payload(an_event(2, kind=kind, **second), LAPTOP, None)),
    )
    assert {path: one[path] for path in one.keys() & other.keys()} == {
        path: other[path] for path in one.keys() & other.keys()
    }


def types_of(value, path=""):
    if not isinstance(value, dict):
        return {path: type(value)}
    return {inner: kind for name, each in value.items() for inner, kind in types_of(each, f"{path}.{name}").items()}
