"""Records of the kernel's log: how they are read from the machine, and what the driver reports in them."""

from __future__ import annotations

import os
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.facts.xid_records import PROVOKING, Record, Report, is_loading, parse_record, parse_report
from agent.host import Host
from agent.model import AbsentError, CannotLookError
from tests.fakes.kernel_log import LOADED, escaped, record
from tests.fakes.trees import plant


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"6,339,5140900,-;NET: Registered\n", Record(facility=0, sequence=339, at=5140900, text="NET: Registered")),
        (b"30,1,2,c;from systemd\n", Record(facility=3, sequence=1, at=2, text="from systemd")),
        (b"3,1,2,-,caller=T1;a;b\n SUBSYSTEM=pci\n DEVICE=+pci:0\n", Record(facility=0, sequence=1, at=2, text="a;b")),
        (rb"3,1,2,-;a\x0ab\x5cx", Record(facility=0, sequence=1, at=2, text="a\nb\\x")),
        (rb"3,1,2,-;\xff", Record(facility=0, sequence=1, at=2, text="\udcff")),
    ],
)
def test_a_record_is_read(raw, expected):
    assert parse_record(raw) == expected


@pytest.mark.parametrize("raw", [b"", b" SUBSYSTEM=pci\n", b"x,1,2,-;t", b"3,1,2", b"-3,1,2,-;t", b"3,1,2,-\n;t"])
def test_what_is_not_the_beginning_of_a_record_is_none(raw):
    assert parse_record(raw) is None


@given(st.binary() | st.builds(lambda tail: b"3,1,2,-;" + tail, st.binary()))
def test_any_bytes_are_a_record_or_none_without_an_error(raw):
    seen = parse_record(raw)
    assert seen is None or parse_report(seen.text) is None or seen.text.startswith(("NVRM: ", "nvidia-nvswitch"))


@settings(max_examples=50)
@given(st.text(max_size=50), st.integers(0, 2**40), st.integers(0, 2**50), st.integers(0, 23))
def test_a_record_says_what_was_written(text, sequence, at, facility):
    raw = record(text.encode("utf-8", "replace").decode(), sequence=sequence, at=at, facility=facility)
    assert parse_record(raw) == Record(
        facility=facility, sequence=sequence, at=at, text=text.encode("utf-8", "replace").decode()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVRM: Xid error: xyz, invalid data",
        "NVRM: Xid (PCI:0000:05:00): what, pid=1",
        "NVRM: Xid (PCI:0000:05:00): 123456, pid=1",
        "NVRM: Xid (PCI:0000:05): 79, pid=1",
        "NVRM: GPU at PCI:0000:01:00: GPU-9a613ad4-057b-4fb1-8572-ae2d3c112a92",
        "NVRM: GPU 0000:01:00.0 is already bound to vfio-pci.",
        "usb 1-1: Product: NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:[4711]: segfault at 0 ip 0 sp 0 error 4 in evil: 79, GPU",
        " NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.",
        "audit: type=1326 comm=NVRM: Xid (PCI:0000:05:00): 79, GPU",
        "nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 20009, Severity 0 Engine instance 28 Sub-engine instance 00",
        "nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 20009, Data {0x00000001, 0x00000000}",
        "nvidia-nvswitch0: using MSI",
    ],
)
def test_what_is_no_report_is_none(text):
    assert parse_report(text) is None


ADDRESS = "0000:05:00.0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM: Xid (PCI:0000:05:00): 79, pid=2412, name=python3, GPU has fallen off the bus.",
            Report(address=ADDRESS, code=79, process="python3", pid=2412),
        ),
        (
            "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            Report(address=ADDRESS, code=79),
        ),
        ("NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.", Report(address=ADDRESS, code=79)),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", Report(address="0000:03:00.0", code=14)),
        ("NVRM: Xid (PCI:00000001:AB:1F): 13", Report(address="0001:ab:1f.0", code=13)),
        (
            "NVRM: Xid (PCI:0000:05:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
            Report(address=ADDRESS, code=94, pid=7194),
        ),
        (
            "NVRM: Xid (PCI:0000:05:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception",
            Report(address=ADDRESS, code=13, pid=9, process="a"),
        ),
        (
            "NVRM: Xid (PCI:0000:05:00): 31, pid=9, name=a\nb\x1b[2J\udcff, MMU Fault",
            Report(address=ADDRESS, code=31, pid=9, process="a\\u000ab\\u001b[2J\\xff"),
        ),
        (
            "NVRM: Xid (PCI:0000:05:00): 31, pid=9, name=x, to 0x0 (None), MMU Fault",
            Report(address=ADDRESS, code=31, pid=9, process="x"),
        ),
        (
            "NVRM: GPU 0000:05:00.0: GPU has fallen off the bus.",
            Report(address=ADDRESS, code=79, repeats=True),
        ),
        (
            "NVRM: The NVIDIA GPU 0000:05:00.0\nNVRM: installed has\nNVRM: fallen off the bus and is not responding.",
            Report(address=ADDRESS, code=79, repeats=True),
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            Report(address=ADDRESS, code=12028, switch=True),
        ),
        (
            "nvidia-nvswitch1: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            Report(address=ADDRESS, code=20034, switch=True, fatal=True),
        ),
    ],
)
def test_a_report_is_read(text, expected):
    assert parse_report(text) == expected
    assert re.search(PROVOKING, escaped(text).decode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The sub-code of a link that went down is the same before R575 (first) and after.
        (
            "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000 0x00000000)",
            Report(address=ADDRESS, code=149, fatal=True, part="NETIR_LINK_EVT", link=8, reason=4),
        ),
        (
            "149, NETIR_LINK_DOWN Nonfatal XC1 i2 Link 17 (0x02500011)",
            Report(address=ADDRESS, code=149, part="NETIR_LINK_DOWN", link=17, reason=37),
        ),
        (
            "149, NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]",
            Report(address=ADDRESS, code=149, fatal=True, part="NETIR_LINK_EVT", link=1, reason=0),
        ),
        (
            "146, TLW_RX/TLW_RX_PIPE0 Nonfatal XC0 i0 Link 00 (0x0000000a 0x00000001)",
            Report(address=ADDRESS, code=146, part="TLW_RX/TLW_RX_PIPE0", link=0),
        ),
        (
            "150, MSE Degraded Fatal XC0 i0 Link 00 (0x00000000 0xffffffff)",
            Report(address=ADDRESS, code=150, fatal=True, part="MSE Degraded", link=0),
        ),
        ("145, in a form of next year", Report(address=ADDRESS, code=145, fatal=True)),
        ("145, in a form of next year, non-fatal", Report(address=ADDRESS, code=145)),
    ],
)
def test_an_error_of_nvlink_5_is_decoded_and_is_fatal_unless_it_says_otherwise(text, expected):
    assert parse_report(f"NVRM: Xid (PCI:0000:05:00): {text}") == expected


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", 1),
        ("GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 2),
        ("GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", 0),
        ("pid=9, name=a, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)", 4),
        ("pid=9, name=to 0x0 (None), GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", 1),
        ("GPU recovery action changed from None to something else", None),
    ],
)
def test_what_a_gpu_needs_is_read_from_xid_154(text, action):
    seen = parse_report(f"NVRM: Xid (PCI:0000:05:00): 154, {text}")
    assert seen is not None
    assert (seen.code, seen.action) == (154, action)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LOADED, True),
        ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", True),
        ("nvidia-modeset: Loading NVIDIA Kernel Mode Setting Driver", False),
        ("NVRM: loading N[4711]: segfault at 0", False),
        (f"x {LOADED}", False),
    ],
)
def test_that_the_driver_was_loaded_is_seen(text, expected):
    assert is_loading(text) is expected
    assert bool(re.search(PROVOKING, text)) is expected


@settings(max_examples=50)
@given(st.text(max_size=16), st.integers(0, 999))
def test_no_name_of_a_process_changes_which_error_of_which_gpu_it_is(name, code):
    name = name.encode("utf-8", "replace").decode()
    seen = parse_record(b"3,1,2,-;" + escaped(f"NVRM: Xid (PCI:0000:05:00): {code}, pid=1, name={name}, the rest"))
    assert seen is not None
    report = parse_report(seen.text)
    assert report is not None
    assert (report.address, report.code, report.switch) == (ADDRESS, code, False)
    assert report.process.isprintable()


def test_a_tree_of_files_has_the_log_as_a_file(tmp_path):
    assert list(plant(tmp_path, {"/dev/kmsg": b"a\nb\n"}).kernel_log(limit=4)) == [b"a\n", b"b\n"]


def test_a_log_that_is_too_large_is_an_error_after_what_was_read(tmp_path):
    records = plant(tmp_path, {"/dev/kmsg": b"a\nb\n"}).kernel_log(limit=3)
    assert next(records) == b"a\n"
    with pytest.raises(CannotLookError, match="more than 3 bytes"):
        next(records)


def test_a_machine_without_a_log_cannot_be_looked_at(tmp_path):
    with pytest.raises(AbsentError):
        list(plant(tmp_path, {}).kernel_log(limit=1))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_log_is_an_error_and_does_not_hang(tmp_path, make):
    host = plant(tmp_path, {"/dev/": ""})
    make(tmp_path / "dev/kmsg")
    with pytest.raises(CannotLookError):
        list(host.kernel_log(limit=100))


def test_a_device_that_always_is_empty_is_not_taken_for_a_log_without_errors(tmp_path):
    with pytest.raises(CannotLookError, match="not the kernel's log"):
        list(plant(tmp_path, {"/dev/kmsg": "-> /dev/null"}).kernel_log(limit=100))


@pytest.fixture
def own_log():
    """The log of the machine that the tests run on."""
    try:
        next(Host().kernel_log(limit=1 << 20), b"")
    except CannotLookError as error:
        pytest.skip(f"the kernel's log cannot be read here: {error.reason}")
    return Host()


def test_the_log_of_this_machine_is_read_to_its_end_and_begins_anew_each_time(own_log):
    first, second = (
        [each.sequence for raw in own_log.kernel_log(limit=64 << 20) if (each := parse_record(raw))] for _ in range(2)
    )
    assert first == sorted(set(first))
    assert first[0] <= second[0] <= first[-1] <= second[-1]


def test_what_root_writes_into_the_log_is_not_taken_for_the_kernels(own_log):
    mark = f"dlvmguard-test-{uuid.uuid4()}"
    try:
        with open("/dev/kmsg", "wb", buffering=0) as kmsg:
            kmsg.write(f"<0>NVRM: Xid (PCI:0000:05:00): 79, {mark}\n".encode())
    except OSError as error:
        pytest.skip(f"the kernel's log cannot be written here: {error}")
    seen = [parse_record(raw) for raw in own_log.kernel_log(limit=64 << 20) if mark.encode() in raw]
    assert [each.facility for each in seen if each] == [1]


def test_records_that_are_overwritten_while_they_are_read_are_passed_over(own_log, monkeypatch):
    read, broken = os.read, [True]

    def overwritten(handle, size):
        if broken.pop() if broken else False:
            raise BrokenPipeError
        return read(handle, size)

    monkeypatch.setattr(os, "read", overwritten)
    assert next(own_log.kernel_log(limit=64 << 20))
    assert not broken
