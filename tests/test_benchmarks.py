"""The machine that benchmarks look at is as large as they say, and a scan gets through it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.machine import DEBS, ENVIRONMENTS, PROCESSES, generate


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    place = tmp_path_factory.mktemp("machine") / "root"
    generate(str(place))
    return place


def test_it_has_the_size_that_the_budget_speaks_of(tree):
    assert (DEBS, sum(ENVIRONMENTS.values()), PROCESSES) == (750, 850, 200)
    assert (tree / "var/lib/dpkg/status").read_text().count("\nVersion: ") == DEBS
    assert len(list(tree.glob("**/*.dist-info/METADATA"))) == sum(ENVIRONMENTS.values())
    assert sum(path.name.isdigit() for path in (tree / "proc").iterdir()) == PROCESSES


def test_a_scan_of_it_answers(tree):
    command = [sys.executable, "-m", "agent.cli", "--root", str(tree), "scan", "--no-ledger", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    assert json.loads(done.stdout)["machine"].startswith("gpu-1, Debian GNU/Linux 12")
