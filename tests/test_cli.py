"""The command as a user types it: the real program, in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import __version__, discovery

PROGRAM = [sys.executable, "-m", "agent.cli"]


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def run(*words, state=None, env=None, check=None):
    options = ["--state-dir", str(state)] if state else []
    said = subprocess.run(
        [*PROGRAM, *options, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=90,
    )
    if check is not None:
        assert said.returncode == check, said.stdout + said.stderr
    return said


def test_help_shows_every_command_and_how_to_begin():
    said = run("--help", check=0)
    for name in ("scan", "status", "explain", "checks", "facts", "config"):
        assert re.search(rf"^  {name} ", said.stdout, re.MULTILINE)
    assert "dlvmguard scan" in said.stdout


@pytest.mark.parametrize(
    "command",
    ["scan", "status", "watch", "explain", "checks", "facts", "report", "config check", "config reference"]
    + [f"advisories {name}" for name in ("refresh", "import", "publish")],
)
def test_every_command_has_an_example_in_its_help(command):
    assert "Example" in run(*command.split(), "--help", check=0).stdout


def test_the_version_is_that_of_the_package():
    assert run("--version", check=0).stdout.split()[-1] == __version__


def test_a_scan_of_one_topic_shows_it_and_sums_up(state):
    said = run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)
    assert re.search(r"2 checks: .* passed.* s$", said.stdout.strip())
    assert "\x1b" not in said.stdout


def test_a_scan_as_json_is_one_document_of_the_named_schema(state):
    document = json.loads(
        run("scan", "--only", "machine", "--format", "json", "--fail-on", "critical", state=state).stdout
    )
    assert document["schema"] == "dlvmguard.scan/1"
    assert set(document["passed"]) | {each["check"] for each in document["findings"]} == {
        check.id for check in discovery.checks() if check.topic == "machine"
    }


def test_a_scan_without_ledger_leaves_nothing_behind(state):
    run("scan", "--only", "machine", "--no-ledger", "--fail-on", "critical", state=state, check=0)
    assert not state.exists()


def test_status_before_the_first_scan_says_what_to_do(state):
    said = run("status", state=state, check=2)
    assert "dlvmguard scan" in said.stderr


def test_a_full_disk_is_said_and_the_answer_is_given_all_the_same(small_disk):
    (small_disk / "fill").write_bytes(bytes((1 << 20) - 60_000))
    said = run("scan", "--only", "machine", "--fail-on", "critical", state=small_disk / "state", check=0)
    assert re.search("Not recorded: .*(full|no space)", said.stdout)
    assert "no scan was recorded" in run("status", state=small_disk / "state", check=2).stderr
    (small_disk / "fill").unlink()
    run("scan", "--only", "machine", "--fail-on", "critical", state=small_disk / "state", check=0)
    run("status", state=small_disk / "state", check=0)


AS_NOBODY = """
import os, sys
from agent import cli, discovery, report
from agent.views import data, status, text
discovery.checks()  # imported while it may still be: the interpreter may lie where nobody else can read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
cli.main(["--state-dir", sys.argv[1], "status"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_who_may_not_read_the_state_is_told_which_group_may(state):
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)
    said = subprocess.run([sys.executable, "-c", AS_NOBODY, str(state)], capture_output=True, text=True, check=False)
    assert said.returncode == 2, said.stdout + said.stderr
    assert "usermod -aG dlvmguard" in said.stderr


def test_status_knows_what_the_scan_saw(state):
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)
    document = json.loads(run("status", "--format", "json", state=state, check=0).stdout)
    assert document["schema"] == "dlvmguard.status/1"
    assert [topic["topic"] for topic in document["topics"]] == ["machine"]
    assert "machine" in run("status", state=state, check=0).stdout


def test_facts_are_json_and_come_from_the_last_scan(state):
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)
    first = json.loads(run("facts", "machine", state=state, check=0).stdout)
    second = json.loads(run("facts", "machine", state=state, check=0).stdout)
    anew = json.loads(run("facts", "--now", "machine", state=state, check=0).stdout)
    assert first == second
    assert anew["looks"][0]["taken"] > first["looks"][0]["taken"]


def test_every_check_can_be_explained():
    ids = [each["check"] for each in json.loads(run("checks", "--format", "json", check=0).stdout)]
    assert ids == [check.id for check in discovery.checks()]
    said = run("explain", ids[0], check=0)
    assert "fix" in said.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["scna"], "did you mean scan"),
        (["config", "chekc"], "did you mean check"),
        (["scan", "--only", "machne"], "did you mean machine"),
        (["explain", "operating-system-end-of-lfe"], "did you mean operating-system-end-of-life"),
        (["scan", "--formt", "json"], "--format"),
        (["scan", "--format", "yaml"], "text"),
        (["--config", "/does/not/exist.toml", "config", "check"], "/does/not/exist.toml"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_what_was_meant(words, expected, state):
    said = run(*words, state=state, check=2)
    assert expected in said.stderr
    assert "Traceback" not in said.stderr


def test_a_wrong_configuration_names_file_key_and_the_nearest_name(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[gpu]\ndeadline_second = 3\n")
    said = run("--config", str(path), "scan", check=2)
    assert f"{path}: unknown key gpu.deadline_second; did you mean deadline_seconds?" in said.stderr


def test_a_state_directory_that_cannot_be_written_costs_the_memory_and_not_the_answer(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    said = run("scan", "--only", "machine", "--fail-on", "critical", state=blocked / "state", check=0)
    assert "Not recorded:" in said.stdout
    assert "2 checks:" in said.stdout


def test_a_damaged_ledger_is_said_set_aside_and_begun_anew(state):
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)
    (state / "ledger" / "ledger.sqlite").write_bytes(b"garbage " * 1000)
    assert "damaged" in run("status", state=state, check=2).stderr
    assert "was moved to" in run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0).stdout
    run("status", state=state, check=0)


def test_two_scans_at_once_both_answer(state):
    command = [*PROGRAM, "--state-dir", str(state), "scan", "--only", "machine", "--fail-on", "critical"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    outputs = [process.communicate()[0] for process in both]
    assert all("Not recorded" not in output for output in outputs)


def test_a_reader_that_goes_away_is_no_error(state):
    command = f"'{sys.executable}' -m agent.cli checks | true; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (said.stdout.strip(), said.stderr) == ("0", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_page_can_be_printed_in_any_locale(encoding, state):
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, env=env, check=0)
    run("status", state=state, env=env, check=0)
    run("checks", env=env, check=0)


def on_a_terminal(words, env, *, after=0.0, interrupt=False):
    """The program on a real pseudo-terminal; what it drew and its exit code."""
    try:
        main, other = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminals here: {error}")
    process = subprocess.Popen(
        [*PROGRAM, *words],
        stdout=other,
        stderr=other,
        stdin=other,
        env={**os.environ, "TERM": "xterm", **env},
        start_new_session=True,
    )
    os.close(other)
    drawn = b""
    try:
        if interrupt:
            time.sleep(after)
            os.killpg(process.pid, signal.SIGINT)
        while piece := os.read(main, 65536):
            drawn += piece
    except OSError:  # Linux says EIO once the last writer is gone
        pass
    os.close(main)
    return drawn.decode("utf-8", "replace"), process.wait(60)


def test_colour_is_for_terminals_and_can_be_refused(state, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    words = ["--state-dir", str(state), "explain", "operating-system-end-of-life"]
    assert "\x1b[3" in on_a_terminal(words, {})[0]
    assert "\x1b[3" not in on_a_terminal(words, {"NO_COLOR": "1"})[0]


def test_progress_is_drawn_on_a_terminal_and_wiped(state):
    drawn, status = on_a_terminal(["--state-dir", str(state), "scan", "--only", "machine", "--fail-on", "critical"], {})
    assert status == 0
    assert "looking at machine" in drawn
    assert "\r\x1b[K" in drawn.split("looking at machine")[1]


def test_ctrl_c_is_exit_code_3_and_leaves_a_usable_ledger(state):
    for after in (0.15, 0.3, 0.5):
        _, status = on_a_terminal(
            ["--state-dir", str(state), "scan", "--fail-on", "critical"], {}, after=after, interrupt=True
        )
        assert status in {0, 3, -signal.SIGINT}
    run("scan", "--only", "machine", "--fail-on", "critical", state=state, check=0)


def test_the_program_can_be_started_from_anywhere(tmp_path):
    said = subprocess.run(
        [*PROGRAM, "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert said.returncode == 0


def test_every_field_of_the_json_documents_is_documented(state):
    documented = set(re.findall(r"`(\w+)`", (Path(__file__).parents[1] / "docs" / "json.md").read_text()))
    scanned = json.loads(run("scan", "--format", "json", "--fail-on", "critical", state=state).stdout)
    standing = json.loads(run("status", "--format", "json", state=state, check=0).stdout)
    undocumented = (fields(scanned) | fields(standing)) - documented
    assert not undocumented


FREE = {"evidence", "counts", "open", "open_by_duty"}
"""Objects whose keys are data."""


def fields(document):
    """The names of all fields, at any depth."""
    if isinstance(document, list):
        return set().union(*map(fields, document))
    if not isinstance(document, dict):
        return set()
    return set(document).union(*(fields(value) for name, value in document.items() if name not in FREE))
