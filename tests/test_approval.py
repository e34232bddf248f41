"""Approving a model directory: whole, at rest, by name; and never mistaking a damaged approval for none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from agent.integrity import approval
from agent.integrity.approval import ApprovalError, approve, approved
from agent.state import State, StateError

not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


@pytest.fixture
def model(tmp_path):
    place = tmp_path / "llama"
    place.mkdir()
    (place / "weights.bin").write_bytes(b"weights")
    (place / "config.json").write_bytes(b"{}")
    return place


def test_an_approval_says_what_was_approved_by_whom_and_when(model, state, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice\n")
    given = approve(str(model), state, note="from the\nregistry")
    assert [record.path for record in given.manifest.files] == ["config.json", "weights.bin"]
    assert given.manifest.files[1].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert given.by.endswith("(sudo by alice\\u000a)")
    assert (given.note, given.digest) == ("from the\\u000aregistry", given.manifest.digest)
    assert approved(str(model), state) == given


def test_without_approval_there_is_none(model, state):
    assert approved(str(model), state) is None
    assert list(approval.approvals(state)) == []
    assert not approval.revoke(str(model), state)


def test_a_directory_is_approved_under_its_real_name(model, state, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("llama")
    assert approve(str(tmp_path / "link"), state).manifest.directory == str(model)
    monkeypatch.chdir(model)
    assert approve(".", state).manifest.directory == str(model)
    assert len(list(approval.approvals(state))) == 1


def test_approving_again_replaces_and_revoking_forgets(model, state):
    first = approve(str(model), state)
    (model / "weights.bin").write_bytes(b"WEIGHTS")
    assert approve(str(model), state).digest != first.digest
    assert approval.revoke(str(model), state)
    assert approved(str(model), state) is None


def test_progress_is_told_in_bytes(model, state):
    told: list[int] = []
    approve(str(model), state, progress=lambda done, _path: told.append(done))
    assert told == [2, 9]


@pytest.mark.parametrize("name", ["llama/weights.bin", "nothing"])
def test_only_a_directory_is_approved(model, state, tmp_path, name):
    with pytest.raises(ApprovalError, match=name):
        approve(str(tmp_path / name), state)


def test_a_directory_whose_name_does_not_print_is_refused_with_the_reason(state, tmp_path):
    (tmp_path / "new\nline").mkdir()
    with pytest.raises(ApprovalError, match="rename it"):
        approve(str(tmp_path / "new\nline"), state)


@not_root
def test_a_directory_that_cannot_be_read_whole_is_refused_and_the_files_are_named(model, state):
    (model / "weights.bin").chmod(0)
    with pytest.raises(ApprovalError, match=r"weights\.bin: permission denied"):
        approve(str(model), state)
    assert approved(str(model), state) is None


def test_a_directory_that_changes_meanwhile_is_refused_and_the_files_are_named(model, state):
    with pytest.raises(ApprovalError, match=r"new\.bin"):
        approve(str(model), state, progress=lambda _done, _path: (model / "new.bin").write_bytes(b"1"))
    assert approved(str(model), state) is None


def test_a_file_that_is_replaced_after_it_was_read_is_noticed(model, state):
    def replace(_done, path) -> None:
        if path == "weights.bin":
            (model / "config.json").write_bytes(b"[]")

    with pytest.raises(ApprovalError, match=r"config\.json"):
        approve(str(model), state, progress=replace)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\xff\x00",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"size":7', b'"size":8'),
        lambda content: content.replace(b"weights.bin", b"weighty.bin"),
        lambda content: content.replace(b'"digest":"', b'"digest":"0'),
        lambda _: b"[" * 100_000,
    ],
)
def test_a_damaged_approval_is_an_error_and_never_none(model, state, damage):
    approve(str(model), state)
    path = approval.approved_path(str(model), state)
    with open(path, "r+b") as file:
        content = damage(file.read())
        file.seek(0)
        file.truncate()
        file.write(content)
    with pytest.raises(ApprovalError, match="approved/"):
        approved(str(model), state)
    (error,) = approval.approvals(state)
    assert isinstance(error, ApprovalError)
    assert error.path == path
    assert approval.revoke(str(model), state)


def test_the_approval_of_one_directory_does_not_pass_for_that_of_another(model, state, tmp_path):
    approve(str(model), state)
    other = approval.approved_path(str(tmp_path / "other"), state)
    os.rename(approval.approved_path(str(model), state), other)
    with pytest.raises(ApprovalError, match="another directory"):
        approved(str(tmp_path / "other"), state)


def test_an_approval_that_is_a_link_is_not_followed(model, state, tmp_path):
    approve(str(model), state)
    path = approval.approved_path(str(model), state)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(StateError):
        approved(str(model), state)


def test_a_damaged_record_of_what_was_seen_is_as_good_as_none(model, state):
    given = approve(str(model), state)
    (name,) = state.names(f"{state.models}/seen")
    state.write(f"{state.models}/seen/{name}", b"{")
    assert approval.seen(given.manifest.directory, state) is None


def test_an_interrupt_leaves_no_half_approval_and_the_next_one_works(model, state):
    (model / "holes").touch()
    os.truncate(model / "holes", 1 << 40)
    program = "import sys; from agent.integrity.approval import approve; from agent.state import State\n"
    program += "approve(sys.argv[1], State(sys.argv[2]), progress=lambda *_: print('.', flush=True))"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model), state.directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(2)
        process.communicate(timeout=60)
    assert process.returncode not in {0, None}
    assert [name for _, _, names in os.walk(state.directory) for name in names] == []
    (model / "holes").unlink()
    assert approve(str(model), state).digest
