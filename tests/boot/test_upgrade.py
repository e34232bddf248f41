"""From one version to the next and back on a running machine, with the history kept."""

from __future__ import annotations

import pytest

from agent import __version__
from tests.boot.installation import WATCH
from tests.fakes.bundles import NEXT

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("release", ["trixie"], indirect=True),
]


@pytest.fixture(scope="module")
def upgraded(installation, newer):
    """A machine that ran this version and approved a model, and then was given the next; what it knew before."""
    machine = installation.machine
    installation.install()
    machine.run("mkdir -p /models/llama && head -c 1000 /dev/urandom >/models/llama/model.safetensors")
    machine.run("dlvmguard models approve /models/llama")
    installation.wait_for_first_finding()
    machine.run("systemctl start dlvmguard-report.service")
    before = installation.recorded()
    installation.hand_over(newer)
    installation.install()
    return installation, before


def runs(installation, version):
    process = installation.machine.show(WATCH, "MainPID")
    executable = installation.machine.run(f"tr '\\0' ' ' </proc/{process}/cmdline").stdout
    return installation.version() == f"dlvmguard, version {version}" and f"/opt/dlvmguard/{version}/" in executable


def test_the_next_version_runs_with_the_history_of_the_one_before(upgraded):
    installation, before = upgraded
    assert runs(installation, NEXT)
    installation.machine.run("systemctl start dlvmguard-report.service")
    assert installation.recorded()[: len(before)] == before
    installation.assert_all_arrived_once()
    assert installation.cloud.repeated() == []


def test_what_was_approved_stays_so(upgraded):
    installation, _ = upgraded
    installation.machine.run("printf x >>/models/llama/model.safetensors")
    installation.wait_for_finding("model-file-changed", "/models/llama/model.safetensors")


def test_back_and_forth_again(upgraded):
    installation, before = upgraded
    for version in (__version__, NEXT):
        installation.machine.run("/shared/install.sh --rollback")
        assert runs(installation, version)
        installation.machine.run("systemctl start dlvmguard-report.service")
        assert installation.recorded()[: len(before)] == before
    installation.assert_all_arrived_once()
