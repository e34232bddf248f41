"""What is judged about errors that the driver reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import knowledge
from agent.checks.xid import (
    gpu_application_error,
    gpu_driver_warning,
    gpu_memory_warning,
    gpu_needs_host_restart,
    gpu_needs_reset,
    gpu_security_error,
    nvswitch_error,
)
from agent.facts.xid import Card, DeviceError, GpuErrors, Need
from agent.knowledge import XidCodes
from agent.model import Finding, Severity, Unknown
from tests.fakes.nvml import address, uuid

CODES = knowledge.load(XidCodes)
CHECKS = (
    gpu_application_error,
    gpu_driver_warning,
    gpu_memory_warning,
    gpu_needs_host_restart,
    gpu_needs_reset,
    gpu_security_error,
)
H100, T4 = "NVIDIA H100 80GB HBM3", "Tesla T4"
HOUR = 3600 * 1_000_000


def error(code, *, gpu=0, **fields: Any) -> DeviceError:
    return DeviceError(**{"address": address(gpu), "code": code, "first": HOUR, "last": HOUR, **fields})


def errors(*seen: DeviceError, needs=(), model=H100, switch_errors=()) -> GpuErrors:
    places = sorted({each.address for each in (*seen, *needs)})
    cards = tuple(Card(address=place, uuid=uuid(int(place[5:7], 16)), model=model) for place in places)
    return GpuErrors(boot="b", position=9, cards=cards, errors=seen, needs=needs, switch_errors=switch_errors)


def asked(action, *, gpu=0) -> Need:
    return Need(address=address(gpu), action=action, since=HOUR)


def findings(check, seen: GpuErrors) -> list[Finding]:
    return [each for each in check(seen, CODES) if isinstance(each, Finding)]


def fired(seen: GpuErrors) -> set[str]:
    return {check.id for check in CHECKS if findings(check, seen)}


def test_a_gpu_without_errors_is_quiet():
    assert fired(errors()) == set()
    assert list(nvswitch_error(errors())) == []


@pytest.mark.parametrize("code", [14, 106, 107])
def test_a_test_message_is_quiet(code):
    assert fired(errors(error(code))) == set()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([8, 11, 13, 25, 31, 32, 39, 43, 45, 68, 69, 80, 94, 109, 135, 139], {"gpu-application-error"}),
        ([37, 38, 44, 78, 93, 121, 141, 152, 159, 160, 161, 162, 165], {"gpu-driver-warning"}),
        ([63, 92, 168], {"gpu-memory-warning"}),
        ([46, 48, 61, 62, 74, 95, 119, 120, 136, 140, 155, 156, 158, 171, 172], {"gpu-needs-reset"}),
        ([54, 64, 79, 143, 157, 167], {"gpu-needs-host-restart"}),
        ([66, 67, 137, 151, 166, 170], {"gpu-security-error"}),
        ([110, 169], {"gpu-needs-reset", "gpu-security-error"}),
        ([1, 12, 87, 125, 173, 99999], {"gpu-driver-warning"}),
    ],
)
def test_each_code_goes_to_whom_it_concerns(codes, expected):
    assert {code: fired(errors(error(code))) for code in codes} == dict.fromkeys(codes, expected)


@pytest.mark.parametrize("code", range(144, 151))
def test_an_error_of_nvlink_5_needs_a_reset_if_it_is_fatal(code):
    assert fired(errors(error(code, fatal=True))) == {"gpu-needs-reset"}
    assert fired(errors(error(code))) == {"gpu-driver-warning"}


def test_a_link_that_went_down_is_told_with_its_part_number_and_reason():
    (finding,) = findings(
        gpu_needs_reset, errors(error(149, fatal=True, part="NETIR_LINK_EVT", link=8, reason=4, count=2))
    )
    assert "NETIR_LINK_EVT, link 8, the signal of the link is bad" in finding.detail


def test_a_program_that_fails_makes_no_gpu_sick_and_is_named():
    (finding,) = findings(gpu_application_error, errors(error(31, processes=("train.py", "serve"), count=5, pid=7)))
    assert finding.subject == uuid(0)
    assert finding.severity is Severity.LOW
    assert finding.detail == (
        f"{H100} at {address(0)}: Xid 31 (a program used an address that is not mapped) first 1:00 h after the boot, "
        "4 times or more, by train.py, serve"
    )
    assert finding.evidence == {"codes": "31", "first_seconds_after_boot": 3600, "at_least": 4}


def test_a_program_that_somebody_ended_is_for_information():
    (finding,) = findings(gpu_application_error, errors(error(45)))
    assert finding.severity is Severity.INFO


def test_a_gpu_off_the_bus_needs_other_hardware_whatever_else_it_met():
    seen = errors(error(48), error(79), error(31), needs=(asked(2),))
    assert fired(seen) == {"gpu-needs-host-restart", "gpu-application-error"}
    (finding,) = findings(gpu_needs_host_restart, seen)
    assert finding.fix == ""  # the check's own: stop and start
    assert finding.detail.startswith(f"{H100} at {address(0)}: Xid 79 (the GPU has fallen off the bus)")
    assert finding.detail.endswith("the driver asks for a restart of the machine")
    assert finding.evidence["codes"] == "48 79"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (1, "gpu-needs-reset"),
        (2, "gpu-needs-host-restart"),
        (3, "gpu-needs-reset"),
        (4, "gpu-needs-reset"),
        (5, "gpu-needs-host-restart"),
        (6, "gpu-needs-host-restart"),
        (7, "gpu-needs-host-restart"),
    ],
)
def test_what_the_driver_asks_for_counts_even_alone(action, expected):
    seen = errors(needs=(asked(action),))
    assert fired(seen) == {expected}
    found = [finding for check in CHECKS for finding in findings(check, seen)]
    assert [(finding.evidence, finding.severity) for finding in found] == [({"recovery_action": action}, None)]


@pytest.mark.parametrize("action", [None, 8, 0xFFFF])
def test_what_the_driver_asks_for_in_words_that_are_not_known_is_unknown_for_that_gpu(action):
    seen = errors(error(13, gpu=1), needs=(asked(action),))
    for check in (gpu_needs_reset, gpu_needs_host_restart):
        (unknown,) = check(seen, CODES)
        assert isinstance(unknown, Unknown)
        assert unknown.scope == uuid(0)


def test_an_older_card_is_told_of_pages_and_a_newer_one_of_rows():
    (older,) = findings(gpu_memory_warning, errors(error(63), model=T4))
    (newer,) = findings(gpu_memory_warning, errors(error(63)))
    assert ("page" in older.detail, "page" in newer.detail) == (True, False)
    assert older.fix != newer.fix
    (unnamed,) = findings(gpu_memory_warning, errors(error(63), model=""))
    assert unnamed.detail.startswith(f"GPU at {address(0)}: Xid 63")


def test_two_gpus_are_two_findings():
    found = findings(gpu_needs_reset, errors(error(48), error(95, gpu=1)))
    assert [(each.subject, each.evidence["codes"]) for each in found] == [(uuid(0), "48"), (uuid(1), "95")]


def test_many_kinds_are_one_line():
    (finding,) = findings(gpu_application_error, errors(*(error(code) for code in (8, 11, 13, 31, 94))))
    assert finding.severity is Severity.MEDIUM
    assert finding.detail.count("Xid ") == 3
    assert finding.detail.startswith(f"{H100} at {address(0)}: Xid 94 ")
    assert finding.detail.endswith("; 2 other kinds of errors")


@settings(max_examples=50)
@given(st.integers(1, 2**40), st.integers(0, 2**50))
def test_a_flood_changes_a_finding_seldom_and_the_last_time_never(count, last):
    (finding,) = findings(gpu_application_error, errors(error(13, count=count, last=last)))
    at_least = finding.evidence["at_least"]
    assert isinstance(at_least, int)
    assert at_least <= count < 2 * at_least
    (other,) = findings(gpu_application_error, errors(error(13, count=at_least)))
    assert other == finding


@pytest.mark.parametrize(("fatal", "severity"), [(True, Severity.HIGH), (False, Severity.LOW)])
def test_an_error_of_a_switch_is_as_bad_as_it_says(fatal, severity):
    (finding,) = nvswitch_error(errors(switch_errors=(error(20034, fatal=fatal), error(12028))))
    assert (finding.subject, finding.severity) == (address(0), severity)
    assert "SXid 20034" in finding.detail


def test_every_known_code_has_one_rule_with_words():
    codes = [code for rule in CODES.rules for code in rule.codes]
    assert len(codes) == len(set(codes))
    assert all(rule.meaning and not rule.meaning.endswith(".") for rule in CODES.rules)
    assert len({action.number for action in CODES.actions}) == len(CODES.actions) == 7
    numbers = [number for reason in CODES.link_reasons for number in reason.numbers]
    assert len(numbers) == len(set(numbers))


@given(st.integers(0, 10**6), st.text(max_size=40), st.booleans(), st.sampled_from([H100, T4, "", "P4 V100-x"]))
@settings(max_examples=50)
def test_any_error_is_said_in_one_line_by_some_check(code, part, fatal, model):
    seen = errors(error(code, part=part if part.isprintable() else "", fatal=fatal), model=model)
    told = [finding for check in CHECKS for finding in findings(check, seen)]
    is_test = any(code in rule.codes and rule.kind == "test" for rule in CODES.rules)
    assert bool(told) is not is_test
    assert all(finding.detail.isprintable() and finding.subject == uuid(0) for finding in told)
