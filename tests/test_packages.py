"""Debian packages as facts: what dpkg has installed, and what waits for a reboot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import packages as facts
from agent.facts.packages import Kernel, flavour, newest_kernel, parse_status
from agent.host import Host
from agent.model import AbsentError, CannotLookError, Probe
from tests.fakes.debian import STATUS, stanza
from tests.fakes.trees import plant

T = TypeVar("T")
KERNELS = {
    "/proc/sys/kernel/osrelease": "6.1.0-30-cloud-amd64\n",
    "/proc/sys/kernel/version": "#1 SMP Debian 6.1.124-1 (2025-01-12)\n",
}
IMAGE = stanza("linux-image-6.1.0-30-cloud-amd64", "6.1.124-1")


def look(probe: Probe[T], root: Path, tree: Mapping[str, str | bytes]) -> T:
    return probe(plant(root, tree), Config())


def test_installed_packages_are_read_with_their_source(tmp_path):
    text = stanza("libc6", "2.36-9", source="glibc") + stanza("libc-bin", "2.36-9+b1", source="glibc (2.36-9)")
    seen = look(facts.packages, tmp_path, {STATUS: text})
    assert [(each.name, each.version, each.source, each.source_version) for each in seen.packages] == [
        ("libc-bin", "2.36-9+b1", "glibc", "2.36-9"),
        ("libc6", "2.36-9", "glibc", "2.36-9"),
    ]
    assert seen.gaps == ()


def test_one_package_for_two_architectures_is_two():
    seen = parse_status((stanza("libc6", "2.36-9") + stanza("libc6", "2.36-9", "i386")).encode())
    assert [each.subject for each in seen.packages] == ["deb:libc6:amd64", "deb:libc6:i386"]
    assert seen.gaps == ()


@pytest.mark.parametrize(
    ("status", "present", "held", "reinstall"),
    [
        ("install ok installed", True, False, False),
        ("hold ok installed", True, True, False),
        ("install reinstreq half-installed", True, False, True),
        ("install ok triggers-pending", True, False, False),
        ("deinstall ok config-files", False, False, False),
    ],
)
def test_the_state_of_a_package(status, present, held, reinstall):
    (package,) = parse_status(stanza("x", "1", status=status).encode()).packages
    assert (package.present, package.held, package.reinstall) == (present, held, reinstall)


def test_a_package_never_installed_is_no_package_and_no_gap():
    seen = parse_status(b"Package: x\nStatus: unknown ok not-installed\nArchitecture: amd64\n\n")
    assert (seen.packages, seen.gaps) == ((), ())


@pytest.mark.parametrize("missing", ["Status", "Version", "Architecture"])
def test_a_stanza_without_a_field_is_a_gap_for_its_package_alone(missing):
    text = "".join(line for line in stanza("x", "1").splitlines(True) if not line.startswith(missing))
    seen = parse_status((text + stanza("y", "1")).encode())
    assert [each.name for each in seen.packages] == ["y"]
    assert [gap.scope for gap in seen.gaps] == ["deb:x"]
    assert seen.gaps[0].covers("deb:x:amd64")


@pytest.mark.parametrize(
    "garbage", [b"\0" * 512, b"Package: \x1b[2J\nStatus: install ok installed\n", b"\xff\xfe", b"Package: ../x\n"]
)
def test_a_stanza_that_names_no_package_is_a_gap_for_all(garbage):
    seen = parse_status(garbage + b"\n\n" + stanza("y", "1").encode())
    assert [each.name for each in seen.packages] == ["y"]
    assert [gap.scope for gap in seen.gaps] == [""]


def test_a_truncated_database_says_so():
    seen = parse_status((stanza("x", "1") + stanza("y", "1.2.3")).encode()[:-60])
    assert [each.name for each in seen.packages] == ["x"]
    assert "in the middle of a stanza" in seen.gaps[0].reason


def test_the_same_package_twice_is_a_gap():
    seen = parse_status((stanza("x", "1") + stanza("x", "2")).encode())
    assert [gap.scope for gap in seen.gaps] == ["deb:x:amd64"]


def test_a_database_of_garbage_cannot_be_looked_at():
    with pytest.raises(CannotLookError, match="damaged"):
        parse_status(b"x\n\n" * 101)


def test_an_empty_database_is_not_a_machine_without_packages(tmp_path):
    with pytest.raises(CannotLookError, match="no package at all"):
        look(facts.packages, tmp_path, {STATUS: ""})


@pytest.mark.parametrize("probe", [facts.packages, facts.updates, facts.reboot])
def test_a_machine_without_dpkg_says_so(probe, tmp_path):
    with pytest.raises(AbsentError, match="no dpkg database"):
        look(probe, tmp_path, {"/etc/os-release": "ID=rocky\n"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_database_is_not_an_absent_one(tmp_path):
    host = plant(tmp_path, {STATUS: IMAGE})
    os.chmod(host.place(STATUS), 0)
    with pytest.raises(CannotLookError, match="permission denied") as caught:
        facts.packages(host, Config())
    assert not isinstance(caught.value, AbsentError)


def test_a_database_that_is_a_pipe_does_not_hang(tmp_path):
    host = plant(tmp_path, {"/var/lib/dpkg/": ""})
    os.mkfifo(host.place(STATUS))
    with pytest.raises(CannotLookError, match="not a regular file"):
        facts.packages(host, Config())


def test_an_interrupted_dpkg_is_a_gap(tmp_path):
    tree = {STATUS: IMAGE, "/var/lib/dpkg/updates/0001": stanza("x", "1"), "/var/lib/dpkg/updates/tmp.i": ""}
    (gap,) = look(facts.packages, tmp_path, tree).gaps
    assert "dpkg is at work" in gap.reason


@given(
    st.lists(
        st.sampled_from(
            [b"Package: a", b"Status: hold ok installed", b"Version: 1", b"Architecture: all", b"", b"\xff", b" ", b":"]
        )
        | st.binary(max_size=20)
    )
)
def test_any_bytes_are_packages_and_gaps_without_an_error(lines):
    seen = parse_status(b"\n".join(lines))
    assert all(each.name.isascii() and each.version.isprintable() for each in seen.packages)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="there is no dpkg here to compare with")
def test_this_machine_has_the_packages_that_dpkg_says():
    seen = facts.packages(Host(), Config())
    shape = "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version} ${db:Status-Status}\n"
    said = subprocess.run(["dpkg-query", "-W", "-f", shape], capture_output=True, text=True, check=True)
    assert sorted(said.stdout.splitlines()) == sorted(
        f"{each.name} {each.version} {each.architecture} {each.source} {each.source_version} {each.state}"
        for each in seen.packages
    )
    assert seen.gaps == ()


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.1.0-30-cloud-amd64", "cloud-amd64"),
        ("6.12.43+deb13-cloud-amd64", "cloud-amd64"),
        ("6.1.0-0.deb11.21-cloud-amd64", "cloud-amd64"),
        ("6.8.0-1020-gcp", "gcp"),
        ("6.8.0-1020-gcp-64k", "gcp-64k"),
        ("5.15.0-130-generic", "generic"),
        ("5.15.153.1-microsoft-standard-WSL2", "microsoft-standard-WSL2"),
        ("6.1.0", ""),
        ("", ""),
    ],
)
def test_the_flavour_of_a_kernel(release, expected):
    assert flavour(release) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-31-cloud-amd64"], "6.1.0-31-cloud-amd64"),
        (["linux-image-6.1.0-30-cloud-amd64", "linux-image-6.1.0-31-amd64"], "6.1.0-30-cloud-amd64"),
        (["linux-image-6.1.0-31-cloud-amd64-dbg", "linux-image-cloud-amd64"], None),
        (["linux-image-unsigned-6.1.0-31-cloud-amd64"], "6.1.0-31-cloud-amd64"),
        (["linux-image-6.1.0-31-cloud-amd64-unsigned"], "6.1.0-31-cloud-amd64"),
        ([], None),
    ],
)
def test_the_newest_kernel_is_of_the_flavour_that_runs(names, expected):
    installed = parse_status("".join(stanza(name, "6.1") for name in names).encode()).packages
    newest = newest_kernel(installed, "6.1.0-30-cloud-amd64")
    assert (newest.release if newest else None) == expected


def test_a_removed_kernel_is_not_installed():
    text = stanza("linux-image-6.1.0-31-cloud-amd64", "6.1", status="deinstall ok config-files")
    assert newest_kernel(parse_status(text.encode()).packages, "6.1.0-30-cloud-amd64") is None


def test_a_machine_that_needs_no_reboot(tmp_path):
    seen = look(facts.reboot, tmp_path, {STATUS: IMAGE, **KERNELS})
    assert (seen.required, seen.asked_by, seen.gaps) == (False, (), ())
    assert (seen.build, seen.newest) == ("6.1.124-1", Kernel(release="6.1.0-30-cloud-amd64", version="6.1.124-1"))


def test_who_asked_for_the_reboot_is_said_once(tmp_path):
    tree = {
        STATUS: IMAGE,
        **KERNELS,
        "/run/reboot-required": "",
        "/run/reboot-required.pkgs": "libc6\nlibc6\n\n\x1b[2J\n",
    }
    seen = look(facts.reboot, tmp_path, tree)
    assert (seen.required, seen.asked_by) == (True, ("\\u001b[2J", "libc6"))


def test_a_kernel_of_no_package_cannot_be_judged(tmp_path):
    tree = {STATUS: IMAGE, **KERNELS, "/proc/sys/kernel/osrelease": "6.18.44-fc\n"}
    (gap,) = look(facts.reboot, tmp_path, tree).gaps
    assert gap.covers("kernel")
    assert not gap.covers("reboot")
