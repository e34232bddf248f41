"""The door to the machine: hostile files, hostile names, programs that hang."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError
from tests.fakes.trees import plant


def test_a_file_is_read_and_a_small_value_is_stripped(tmp_path):
    host = plant(tmp_path, {"/proc/version": "6.1\n"})
    assert (host.read("/proc/version"), host.line("/proc/version")) == (b"6.1\n", "6.1")


def test_a_directory_is_listed_in_order_with_kinds(tmp_path):
    host = plant(tmp_path, {"/d/b": "", "/d/a/": "", "/d/c": "-> b"})
    os.mkfifo(tmp_path / "d" / "z")
    kinds = [(entry.name, entry.kind) for entry in host.entries("/d")]
    assert kinds == [("a", "directory"), ("b", "file"), ("c", "link"), ("z", "other")]


def test_what_is_not_there_is_absent_and_not_merely_unreadable(tmp_path):
    host = plant(tmp_path, {"/file": "x"})
    for look in (host.read, host.entries, host.stat, host.link):
        with pytest.raises(AbsentError, match="/missing"):
            look("/missing")
    with pytest.raises(AbsentError):
        host.read("/file/below")
    assert not host.exists("/missing")


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path):
    host = plant(tmp_path, {"/real": "x", "/link": "-> real"})
    assert host.read("/link") == b"x"
    with pytest.raises(CannotLookError, match="/link"):
        host.read("/link", follow=False)


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "loop", "broken"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        script = f"import socket; socket.socket(socket.AF_UNIX).bind({str(path)!r})"
        subprocess.run([sys.executable, "-c", script], check=True)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("odd" if kind == "loop" else "nowhere")
    with pytest.raises(CannotLookError, match="/odd"):
        Host(str(tmp_path)).read("/odd")
    with pytest.raises(CannotLookError, match="/odd"):
        list(Host(str(tmp_path)).stream("/odd", limit=10))


def test_a_file_over_the_limit_is_an_error_and_never_a_short_answer(tmp_path):
    host = plant(tmp_path, {"/big": "x" * 11})
    assert host.read("/big", limit=11) == b"x" * 11
    with pytest.raises(CannotLookError, match="larger than 10"):
        host.read("/big", limit=10)
    with pytest.raises(CannotLookError, match="larger than 10"):
        list(host.stream("/big", limit=10, block=4))
    assert host.read_start("/big", limit=3) == b"xxx"


def test_a_directory_over_the_limit_is_an_error(tmp_path):
    host = plant(tmp_path, {f"/d/{number}": "" for number in range(5)})
    with pytest.raises(CannotLookError, match="more than 4"):
        host.entries("/d", limit=4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_missing_right_is_said_with_what_would_help(tmp_path):
    host = plant(tmp_path, {"/secret": "x"})
    (tmp_path / "secret").chmod(0)
    with pytest.raises(CannotLookError, match="permission denied") as error:
        host.read("/secret")
    assert "root" in error.value.hint


@pytest.mark.parametrize("path", ["/a\0b", "/" + "x" * 5000])
def test_a_path_that_cannot_be_is_an_error_like_any_other(tmp_path, path):
    with pytest.raises(CannotLookError):
        Host(str(tmp_path)).read(path)


def test_bytes_that_are_no_text_come_as_escapes(tmp_path):
    assert plant(tmp_path, {"/f": b"a\xffb"}).text("/f") == "a\\xffb"


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_shown_names_are_safe_and_different_names_look_different(one, other):
    text = shown(one)
    assert text.isprintable()
    text.encode("utf-8")
    assert (text == shown(other)) == (one == other)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"], exclude_characters="\\")))
def test_ordinary_names_are_shown_as_they_are(name):
    assert shown(name) == name


def test_a_program_runs_with_a_fixed_environment_and_no_input():
    answer = Host().run(["/usr/bin/env"], deadline=20)
    names = {line.split(b"=")[0] for line in answer.output.splitlines()}
    assert (answer.status, names) == (0, {b"PATH", b"LANG", b"LC_ALL"})


def test_a_program_by_a_relative_name_is_our_own_mistake():
    with pytest.raises(ValueError, match="absolute"):
        Host().run(["env"], deadline=1)


def test_a_program_that_is_not_there_is_absent():
    with pytest.raises(AbsentError, match="/no/such/program"):
        Host().run(["/no/such/program"], deadline=1)


SLEEPERS = [
    ["/bin/sh", "-c", "sleep 60"],
    ["/bin/sh", "-c", "sleep 60 & exit 0"],
    ["/bin/sh", "-c", "exec >&- 2>&-; sleep 60"],
    ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
]


@pytest.mark.parametrize(
    "command", SLEEPERS, ids=["hangs", "child keeps the pipe", "closes the pipe", "ignores signals"]
)
def test_a_program_that_does_not_end_is_given_up_with_all_its_children(command):
    before = time.monotonic()
    with pytest.raises(CannotLookError, match=r"no answer within 0\.3 s"):
        Host().run(command, deadline=0.3)
    assert time.monotonic() - before < 30  # far below the sleep: it was not waited for


def test_a_program_that_prints_without_end_is_stopped():
    with pytest.raises(CannotLookError, match="printed more than"):
        Host().run(["/usr/bin/yes"], deadline=30, limit=100_000)


def test_both_outputs_are_read_at_once():
    script = "import sys; sys.stderr.write('e' * 300000); sys.stdout.write('o' * 300000)"
    answer = Host().run([sys.executable, "-c", script], deadline=30, limit=700_000)
    assert (len(answer.output), answer.status) == (300_000, 0)


def test_a_long_output_comes_in_pieces():
    script = "import sys; sys.stderr.write('e' * 300000); sys.stdout.write('o' * 3000000)"
    pieces = list(Host().pour([sys.executable, "-c", script], deadline=30, limit=4_000_000))
    assert (sum(map(len, pieces)), set(b"".join(pieces))) == (3_000_000, {ord("o")})
    assert max(map(len, pieces)) < 100_000


def test_a_program_that_fails_says_so_after_what_it_printed():
    said = Host().pour(["/bin/sh", "-c", "echo one; echo broken >&2; exit 3"], deadline=30, limit=1000)
    assert next(said) == b"one\n"
    with pytest.raises(CannotLookError, match="status 3: broken"):
        list(said)


def test_a_program_that_pours_without_end_is_stopped():
    with pytest.raises(CannotLookError, match="printed more than"):
        list(Host().pour(["/usr/bin/yes"], deadline=30, limit=100_000))
    with pytest.raises(CannotLookError, match="no answer"):
        list(Host().pour(["/bin/sh", "-c", "sleep 60"], deadline=0.3, limit=100_000))


def test_a_file_that_vanishes_between_listing_and_reading_is_absent(tmp_path):
    host = plant(tmp_path, {f"/d/{number}": "x" for number in range(200)})
    entries = host.entries("/d")
    remover = threading.Thread(target=shutil.rmtree, args=(tmp_path / "d",))
    remover.start()
    for entry in entries:
        with contextlib.suppress(AbsentError):
            assert host.read(entry.path) == b"x"
    remover.join()
