"""Letting go of the GPUs, as an operator types it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.facts import gpu_pause
from agent.host import Host
from tests.fakes.trees import plant


def run(root, *words):
    command = [sys.executable, "-m", "agent.cli", "--root", str(root), "gpu", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_released_gpus_are_looked_after_again_when_they_are_resumed(tmp_path):
    done = run(tmp_path, "release", "--for", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert gpu_pause.released(Host(str(tmp_path))) in done.stdout
    assert "looked after again" in run(tmp_path, "resume").stdout
    assert gpu_pause.released(Host(str(tmp_path))) == ""
    assert "nothing to do" in run(tmp_path, "resume").stdout


@pytest.mark.parametrize("minutes", ["0", "1441", "-5", "soon"])
def test_a_release_without_sensible_end_is_refused(tmp_path, minutes):
    assert run(tmp_path, "release", "--for", minutes).returncode == 2
    assert gpu_pause.released(Host(str(tmp_path))) == ""


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_whoever_may_not_release_them_is_told(tmp_path):
    plant(tmp_path, {"/run/": ""})
    (tmp_path / "run").chmod(0o555)
    done = run(tmp_path, "release")
    assert (done.returncode, "permission denied" in done.stderr) == (2, True)


def test_each_command_has_an_example_in_its_help(tmp_path):
    for command in ("release", "resume"):
        assert "Example" in run(tmp_path, command, "--help").stdout
