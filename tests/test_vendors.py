"""Who made a Debian package: the distributor, or somebody else."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import knowledge
from agent.facts.machine import parse_os_release
from agent.facts.packages import parse_status, read
from agent.facts.vendors import vendor
from agent.host import Host
from agent.knowledge import Vendors
from agent.model import CannotLookError
from release.debian_maintainers import table
from tests.fakes.debian import STATUS, stanza
from tests.fakes.trees import plant


@pytest.mark.parametrize(
    ("maintainer", "system", "expected"),
    [
        ("GNU Libc Maintainers <debian-glibc@lists.debian.org>", "debian", "Debian"),
        ("Debian Python Team <team+python@tracker.debian.org>", "debian", "Debian"),
        ("Somebody <somebody@debian.org>, Another <x@example.org>", "debian", "Debian"),
        ("Theodore Y. Ts'o <tytso@mit.edu>", "debian", "Debian"),
        ("Christopher James Halse Rogers <raof@ubuntu.com>", "debian", "Debian"),
        ("Christopher James Halse Rogers <raof@ubuntu.com>", "ubuntu", "Ubuntu"),
        ("Ubuntu Developers <ubuntu-devel-discuss@lists.ubuntu.com>", "ubuntu", "Ubuntu"),
        ("Canonical Kernel Team <kernel-team@lists.ubuntu.com>", "ubuntu", "Ubuntu"),
    ],
)
def test_what_the_distributor_made(maintainer, system, expected):
    assert vendor(maintainer, "1.0-1", system) == expected


@pytest.mark.parametrize(
    ("maintainer", "expected"),
    [
        ("NVIDIA CORPORATION <cudatools@nvidia.com>", "NVIDIA"),
        ("Google Cloud CLI Authors <https://code.google.com/p/google-cloud-sdk/>", "Google"),
        ("Google Cloud Team <gc-team@google.com>", "Google"),
        ("Kubernetes Authors <kubernetes-dev+release@googlegroups.com>", "Kubernetes"),
        ("Docker <support@docker.com>", "Docker"),
        ("NodeSource Support <support@nodesource.com>", "NodeSource"),
        ("Ubuntu Developers <ubuntu-devel-discuss@lists.ubuntu.com>", "Ubuntu"),
        ("Our Platform Team <platform@example.com>", ""),
        ("Not Debian <x@notdebian.org>", ""),
        ("Not Debian <x@debian.org.example.com>", ""),
        ("debian.org", ""),
        ("root", ""),
        ("", ""),
    ],
)
def test_what_others_made_is_not_taken_for_debians(maintainer, expected):
    assert vendor(maintainer, "1.0-1", "debian") == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("15.3-1.pgdg120+1", "PostgreSQL"),
        ("1:2.43.0-0ppa1~ubuntu22.04.1", "Launchpad PPA"),
        ("8.2.7-1+0~20230609.36+debian12~1.gbp0000", "deb.sury.org"),
        ("1.0-1~bpo12+1", "Debian"),
        ("2.36-9+deb12u9", "Debian"),
        ("1.0-1+b1", "Debian"),
    ],
)
def test_what_others_built_anew_is_theirs(version, expected):
    assert vendor("Team <team@tracker.debian.org>", version, "debian") == expected


def test_a_package_of_debian_on_ubuntu_is_not_ubuntus():
    assert vendor("Matthias Klose <doko@debian.org>", "3.11.9-1+jammy1", "ubuntu") == "Debian"


@pytest.mark.parametrize(("system", "expected"), [("ubuntu", "Ubuntu"), ("debian", "Debian")])
def test_the_machine_tells_whose_package_it_is(tmp_path, system, expected):
    text = stanza("libx", "1").replace("Version:", "Maintainer: Raof <raof@ubuntu.com>\nVersion:")
    host = plant(tmp_path, {STATUS: text, "/etc/os-release": f"ID={system}\n"})
    assert [package.vendor for package in read(host).packages] == [expected]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.34-0.1ubuntu9.1+esm1", True), ("8.9p1-3ubuntu0.10~esm2", True), ("1.0-1ubuntu1", False), ("1.0+esmx", False)],
)
def test_builds_of_ubuntu_pro_are_known_by_their_version(version, expected):
    (package,) = parse_status(stanza("x", version).encode()).packages
    assert package.is_extended is expected


def test_the_table_holds_no_address():
    known = knowledge.load(Vendors)
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in known.debian_maintainers.split())
    assert {"Debian", "Ubuntu"} <= {each.name for each in known.vendors}
    assert all(re.compile(each.version) for each in known.rebuilds)


def test_the_table_is_made_of_the_addresses_that_do_not_tell_by_themselves():
    lines = [
        "Maintainer: A <a@debian.org>\n",
        "Maintainer: T <TYTSO@mit.edu>, X <x@lists.debian.org>\n",
        "Package: x\n",
    ]
    assert table(lines).split() == table(["Maintainer: T <tytso@mit.edu>\n"]).split()
    assert set(table(lines).split()) <= set(knowledge.load(Vendors).debian_maintainers.split())


def system() -> str:
    with contextlib.suppress(CannotLookError):
        said = parse_os_release(Host().text("/etc/os-release"))
        return f"{said.get('ID')} {said.get('VERSION_ID')}"
    return ""


@pytest.mark.skipif(
    shutil.which("apt-cache") is None or system() not in {"debian 11", "debian 12", "debian 13"},
    reason="there is no apt of a Debian that the table knows to compare with",
)
def test_what_apt_has_from_debians_archives_is_debians():
    packages = {package.name: package for package in read(Host()).packages if package.present}
    said = subprocess.run(["apt-cache", "policy", *packages], capture_output=True, text=True, check=True).stdout
    for name, versions in re.findall(r"^(\S+):\n((?: .*\n)*)", said, re.MULTILINE):
        archives = re.search(r"^ \*\*\* .*\n((?: {8}.*\n)*)", versions, re.MULTILINE)
        if name in packages and archives and re.search(r"://[^/ ]*\bdebian\.org/", archives[1]):
            assert packages[name].vendor == "Debian", name


@given(st.text(), st.text(), st.sampled_from(["debian", "ubuntu", ""]))
def test_any_text_has_a_vendor_or_none(maintainer, version, system):
    assert vendor(maintainer, version, system).isprintable()
