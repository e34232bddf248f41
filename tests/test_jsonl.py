"""The file of JSON lines holds whole lines, all of a batch or none of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sinks.delivery import Delivery
from agent.sinks.jsonl import JsonLines
from agent.sinks.payload import payload
from tests.fakes.events import CATALOGUE, VM, an_event, some_events


def a_sink(path):
    return JsonLines(str(path), CATALOGUE)


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def numbers(path):
    return [line["scan"]["seq"] for line in lines(path)]


def test_batches_are_appended_in_order_as_the_same_payload(tmp_path):
    path = tmp_path / "events.jsonl"
    events = some_events(5)
    assert a_sink(path).send(events[:2], VM) == Delivery(accepted=frozenset({1, 2}))
    assert a_sink(path).send(events[2:], VM) == Delivery(accepted=frozenset({3, 4, 5}))
    assert numbers(path) == [1, 2, 3, 4, 5]
    said = payload(events[0], VM, CATALOGUE["ssh-root-login"])
    assert said.items() <= lines(path)[0].items()


def test_no_events_leave_the_file_as_it_is(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"{}\n")
    assert a_sink(path).send([], VM) == Delivery()
    assert path.read_bytes() == b"{}\n"


def test_others_may_not_read_it(tmp_path):
    path = tmp_path / "events.jsonl"
    a_sink(path).send(some_events(1), VM)
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


def test_a_rotated_file_is_left_alone_and_a_new_one_begun(tmp_path):
    path, rotated = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    sink = a_sink(path)
    sink.send([an_event(1)], VM)
    path.rename(rotated)
    sink.send([an_event(2)], VM)
    assert (numbers(rotated), numbers(path)) == ([1], [2])


def test_a_line_that_a_crash_tore_spoils_no_other(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"scan": {"se')
    assert a_sink(path).send([an_event(1)], VM).accepted == {1}
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"scan": {"se'
    assert json.loads(whole)["scan"]["seq"] == 1


def test_a_batch_that_is_written_again_says_so_by_its_ids(tmp_path):
    path = tmp_path / "events.jsonl"
    events = some_events(3)
    for _ in range(2):
        a_sink(path).send(events, VM)
    ids = [line["logging.googleapis.com/insertId"] for line in lines(path)]
    assert ids[:3] == ids[3:] == [event.uid for event in events]


def test_a_directory_in_its_place_is_a_problem(tmp_path):
    delivery = a_sink(tmp_path).send(some_events(1), VM)
    assert (delivery.accepted, delivery.rejected) == (frozenset(), {})
    assert delivery.problem == f"{tmp_path}: is a directory"
    assert "sinks.jsonl.path" in delivery.advice


@pytest.mark.parametrize("reader", [False, True])
def test_a_fifo_in_its_place_neither_hangs_nor_gets_a_byte(tmp_path, reader):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if reader else None
    assert a_sink(path).send(some_events(1), VM).problem == f"{path} is not a regular file"
    if handle is not None:
        assert os.read(handle, 1) == b""
        os.close(handle)


def test_a_link_in_its_place_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "link").symlink_to(target)
    assert "symbolic link" in a_sink(tmp_path / "link").send(some_events(1), VM).problem
    assert target.read_bytes() == b""


def test_a_directory_that_does_not_exist_is_a_problem(tmp_path):
    assert "no such file" in a_sink(tmp_path / "none" / "events.jsonl").send(some_events(1), VM).problem


def test_two_processes_do_not_write_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process" in a_sink(path).send(some_events(1), VM).problem
    assert a_sink(path).send(some_events(1), VM).accepted == {1}


def test_a_full_file_takes_nothing_of_a_batch_that_does_not_fit(tmp_path):
    # A size limit stops the write half way, as a full disk does, and needs no root.
    program = """
        import resource, sys
        from agent.sinks.jsonl import JsonLines
        from tests.fakes.events import *
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        sink = JsonLines(sys.argv[1], CATALOGUE)
        print(sink.send(some_events(20), VM).accepted == set(range(1, 21)))
        refused = sink.send(some_events(200), VM)
        print(refused.accepted, refused.rejected, refused.problem)
        print(sink.send([an_event(21)], VM).accepted)
    """
    path = tmp_path / "events.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["True", f"frozenset() {{}} {path}: {os.strerror(errno.EFBIG).lower()}", "frozenset({21})"]
    assert numbers(path) == list(range(1, 22))


def test_a_full_disk_takes_nothing_and_the_batch_goes_in_when_there_is_room(small_disk):
    path = small_disk / "events.jsonl"
    assert a_sink(path).send(some_events(20), VM).accepted == set(range(1, 21))
    before = path.read_bytes()
    (small_disk / "ballast").write_bytes(b"x" * (980 << 10))
    refused = a_sink(path).send(some_events(60), VM)
    assert refused.accepted == frozenset()
    assert refused.problem == f"{path}: no space left on device"
    assert path.read_bytes() == before
    (small_disk / "ballast").unlink()
    assert len(a_sink(path).send(some_events(60), VM).accepted) == 60
    assert numbers(path) == [*range(1, 21), *range(1, 61)]


@given(details=st.lists(st.text(st.characters(codec=None)), min_size=1, max_size=10))
def test_any_words_stay_within_their_line(tmp_path_factory, details):
    path = tmp_path_factory.mktemp("any") / "events.jsonl"
    events = [an_event(number, detail=detail) for number, detail in enumerate(details)]
    a_sink(path).send(events, VM)
    assert numbers(path) == list(range(len(details)))
