"""install.sh as people run it. The slow ones make real environments and need an index of packages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import __version__

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "*.egg-info", "__pycache__", "results", "build", "dist"
)
OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_RETRIES": "0",
}


def copy_tree(place):
    clone = place / "a clone, copied"
    shutil.copytree(ROOT, clone, ignore=NOT_SOURCES)
    return clone


def run(script, *arguments, cwd=None, **environment):
    return subprocess.run(
        [script, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def listing(place, *, without=()):
    """Every path below, with what changes when it is written to."""
    return {
        str(path.relative_to(place)): path.lstat().st_mtime_ns
        for path in place.rglob("*")
        if not set(path.relative_to(place).parts[:1]) & set(without) and not path.is_dir()
    }


@pytest.fixture
def clone(tmp_path):
    return copy_tree(tmp_path)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A clone after its first --try, with what that said, and home and temporary directories that were empty."""
    place = tmp_path_factory.mktemp("tried")
    clone, home, temporary = copy_tree(place), place / "home", place / "temporary"
    home.mkdir()
    temporary.mkdir()
    before = listing(clone)
    done = run(clone / "install.sh", "--try", HOME=str(home), TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    return clone, done, before, home, temporary


def python_that(place, script):
    """A command python3 for DLVMGUARD_PYTHON."""
    shim = place / "python3"
    shim.write_text(f"#!/bin/sh\n{script}\n")
    shim.chmod(0o755)
    return str(shim)


def test_help_says_what_can_be_done():
    done = run(ROOT / "install.sh", "--help")
    assert done.returncode == 0
    assert "--try" in done.stdout


def test_the_version_is_that_of_the_package():
    assert run(ROOT / "install.sh", "--version").stdout == f"dlvmguard {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--instal",), "unknown option --instal"),
        (("--try", "--only"), "unexpected --only"),
        (("--environment", "x"), "--environment needs"),
    ],
)
def test_wrong_use_is_said_and_changes_nothing(clone, arguments, said):
    before = listing(clone)
    done = run(clone / "install.sh", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert listing(clone) == before


def test_alone_without_a_clone_it_says_so(tmp_path):
    shutil.copy(ROOT / "install.sh", tmp_path)
    done = run(tmp_path / "install.sh", "--try")
    assert done.returncode == 2
    assert "not a clone of dlvmguard" in done.stderr


def test_an_environment_that_somebody_else_made_is_left_alone(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "mine").write_text("dear")
    done = run(clone / "install.sh", "--try")
    assert done.returncode == 1
    assert "not made by install.sh" in done.stderr
    assert (clone / ".venv" / "mine").read_text() == "dear"


def test_a_python_that_is_too_old_is_named_with_its_version(clone, tmp_path):
    done = run(clone / "install.sh", "--try", DLVMGUARD_PYTHON=python_that(tmp_path, "echo 3.9; exit 1"))
    assert done.returncode == 1
    assert f"{tmp_path}/python3 (3.9)" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_that_does_not_exist_is_said(clone):
    done = run(clone / "install.sh", "--try", DLVMGUARD_PYTHON="/nowhere/python3")
    assert done.returncode == 1
    assert "Looked for /nowhere/python3; found none" in done.stderr


def test_a_python_without_ensurepip_is_said(clone, tmp_path):
    # What Debian's python3 answers without the package python3-venv.
    code = 'import sys; sys.modules["ensurepip"] = None; exec(sys.argv[1])'
    without = f"shift 2; exec '{sys.executable}' -I -c '{code}' \"$@\""
    done = run(clone / "install.sh", "--try", DLVMGUARD_PYTHON=python_that(tmp_path, without))
    assert done.returncode == 1
    assert "no ensurepip" in done.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_clone_that_may_not_be_written_is_said(clone):
    clone.chmod(0o555)
    done = run(clone / "install.sh", "--try")
    clone.chmod(0o755)
    assert done.returncode == 1
    assert "cannot write" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestTry:
    """After a first --try that went well."""

    def test_it_shows_the_scan_and_how_to_go_on(self, tried):
        clone, done, *_ = tried
        assert f"dlvmguard {__version__}" in done.stdout
        assert f"rm -rf '{clone}/.venv'" in done.stderr

    def test_nothing_is_written_outside_its_environment(self, tried):
        clone, _, before, home, temporary = tried
        assert listing(clone, without={".venv"}) == before
        assert listing(home) == {}
        assert list(temporary.iterdir()) == []

    def test_nothing_but_the_environment_and_the_state_stays(self, tried):
        kept = {path.name for path in (tried[0] / ".venv").iterdir()}
        assert kept - {"include", "lib64", ".gitignore"} == {
            "bin", "lib", "made-by-install.sh", "pyvenv.cfg", "share", "stamp", "state",
        }  # fmt: skip

    def test_again_it_is_quick_and_needs_no_network(self, tried):
        done = run(tried[0] / "install.sh", "--try", **OFFLINE)
        assert done.returncode == 0
        assert "Making" not in done.stderr

    def test_modules_that_the_user_put_on_the_path_do_not_get_in(self, tried, tmp_path):
        (tmp_path / "click.py").write_text("raise SystemExit(99)")
        assert run(tried[0] / "install.sh", "--try", PYTHONPATH=str(tmp_path)).returncode == 0

    def test_it_works_through_a_link_from_another_directory(self, tried, tmp_path):
        (tmp_path / "link.sh").symlink_to(tried[0] / "install.sh")
        done = run(tmp_path / "link.sh", "--try", "--", "--format", "json", cwd="/", **OFFLINE)
        assert done.returncode == 0
        assert done.stdout.startswith("{")

    def test_the_commands_that_it_prints_work(self, tried):
        clone, done, *_ = tried
        again = next(line for line in done.stderr.splitlines() if line.startswith("Again:"))
        assert run("/bin/sh", "-c", again.removeprefix("Again:")).returncode in {0, 1}
        assert run(clone / ".venv/bin/dlvmguard", "--state-dir", clone / ".venv/state", "status").returncode == 0

    def test_wrong_arguments_of_the_scan_are_its_own_error(self, tried):
        done = run(tried[0] / "install.sh", "--try", "--", "--no-such-option", **OFFLINE)
        assert done.returncode == 2
        assert "--no-such-option" in done.stderr

    def test_a_changed_source_is_installed_anew_and_the_state_stays(self, tried):
        clone = tried[0]
        ledgers = [path.stat().st_ino for path in (clone / ".venv/state").rglob("ledger.sqlite")]
        source = clone / "agent/__init__.py"
        source.write_text(source.read_text().replace(__version__, "9.9.9"))
        done = run(clone / "install.sh", "--try")
        assert (done.returncode, "dlvmguard 9.9.9" in done.stdout) == (0, True), done.stderr
        assert [path.stat().st_ino for path in (clone / ".venv/state").rglob("ledger.sqlite")] == ledgers


def interrupted(clone, number):
    """A first --try that gets a signal, as from a terminal, once Python is in the environment."""
    started = subprocess.Popen(
        [clone / "install.sh", "--try"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    until = time.monotonic() + 60
    while not (clone / ".venv/bin/python").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(started.pid, number)
    _, errors = started.communicate(timeout=60)
    return started.returncode, errors.decode()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_interrupt_ends_it_without_a_traceback(clone):
    status, errors = interrupted(clone, signal.SIGINT)
    assert status == 130
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_after_a_kill_two_at_once_repair_it_together_whatever_pip_is_configured_to(clone):
    interrupted(clone, signal.SIGKILL)
    both = [
        subprocess.Popen(
            [clone / "install.sh", "--try"],
            env={**os.environ, "PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert sum("Making" in each for each in said) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_without_a_network_the_first_run_says_what_failed(clone):
    done = run(clone / "install.sh", "--try", **OFFLINE, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "could not be made" in done.stderr
    assert "setuptools" in done.stderr
