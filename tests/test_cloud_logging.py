"""Google's own client against a strict local server: whatever happens, no event is lost and none is shown twice."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest

from agent.config import CloudLoggingSection
from agent.sinks.cloud_logging import LOG, CloudLogging, resource
from agent.sinks.delivery import Delivery, Identity
from tests.fakes import entries as rules
from tests.fakes.cloud_logging import Fault, LoggingServer
from tests.fakes.events import CATALOGUE, LAPTOP, VM, an_event, some_events

NOW = dt.datetime.now(dt.timezone.utc)


@pytest.fixture
def server():
    with LoggingServer() as running:
        yield running


@pytest.fixture
def sink(server):
    return a_sink(server)


def a_sink(server, **settings):
    said = {"endpoint": server.endpoint, "credentials": "none", "timeout_seconds": 5.0}
    return CloudLogging(CloudLoggingSection(**(said | settings)), CATALOGUE)


def sequences(entries):
    return [entry["jsonPayload"]["scan"]["seq"] for entry in entries]


def everything(events):
    return Delivery(accepted=frozenset(event.sequence for event in events))


def subject_is(*numbers):
    return lambda entry: entry["jsonPayload"].get("subject", {}).get("name") in {f"sshd#{number}" for number in numbers}


def test_a_thousand_events_arrive_once_and_in_one_request(server, sink):
    events = some_events(1_000)
    assert sink.send(events, VM) == everything(events)
    assert sequences(server.arrivals) == list(range(1, 1_001))
    assert [call.entries for call in server.calls] == [1_000]


def test_no_events_are_no_request(server, sink):
    assert sink.send([], VM) == Delivery()
    assert server.calls == []


def test_an_entry_is_in_our_log_of_the_machines_project(server, sink):
    sink.send([an_event()], VM)
    (entry,) = server.visible()
    assert entry["logName"] == f"projects/fake-project/logs/{LOG}"
    assert entry["resource"]["labels"]["instance_id"] == VM.instance_id


def test_the_configured_project_is_written_to_and_the_machines_own_is_named(server):
    server.projects = {"central"}
    assert a_sink(server, project="central").send([an_event()], VM).accepted == {1}
    assert server.visible()[0]["resource"]["labels"]["project_id"] == "fake-project"


def test_a_machine_that_is_no_vm_is_a_generic_node(server, sink):
    assert sink.send([an_event()], LAPTOP).accepted == {1}
    assert server.visible()[0]["resource"] == {
        "type": "generic_node",
        "labels": {
            "project_id": "fake-project",
            "location": "global",
            "namespace": "dlvmguard",
            "node_id": LAPTOP.instance_id,
        },
    }


def test_a_machine_without_any_name_still_has_a_resource():
    assert resource(Identity(), "p")["labels"]["node_id"] == "unnamed"


@pytest.mark.parametrize("age", [40, -3])
def test_a_wrong_clock_or_a_long_outage_loses_nothing(server, sink, age):
    event = an_event(time=NOW - dt.timedelta(days=age))
    for _ in range(2):
        assert sink.send([event], VM) == everything([event])
    assert (len(server.arrivals), server.expired) == (2, [])


TEMPORARY = {
    **{str(code): Fault.status(code) for code in (408, 409, 429, 499, 500, 503, 504)},
    "html": Fault.answer(502),
    "html 200": Fault.answer(200),
    "broken json": Fault.answer(200, b'{"unfinished": "ans'),
    "no object": Fault.answer(500, b'"overloaded"'),
    "no error object": Fault.answer(403, b'{"error": "no"}'),
    "no list of details": Fault.answer(403, b'{"error": {"details": [5]}}'),
    "reason that is no text": Fault.status(403, reason=["x"]),
    "nested without end": Fault.answer(500, b"[" * 200_000),
    "redirect": Fault.answer(304, b""),
    "dropped": Fault.drop(),
}
UNHEARD = {"accepted and dropped": Fault.accept_then_drop(), "cut": Fault.truncated()}


@pytest.mark.parametrize("fault", TEMPORARY.values(), ids=TEMPORARY)
def test_after_a_failure_the_next_attempt_delivers_all_of_it_once(server, sink, fault):
    events = some_events(50)
    server.faults.append(fault)
    failed = sink.send(events, VM)
    assert (failed.accepted, failed.rejected, server.arrivals) == (frozenset(), {}, [])
    assert failed.problem
    assert "\n" not in failed.problem
    assert sink.send(events, VM) == everything(events)
    assert sequences(server.arrivals) == sequences(server.visible()) == list(range(1, 51))


@pytest.mark.parametrize("fault", UNHEARD.values(), ids=UNHEARD)
def test_when_the_yes_is_lost_the_repetition_is_the_same_entries(server, sink, fault):
    events = some_events(50)
    server.faults.append(fault)
    assert sink.send(events, VM).accepted == frozenset()
    assert sink.send(events, VM) == everything(events)
    assert len(server.arrivals) == 100
    assert sequences(server.visible()) == list(range(1, 51))


def test_an_answer_that_takes_too_long_is_given_up(server):
    sink = a_sink(server, timeout_seconds=0.2)
    events = some_events(3)
    server.faults.append(Fault.slow(30))
    failed = sink.send(events, VM)
    assert (failed.accepted, failed.rejected) == (frozenset(), {})
    assert "timed out" in failed.problem
    assert sink.send(events, VM) == everything(events)
    assert sequences(server.visible()) == [1, 2, 3]


def test_a_server_that_is_away_and_comes_back_gets_everything(server, sink):
    assert sink.send(some_events(2), VM).accepted == {1, 2}
    server.stop()
    assert "no answer" in sink.send([an_event(3)], VM).problem
    server.start()
    assert sink.send([an_event(3)], VM).accepted == {3}
    assert sequences(server.arrivals) == [1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault.status(401), "sinks.cloud_logging.credentials"),
        (Fault.status(403), "roles/logging.logWriter"),
        (Fault.status(403, reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT"), "auth/logging.write"),
        (Fault.status(403, reason="SERVICE_DISABLED"), "services enable"),
        (Fault.status(404), "sinks.cloud_logging.project"),
        (Fault.status(503), ""),
    ],
)
def test_what_the_operator_can_mend_comes_with_advice(server, sink, fault, advice):
    server.faults.append(fault)
    failed = sink.send(some_events(3), VM)
    assert (failed.accepted, failed.rejected) == (frozenset(), {})
    assert advice in failed.advice
    assert bool(advice) == bool(failed.advice)


def test_an_entry_that_is_refused_takes_no_other_with_it(server, sink):
    server.refuse(subject_is(3, 500), message="Log entry is bad")
    delivery = sink.send(some_events(1_000), VM)
    assert delivery.rejected == {3: "Log entry is bad", 500: "Log entry is bad"}
    assert delivery.accepted == frozenset(range(1, 1_001)) - {3, 500}
    assert delivery.problem == ""
    assert len(server.arrivals) == 998


@pytest.mark.parametrize(("code", "advice"), [(7, "logWriter"), (5, "project"), (8, ""), (14, "")])
def test_an_entry_that_is_not_to_blame_is_kept(server, sink, code, advice):
    server.refuse(subject_is(2), code=code, message="not now")
    delivery = sink.send(some_events(3), VM)
    assert delivery.accepted == {1, 3}
    assert (delivery.rejected, delivery.problem) == ({}, "not now")
    assert advice in delivery.advice
    server.forgive()
    assert sink.send([an_event(2)], VM).accepted == {2}
    assert sequences(server.arrivals) == [1, 3, 2]


@pytest.mark.parametrize("poison", [{1}, {1_000}, {7, 8, 900}, {*range(500, 520)}])
def test_entries_that_spoil_their_request_are_found_and_the_rest_arrives_once(server, sink, poison):
    server.refuse(subject_is(*poison), message="Invalid value", whole=True)
    delivery = sink.send(some_events(1_000), VM)
    assert delivery.rejected == dict.fromkeys(poison, "Invalid value")
    assert delivery.accepted == frozenset(range(1, 1_001)) - poison
    assert delivery.problem == ""
    assert sorted(sequences(server.arrivals)) == sorted(delivery.accepted)


def test_a_batch_of_nothing_but_bad_entries_is_rejected_to_the_last(server, sink):
    server.refuse(subject_is(1, 2, 3))
    assert sink.send(some_events(3), VM) == Delivery(rejected=dict.fromkeys([1, 2, 3], "refused"))


def test_a_refusal_that_is_not_repeated_costs_nothing(server, sink):
    server.faults.append(Fault.status(400))
    assert sink.send([an_event()], VM) == everything([an_event()])
    assert sequences(server.arrivals) == [1]


def test_a_log_that_cannot_exist_costs_no_event(server):
    delivery = a_sink(server, project="not a project").send(some_events(100), VM)
    assert (delivery.accepted, delivery.rejected) == (frozenset(), {})
    assert "every entry is refused" in delivery.problem
    assert "sinks.cloud_logging.project" in delivery.advice
    assert len(server.calls) == 2


@pytest.mark.parametrize("earlier", [0, 2])
def test_a_clock_that_is_days_ahead_costs_no_event(server, sink, earlier):
    server.now = NOW - dt.timedelta(days=3)
    right = [an_event(number, time=server.now) for number in range(1, earlier + 1)]
    ahead = [an_event(number, time=NOW) for number in (11, 12)]
    delivery = sink.send(right + ahead, VM)
    assert (delivery.accepted, delivery.rejected) == (frozenset(range(1, earlier + 1)), {})
    assert "24 hours" in delivery.problem
    assert "clock" in delivery.advice
    server.now = NOW
    assert sink.send(ahead, VM) == everything(ahead)
    assert sequences(server.arrivals) == [*range(1, earlier + 1), 11, 12]


def test_a_failure_while_the_bad_entry_is_looked_for_keeps_what_is_settled(server, sink):
    server.refuse(subject_is(4), whole=True)
    good = Fault()
    server.faults.extend([good, good, good, good, Fault.status(503)])
    first = sink.send(some_events(4), VM)
    assert first.accepted == {1, 2}
    assert (first.rejected, first.problem) == ({}, "503: injected")
    second = sink.send([an_event(3), an_event(4)], VM)
    assert (second.accepted, second.rejected) == (frozenset({3}), {4: "refused"})
    assert sequences(server.arrivals) == [1, 2, 3]


def test_a_request_that_is_too_large_is_divided(server, sink):
    events = some_events(100, detail="d" * 150_000)
    assert sink.send(events, VM) == everything(events)
    assert sequences(server.arrivals) == list(range(1, 101))
    assert max(call.bytes for call in server.calls) > rules.REQUEST_BYTES


def test_no_project_is_a_problem_with_advice(server, sink):
    delivery = sink.send([an_event()], Identity(hostname="laptop"))
    assert (delivery.accepted, server.calls) == (frozenset(), [])
    assert "sinks.cloud_logging.project" in delivery.advice


def test_the_client_is_not_imported_before_it_is_used():
    program = (
        "import sys, agent.sinks.cloud_logging as sink; from agent.config import CloudLoggingSection;"
        "sink.CloudLogging(CloudLoggingSection(), {}); print([m for m in sys.modules if m.startswith('google.')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"
