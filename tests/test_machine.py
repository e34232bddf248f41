"""The machine's own facts, and the checks of its operating system."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import knowledge
from agent.checks.machine import operating_system_end_of_life, operating_system_support_ends_soon
from agent.config import Config
from agent.facts.machine import Machine, ecosystem, machine, parse_os_release
from agent.knowledge import OperatingSystems
from agent.model import AbsentError, Moment
from tests.fakes.trees import NOW, plant

SYSTEMS = knowledge.load(OperatingSystems)
TREE = {
    "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/proc/sys/kernel/hostname": "gpu-1\n",
    "/proc/sys/kernel/osrelease": "6.1.0-30-cloud-amd64\n",
    "/proc/sys/kernel/random/boot_id": "8f1d0c86-0000-4000-8000-000000000000\n",
}


def test_a_debian_machine_is_read(tmp_path):
    seen = machine(plant(tmp_path, TREE), Config())
    assert (seen.release, seen.hostname, seen.kernel) == ("debian 12", "gpu-1", "6.1.0-30-cloud-amd64")


def test_the_machine_id_never_becomes_a_fact(tmp_path):
    assert TREE["/etc/machine-id"].strip() not in repr(machine(plant(tmp_path, TREE), Config()))


def test_a_machine_without_machine_id_has_no_identity(tmp_path):
    tree = {path: content for path, content in TREE.items() if path != "/etc/machine-id"}
    assert machine(plant(tmp_path, tree), Config()).identity == ""


def test_a_machine_without_os_release_cannot_be_looked_at(tmp_path):
    with pytest.raises(AbsentError, match="/etc/os-release"):
        machine(plant(tmp_path, {"/etc/hostname": "x"}), Config())


def test_terminal_escapes_in_a_name_are_shown_and_not_sent(tmp_path):
    tree = {**TREE, "/etc/os-release": 'ID=debian\nPRETTY_NAME="\x1b[2Jgone"\n'}
    assert machine(plant(tmp_path, tree), Config()).pretty_name == "\\u001b[2Jgone"


@given(st.text())
def test_any_text_is_an_os_release_without_an_error(text):
    assert all(isinstance(value, str) for value in parse_os_release(text).values())


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("debian 12", "Debian:12"),
        ("ubuntu 22.04", "Ubuntu:22.04:LTS"),
        ("ubuntu 26.04", "Ubuntu:26.04:LTS"),
        ("ubuntu 23.04", "Ubuntu:23.04"),
        ("ubuntu 24.10", "Ubuntu:24.10"),
        ("rocky 9.4", "Rocky Linux:9"),
        ("rocky 8", "Rocky Linux:8"),
        ("almalinux 10.0", "AlmaLinux:10"),
        ("debian", ""),
        ("debian 12~", ""),
        ("rhel 9.4", ""),
        ("arch", ""),
        ("", ""),
    ],
)
def test_what_advisories_call_a_release(release, expected):
    assert ecosystem(release) == expected


def a_machine(release: str) -> Machine:
    return Machine(hostname="gpu-1", release=release, pretty_name=release, kernel="6.1", boot="b", identity="i")


@pytest.mark.parametrize("release", ["debian 12", "ubuntu 24.04", "arch ", ""])
def test_a_supported_or_unlisted_system_is_quiet(release):
    assert list(operating_system_end_of_life(a_machine(release), SYSTEMS, NOW)) == []
    assert list(operating_system_support_ends_soon(a_machine(release), SYSTEMS, NOW)) == []


@pytest.mark.parametrize("release", ["debian 10", "debian 11", "ubuntu 20.04"])
def test_a_system_past_its_end_is_a_finding(release):
    (finding,) = operating_system_end_of_life(a_machine(release), SYSTEMS, NOW)
    assert finding.subject == "operating-system"
    assert "security support ended on" in finding.detail


def test_the_end_is_announced_half_a_year_ahead_and_not_before():
    before = Moment(now=dt.datetime(2026, 10, 1, tzinfo=dt.timezone.utc))
    ahead = Moment(now=dt.datetime(2026, 12, 1, tzinfo=dt.timezone.utc))
    assert list(operating_system_support_ends_soon(a_machine("ubuntu 22.04"), SYSTEMS, before)) == []
    assert len(list(operating_system_support_ends_soon(a_machine("ubuntu 22.04"), SYSTEMS, ahead))) == 1
