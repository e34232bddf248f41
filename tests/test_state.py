"""Our own files: replaced whole, private, and honest about what is refused."""

from __future__ import annotations

import grp
import os
import pwd
import stat

import pytest

from agent.state import SYSTEM_DIRECTORY, State, StateError, locate


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


def test_nothing_is_made_until_something_is_written(state):
    assert state.read(state.snapshot) is None
    assert not os.path.exists(state.directory)


def test_what_is_written_is_read_and_replaced(state):
    state.write(state.snapshot, b"one")
    state.write(state.snapshot, b"two")
    assert state.read(state.snapshot) == b"two"
    assert os.listdir(os.path.dirname(state.snapshot)) == ["facts.json"]


def test_the_state_is_closed_to_others(state):
    state.write(state.snapshot, b"one")
    for path in (state.directory, os.path.dirname(state.snapshot), state.snapshot):
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o007 == 0


def test_the_chosen_directory_wins_and_a_user_has_their_own(monkeypatch, tmp_path):
    assert locate("/chosen", writing=True).directory == "/chosen"
    if os.geteuid() == 0:
        assert locate("", writing=True).directory == SYSTEM_DIRECTORY
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert locate("", writing=True).directory == f"{tmp_path}/dlvmguard"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_one_of_our_files_that_is_something_else_is_refused(state, kind):
    os.makedirs(os.path.dirname(state.snapshot))
    if kind == "link":
        os.symlink("/etc/passwd", state.snapshot)
    elif kind == "fifo":
        os.mkfifo(state.snapshot)
    else:
        os.mkdir(state.snapshot)
    with pytest.raises(StateError, match=r"facts\.json"):
        state.read(state.snapshot)


def test_a_full_disk_leaves_the_old_file_whole(state, small_disk):
    full = State(str(small_disk / "state"))
    full.write(full.snapshot, b"old")
    with pytest.raises(StateError, match="no space left"):
        full.write(full.snapshot, b"x" * (2 << 20))
    assert full.read(full.snapshot) == b"old"
    assert os.listdir(os.path.dirname(full.snapshot)) == ["facts.json"]


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to a group")


@as_root
def test_what_root_makes_is_for_the_group_on_every_level(state, monkeypatch):
    monkeypatch.setattr("agent.state.GROUP", "daemon")
    state.write(f"{state.models}/seen/one.json", b"{}")
    group = grp.getgrnam("daemon").gr_gid
    for part, mode in (
        ("", 0o750),
        ("collected", 0o750),
        ("collected/models", 0o750),
        ("collected/models/seen", 0o750),
    ):
        seen = os.stat(f"{state.directory}/{part}")
        assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (0, group, mode), part
    seen = os.stat(f"{state.models}/seen/one.json")
    assert (seen.st_gid, stat.S_IMODE(seen.st_mode)) == (group, 0o640)


@as_root
def test_what_was_there_before_the_group_is_shared_with_it_too(state, monkeypatch):
    monkeypatch.setattr("agent.state.GROUP", "no such group")
    state.write(state.snapshot, b"old")
    monkeypatch.setattr("agent.state.GROUP", "daemon")
    state.write(state.snapshot, b"new")
    for path in (state.directory, os.path.dirname(state.snapshot), state.snapshot):
        assert os.stat(path).st_gid == grp.getgrnam("daemon").gr_gid


@as_root
def test_the_ledger_of_an_installed_agent_is_made_for_its_user(state, monkeypatch):
    monkeypatch.setattr("agent.state.SYSTEM_DIRECTORY", state.directory)
    monkeypatch.setattr("agent.state.USER", "nobody")
    state.hand_over()
    ledger = os.path.dirname(state.ledger)
    assert os.stat(ledger).st_uid == pwd.getpwnam("nobody").pw_uid
    assert os.stat(state.directory).st_uid == 0
    with pytest.raises(StateError, match="belongs to nobody"):
        state.read(state.ledger)


def test_anybody_may_read_how_the_watcher_is(state):
    state.publish(b"{}")
    assert stat.S_IMODE(os.stat(state.pulse).st_mode) == 0o644
