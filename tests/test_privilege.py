"""Root never opens what another user may write: it becomes that user first, for good, or refuses."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

USER = 54321
"""Nobody in particular, who owns the ledger."""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def interpreter():
    """A Python that any user can start: the one that runs the tests may lie in somebody's home."""
    for each in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [each, "-c", "import agent.cli, msgspec, rich, requests"],
                user=USER, group=USER, extra_groups=[], cwd="/", env=ENVIRONMENT, capture_output=True, check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return each
    pytest.skip("no Python here, or not this copy of the code, can be used by an ordinary user")


def run(state, *words, check=None):
    command = [interpreter(), "-m", "agent.cli", "--config", state.parent / "config.toml", "--state-dir", state, *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/", env=ENVIRONMENT)
    assert check is None or said.returncode == check, said.stdout + said.stderr
    return said


@pytest.fixture
def state():
    """A state directory as it is on an installed machine: root's, with a ledger/ of the other user."""
    place = Path(tempfile.mkdtemp(prefix="dlvmguard-privilege-"))
    place.chmod(0o755)
    (place / "config.toml").write_text(
        "[instance]\ndetect = 'never'\n[models]\ndiscover = false\n[python]\nroots = []\n"
    )
    (place / "state/ledger").mkdir(parents=True)
    os.chown(place / "state", 0, USER)
    (place / "state").chmod(0o750)
    os.chown(place / "state/ledger", USER, USER)
    yield place / "state"
    shutil.rmtree(place)


@pytest.fixture
def secret(state):
    """A file that only root may read or write."""
    file = state.parent / "secret"
    file.write_text("root:hash")
    file.chmod(0o600)
    return file


def test_a_scan_looks_as_root_and_records_as_the_owner_of_the_ledger(state):
    run(state, "scan", "--only", "machine,instance", "--fail-on", "critical", check=0)
    owners = {path.relative_to(state).as_posix(): path.stat().st_uid for path in state.rglob("*") if path.is_file()}
    assert owners == {"collected/facts.json": 0, "ledger/ledger.sqlite": USER, "ledger/network.json": USER}


def test_status_report_facts_and_explain_work_for_root_all_the_same(state):
    run(state, "scan", "--only", "machine,instance", "--fail-on", "critical", check=0)
    document = json.loads(run(state, "status", "--format", "json", check=0).stdout)
    assert [each["topic"] for each in document["topics"]] == ["instance", "machine"]
    os.chown(state / "collected", 0, USER)
    (state / "collected").chmod(0o750)
    os.chown(state / "collected/facts.json", 0, USER)
    (state / "collected/facts.json").chmod(0o640)
    run(state, "report", check=0)
    looks = json.loads(run(state, "facts", check=0).stdout)["looks"]
    assert [each["probe"] for each in looks] == ["machine", "instance", "image_family"]
    assert "no check or finding" in run(state, "explain", "0123456789", check=2).stderr
    assert {path.stat().st_uid for path in (state / "ledger").iterdir()} == {USER}


@pytest.mark.parametrize("words", [["status"], ["scan", "--only", "machine"], ["report"], ["explain", "0123456789"]])
@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.sqlite-journal", "network.json"])
def test_a_link_of_the_owner_of_the_ledger_does_not_make_root_open_what_is_behind_it(state, secret, name, words):
    (state / "ledger" / name).symlink_to(secret)
    before = secret.stat()
    said = run(state, *words)
    assert "root:hash" not in said.stdout + said.stderr
    assert (secret.read_text(), secret.stat().st_mtime_ns) == ("root:hash", before.st_mtime_ns)
    assert secret.stat().st_uid == 0
    if name == "ledger.sqlite":
        assert "denied" in said.stdout + said.stderr or "unable to open" in said.stdout + said.stderr


@pytest.mark.parametrize("words", [["status"], ["scan", "--only", "machine"], ["report"]])
@pytest.mark.parametrize("name", ["ledger.sqlite", "network.json"])
def test_a_fifo_in_the_ledger_holds_nobody_up(state, name, words):
    os.mkfifo(state / "ledger" / name)
    os.chown(state / "ledger" / name, USER, USER)
    run(state, *words)


BECOME = """
import os, sys
from agent.state import State
State(sys.argv[1]).give_up_root()
print(open("/proc/self/status").read())
for call in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        call()
    except PermissionError:
        continue
    sys.exit("root came back")
"""


def test_root_that_was_given_up_does_not_come_back(state):
    said = subprocess.run(
        [interpreter(), "-c", BECOME, state], capture_output=True, text=True, check=False, cwd="/", env=ENVIRONMENT
    )
    assert said.returncode == 0, said.stderr
    fields = dict(line.split(":", 1) for line in said.stdout.splitlines() if ":" in line)
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {str(USER)}
    assert not fields["Groups"].split()
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}


@pytest.mark.parametrize("words", [["watch"], ["models", "approve", "/usr/share/doc"]])
def test_root_does_not_look_into_a_state_directory_of_somebody_else(state, words):
    os.chown(state, USER, USER)
    assert "belongs to uid 54321" in run(state, *words, check=2).stderr


def test_a_scan_by_root_records_nothing_in_a_state_directory_of_somebody_else_and_says_so(state):
    os.chown(state, USER, USER)
    said = run(state, "scan", "--only", "machine", "--fail-on", "critical", check=0)
    assert "Not recorded" in said.stdout
    assert not list((state / "ledger").iterdir())


def test_a_state_of_roots_own_stays_roots(state):
    os.chown(state / "ledger", 0, 0)
    run(state, "scan", "--only", "machine", "--fail-on", "critical", check=0)
    assert (state / "ledger/ledger.sqlite").stat().st_uid == 0
    run(state, "status", check=0)


def test_what_root_leaves_is_for_the_group_of_the_agent_if_there_is_one(state):
    run(state, "scan", "--only", "machine", "--fail-on", "critical", check=0)
    for path in (state / "collected", state / "collected/facts.json"):
        assert path.stat().st_mode & 0o007 == 0
