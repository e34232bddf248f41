"""The local Cloud Logging server is as strict as the rules it is made from, or tests against it prove nothing."""

from __future__ import annotations

import datetime as dt
import gzip
import json

import pytest
import requests

from tests.fakes import entries as rules
from tests.fakes.cloud_logging import LoggingServer

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc)
GOOD = {
    "logName": "projects/fake-project/logs/a%2Fb",
    "resource": {"type": "global", "labels": {"project_id": "fake-project"}},
    "timestamp": "2026-11-23T12:00:00Z",
    "severity": "INFO",
    "insertId": "1",
    "jsonPayload": {"message": "hello"},
}


@pytest.fixture
def server():
    with LoggingServer(now=NOW) as running:
        yield running


def post(server, *entries, raw=None, headers=None, **fields):
    body = raw or json.dumps({"entries": entries, "partialSuccess": True} | fields).encode()
    return requests.post(f"{server.endpoint}/v2/entries:write", data=body, headers=headers, timeout=10)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"timestamp": "2026-11-24T11:59:59.123456789+00:00"},
        {"insertId": "a" * 64},
        {"labels": {f"label-{number}": "x" for number in range(64)}},
        {"jsonPayload": {"message": "x" * 250_000}},
        {"insert_id": "2"},
    ],
)
def test_a_good_entry_is_written(server, change):
    assert post(server, GOOD | change).json() == {}
    assert len(server.visible()) == 1


def test_what_the_entry_lacks_comes_from_the_request(server):
    own = {name: GOOD[name] for name in ("jsonPayload",)}
    rest = {name: GOOD[name] for name in ("logName", "resource")}
    assert post(server, own, labels={"a": "1"}, **rest).status_code == 200
    (entry,) = server.visible()
    assert (entry["logName"], entry["labels"], entry["severity"]) == (GOOD["logName"], {"a": "1"}, "DEFAULT")


@pytest.mark.parametrize(
    "change",
    [
        {"severity": "WARN"},
        {"severity": 200},
        {"colour": "blue"},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-02-30T00:00:00Z"},
        {"jsonPayload": ["list"]},
        {"jsonPayload": "text"},
        {"labels": {"count": 1}},
        {"resource": {"type": "global", "labels": {"project_id": 1}}},
        {"jsonPayload": {"name": "\udc80"}},
        {"jsonPayload": {"number": float("nan")}},
        {"insertId": 5},
    ],
)
def test_what_the_parser_does_not_take_costs_the_whole_request(server, change):
    answer = post(server, GOOD, GOOD | change)
    assert answer.status_code == 400
    assert not any("Partial" in detail["@type"] for detail in answer.json()["error"].get("details", []))
    assert server.arrivals == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"logName": "projects/fake-project/logs/a/b"}, "Log name"),
        ({"logName": "projects/fake-project/logs/" + "x" * 512}, "Log name"),
        ({"logName": "fake-project/logs/a"}, "Log name"),
        ({"resource": {"type": "vm"}}, "Unknown monitored resource"),
        ({"resource": {"type": "gce_instance", "labels": {"project_id": "p"}}}, "The labels of gce_instance"),
        ({"resource": None}, "A monitored resource must be specified"),
        ({"jsonPayload": {"message": "x" * 415_000}}, "Log entry with size 405.5K exceeds maximum size of 256.0K"),
        ({"timestamp": "2026-11-24T12:00:01Z"}, "24 hours"),
        ({"insertId": "a b"}, "Insert id"),
        ({"labels": {f"label-{number}": "x" for number in range(65)}}, "64 labels"),
        ({"textPayload": "two"}, "payload"),
    ],
)
def test_what_an_entry_does_wrong_costs_itself(server, change, text):
    bad = {name: value for name, value in (GOOD | change).items() if value is not None}
    answer = post(server, GOOD, bad)
    partial, debug = answer.json()["error"]["details"]
    assert answer.status_code == 400
    assert partial["@type"] == "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors"
    assert list(partial["logEntryErrors"]) == ["1"]
    assert partial["logEntryErrors"]["1"]["code"] == 3
    assert text in partial["logEntryErrors"]["1"]["message"]
    assert debug["@type"] == "type.googleapis.com/google.rpc.DebugInfo"
    assert "key: 1" in debug["detail"]
    assert len(server.arrivals) == 1


def test_another_project_is_denied(server):
    answer = post(server, GOOD, GOOD | {"logName": "projects/other/logs/a"})
    assert answer.status_code == 403
    assert answer.json()["error"]["details"][0]["logEntryErrors"]["1"]["code"] == 7


def test_without_partial_success_one_bad_entry_costs_all(server):
    answer = post(server, GOOD, GOOD | {"insertId": "a b"}, partialSuccess=False)
    assert (answer.status_code, server.arrivals) == (400, [])
    assert "details" not in answer.json()["error"]


def test_when_nothing_was_written_there_are_no_details(server):
    assert "details" not in post(server, GOOD | {"insertId": "a b"}).json()["error"]


def test_a_dry_run_judges_and_writes_nothing(server):
    assert post(server, GOOD, dry_run=True).json() == {}
    assert post(server, GOOD | {"insertId": "a b"}, dryRun=True).status_code == 400
    assert server.arrivals == []


def test_a_request_over_the_limit_is_refused_in_the_servers_words(server):
    answer = post(server, *[GOOD | {"jsonPayload": {"message": "x" * 200_000}}] * 60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Request payload size exceeds the limit: 10485760 bytes."


def test_no_entries_are_an_error(server):
    assert post(server).status_code == 400


def test_a_compressed_request_is_read(server):
    body = gzip.compress(json.dumps({"entries": [GOOD]}).encode())
    assert post(server, raw=body, headers={"Content-Encoding": "gzip"}).status_code == 200
    assert len(server.arrivals) == 1


def test_the_same_entry_twice_is_shown_once_and_another_time_is_another(server):
    post(server, GOOD, GOOD)
    post(server, GOOD)
    post(server, GOOD | {"timestamp": "2026-11-23T12:00:01Z"})
    assert (len(server.arrivals), len(server.visible())) == (4, 2)


def test_without_a_timestamp_the_same_entry_is_two(server):
    bare = {name: value for name, value in GOOD.items() if name not in {"timestamp", "insertId"}}
    post(server, bare, bare)
    assert len(server.visible()) == 2


def test_an_entry_past_retention_is_taken_and_never_seen(server):
    assert post(server, GOOD | {"timestamp": "2026-10-01T00:00:00Z"}).status_code == 200
    assert (len(server.visible()), len(server.expired)) == (0, 1)


def test_long_labels_are_cut(server):
    post(server, GOOD | {"labels": {"k" * 600: "v" * 70_000}})
    ((name, value),) = server.visible()[0]["labels"].items()
    assert (len(name), len(value)) == (512, 64 << 10)
    assert value.endswith("...")


def test_a_token_is_asked_for():
    with LoggingServer(token="valid", now=NOW) as server:
        assert post(server, GOOD).status_code == 401
        assert post(server, GOOD, headers={"Authorization": "Bearer valid"}).status_code == 200


def test_the_port_stays_the_same_over_stop_and_start(server):
    with requests.Session() as session:
        before = server.endpoint
        session.post(f"{before}/v2/entries:write", json={"entries": [GOOD]}, timeout=10)
        server.stop()
        with pytest.raises(requests.ConnectionError):
            session.post(f"{before}/v2/entries:write", json={"entries": [GOOD]}, timeout=10)
        server.start()
        assert session.post(f"{before}/v2/entries:write", json={"entries": [GOOD]}, timeout=10).status_code == 200
    assert len(server.arrivals) == 2


@pytest.mark.parametrize(
    "text", ["2026-11-23T12:00:00Z", "2026-11-23T12:00:00.5Z", "2026-11-23T13:00:00.123456789+01:00"]
)
def test_timestamps_are_read(text):
    read = rules.moment(text)
    assert read
    assert abs(read - NOW) < dt.timedelta(seconds=1)
