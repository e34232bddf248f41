"""install.sh on a system: what it is told, what it would do, and what it refuses.

Real installations are in test_install_bundle.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.box import Box
from tests.fakes.metadata import MetadataServer

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "install.sh"


def run(*arguments, script=SCRIPT, **environment):
    return subprocess.run(
        [script, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--version", "../../etc"], "no version"),
        (["--version", "1.0 --pre"], "no version"),
        (["--version="], "--version needs a value"),
        (["--config"], "--config needs a value"),
        (["--config", "/nowhere/config.toml"], "there is no file /nowhere/config.toml"),
        (["--wheelhouse", "/nowhere"], "there is no /nowhere"),
        (["--sha256", "abc"], "64 digits"),
        (["--sha256", "X" * 64], "no SHA-256"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--no-start=maybe"], "unknown option maybe"),
        (["--uninstal"], "unknown option --uninstal"),
        (["extra"], "unknown option extra"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_else(arguments, said):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="is about not being root")
@pytest.mark.parametrize("arguments", [[], ["--uninstall"], ["--rollback"]])
def test_without_root_it_ends_with_4(arguments):
    done = run(*arguments)
    assert done.returncode == 4
    assert "--try" in done.stderr


def test_every_exit_code_in_the_script_is_in_its_help():
    text = SCRIPT.read_text()
    used = {line.split("give_up ")[1].split()[0] for line in text.splitlines() if "give_up " in line}
    told = {line.split()[0] for line in run("--help").stdout.partition("Exit status:")[2].splitlines() if line.strip()}
    assert used <= told


def test_another_system_is_refused_with_the_way_by_hand(room, alone):
    other = Box(room / "other", os_release="ID=fedora\nVERSION_ID=42\n")
    done = other.run(alone)
    assert done.returncode == 3
    assert "fedora 42" in done.stderr
    assert "pip install dlvmguard" in done.stderr
    assert other.run("ls", "/opt/dlvmguard").returncode


def test_a_dry_run_says_every_action_and_changes_nothing(box):
    before = box.files()
    done = box.run(SCRIPT, "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in "/opt/dlvmguard/", "user", "group", "config.toml", "units", "link", "services":
        assert any(line.startswith("would ") and word in line for line in done.stdout.splitlines())
    assert box.files() == before


def test_nothing_to_remove_and_nothing_to_go_back_to(box, alone):
    before = box.files()
    done = box.run(alone, "--uninstall", "--purge")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert box.run(alone, "--rollback").returncode == 11
    assert box.files() == before


def test_what_lies_in_a_directory_where_anybody_may_write_is_not_installed(box, tmp_path):
    for name in "install.sh", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "agent").mkdir()
    tmp_path.chmod(0o777)
    done = box.run(tmp_path / "install.sh", "--dry-run")
    assert "from the index" in done.stdout


def test_what_the_instance_attributes_say_comes_last(box, alone, tmp_path):
    (tmp_path / "mine.toml").write_text("")
    answers = {"instance/attributes/dlvmguard-version": "7.7.7\n", "instance/attributes/dlvmguard-config": "x = 1"}
    with MetadataServer(answers) as server:
        told = {"GCE_METADATA_HOST": server.host}
        assert "dlvmguard 7.7.7 from the index" in box.run(alone, "--dry-run", **told).stdout
        assert "dlvmguard 6.6 " in box.run(alone, "--dry-run", DLVMGUARD_VERSION="6.6", **told).stdout
        assert "dlvmguard 5.5 " in box.run(alone, "--dry-run", "--version=5.5", DLVMGUARD_VERSION="6.6", **told).stdout


def test_an_attribute_that_is_no_version_is_refused(box, alone):
    with MetadataServer({"instance/attributes/dlvmguard-version": "1; reboot"}) as server:
        done = box.run(alone, "--dry-run", GCE_METADATA_HOST=server.host)
    assert done.returncode == 2
