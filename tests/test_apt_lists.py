"""Pending security updates from the lists that apt left on the disk."""

from __future__ import annotations

import datetime as dt
import gzip
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import apt_lists, debian_control
from agent.facts import packages as facts
from agent.facts.debian_version import order
from agent.facts.packages import Updates
from agent.host import Host
from agent.model import CannotLookError
from tests.fakes.debian import BOOKWORM, DEBIAN_SECURITY, JAMMY, LISTS, STATUS, UBUNTU_SECURITY, listed, release, stanza
from tests.fakes.trees import plant

INSTALLED = stanza("dpkg", "1.21") + stanza("openssl", "3.0.16-1") + stanza("tzdata", "2025b-0", "all")
MAIN = f"{BOOKWORM}_main_binary-amd64_Packages"
DEBIAN = {STATUS: INSTALLED, f"{BOOKWORM}_InRelease": DEBIAN_SECURITY}


def updates(root: Path, tree: Mapping[str, str | bytes]) -> Updates:
    return facts.updates(plant(root, tree), Config())


def offered(seen: Updates) -> list[tuple[str, str]]:
    return [(update.package.name, update.available) for update in seen.pending]


def test_what_is_up_to_date_newer_or_not_installed_is_not_pending(tmp_path):
    packages = listed("openssl", "3.0.16-1") + listed("tzdata", "2025a-0", "all") + listed("apache2", "9")
    seen = updates(tmp_path, {**DEBIAN, MAIN: packages})
    assert (seen.pending, seen.gaps) == ((), ())
    assert seen.archives == ("Debian-Security bookworm-security",)


def test_a_removed_package_is_not_pending(tmp_path):
    text = INSTALLED + stanza("vim", "1", status="deinstall ok config-files")
    assert updates(tmp_path, {**DEBIAN, STATUS: text, MAIN: listed("vim", "2")}).pending == ()


def test_a_package_of_another_architecture_is_not_pending(tmp_path):
    assert updates(tmp_path, {**DEBIAN, MAIN: listed("openssl", "9", "i386")}).pending == ()


@pytest.mark.parametrize("suite", ["bookworm-updates", "bookworm", "bookworm-backports"])
def test_an_archive_that_is_not_of_security_is_left_out(suite, tmp_path):
    ordinary = f"{LISTS}/deb.debian.org_debian_dists_{suite}"
    tree = {
        **DEBIAN,
        MAIN: listed("apache2", "1"),
        f"{ordinary}_InRelease": release(suite, codename=suite, label="Debian"),
        f"{ordinary}_main_binary-amd64_Packages": listed("openssl", "9"),
    }
    seen = updates(tmp_path, tree)
    assert (seen.pending, seen.archives) == ((), ("Debian-Security bookworm-security",))


def test_a_newer_version_is_pending_and_the_newest_counts(tmp_path):
    packages = listed("openssl", "3.0.17-1") + listed("openssl", "3.0.18-1") + listed("tzdata", "2026a-0", "amd64")
    seen = updates(tmp_path, {**DEBIAN, MAIN: packages})
    assert offered(seen) == [("openssl", "3.0.18-1"), ("tzdata", "2026a-0")]
    assert (seen.architecture, seen.gaps) == ("amd64", ())


def test_all_components_of_ubuntu_security_are_read(tmp_path):
    tree = {
        STATUS: INSTALLED,
        f"{JAMMY}_InRelease": UBUNTU_SECURITY,
        f"{JAMMY}_main_binary-amd64_Packages": listed("openssl", "3.0.18-1"),
        f"{JAMMY}_universe_binary-amd64_Packages": listed("tzdata", "2026a-0", "all"),
    }
    seen = updates(tmp_path, tree)
    assert offered(seen) == [("openssl", "3.0.18-1"), ("tzdata", "2026a-0")]
    assert seen.archives == ("Ubuntu jammy-security",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("security.debian.org_debian-security_dists_buster_updates", DEBIAN_SECURITY),
        ("security.debian.org_debian-security_dists_buster_updates", None),
        ("security.debian.org_dists_stretch_updates", None),
        ("asia-east1.gce.archive.ubuntu.com_ubuntu_dists_jammy-security", None),
        ("asia-east1.gce.archive.ubuntu.com_ubuntu_dists_jammy-security", "garbage"),
        ("mirror.example_anything_dists_stable", UBUNTU_SECURITY),
    ],
)
def test_the_release_file_decides_and_the_name_where_there_is_none(name, said, tmp_path):
    address = f"{LISTS}/{name}"
    tree = {STATUS: INSTALLED, f"{address}_main_binary-amd64_Packages": listed("openssl", "9")}
    if said:
        tree[f"{address.removesuffix('_updates')}_Release"] = said
    assert offered(updates(tmp_path, tree)) == [("openssl", "9")]


def test_the_lists_are_as_old_as_the_archive_says(tmp_path):
    assert updates(tmp_path, {**DEBIAN, MAIN: ""}).refreshed == dt.datetime(2026, 11, 22, 10, tzinfo=dt.timezone.utc)


def test_without_a_date_the_lists_are_as_old_as_their_files(tmp_path):
    host = plant(tmp_path, {**DEBIAN, f"{BOOKWORM}_InRelease": "Label: Debian-Security\nDate: soon\n", MAIN: ""})
    os.utime(host.place(MAIN), (1_700_000_000, 1_700_000_000))
    assert facts.updates(host, Config()).refreshed.timestamp() == 1_700_000_000


@pytest.mark.parametrize(("extension", "packed"), [("gz", gzip.compress), ("xz", lzma.compress)], ids=["gzip", "xz"])
def test_compressed_lists_are_read(extension, packed, tmp_path):
    text = listed("openssl", "3.0.18-1") + listed("filler", "1") * 20_000
    seen = updates(tmp_path, {**DEBIAN, f"{MAIN}.{extension}": packed(text.encode())})
    assert (offered(seen), seen.gaps) == ([("openssl", "3.0.18-1")], ())


@pytest.mark.skipif(not os.path.exists("/usr/lib/apt/apt-helper"), reason="there is no apt here to unpack LZ4")
def test_lists_in_lz4_are_read_by_apt_itself(tmp_path):
    # A frame of one block that is stored as it is: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
    text = listed("openssl", "3.0.18-1").encode()
    frame = b"\x04\x22\x4d\x18\x60\x40\x82" + (len(text) | 1 << 31).to_bytes(4, "little") + text + bytes(4)
    seen = updates(tmp_path, {**DEBIAN, f"{MAIN}.lz4": frame})
    assert (offered(seen), seen.gaps) == ([("openssl", "3.0.18-1")], ())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Packages", listed("openssl", "9")[:-9]),
        ("Packages.gz", gzip.compress(listed("x", "1").encode())[:-20]),
        ("Packages.gz", gzip.compress(listed("x", "1").encode()) + b"more"),
        ("Packages.gz", b"no gzip"),
        ("Packages.gz", b""),
        ("Packages.xz", lzma.compress(listed("x", "1").encode())[:-20]),
        ("Packages.xz", b"no xz"),
        ("Packages.lz4", b"no lz4"),
        ("Packages.zst", b"no zstd"),
        ("Packages", listed("openssl", "").replace("Package:", "Packet:")),
    ],
)
def test_a_list_that_cannot_be_read_is_a_gap_for_all_packages(name, content, tmp_path):
    (gap,) = updates(tmp_path, {**DEBIAN, f"{BOOKWORM}_main_binary-amd64_{name}": content}).gaps
    assert gap.reason.startswith("Debian-Security bookworm-security")
    assert gap.covers("deb:openssl:amd64")


def test_a_list_that_unpacks_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(apt_lists, "LARGEST_LIST", 4 << 20)
    for extension, packed in (("gz", gzip.compress), ("xz", lzma.compress)):
        bomb = packed((listed("filler", "1") * 200_000).encode())
        (gap,) = updates(tmp_path / extension, {**DEBIAN, f"{MAIN}.{extension}": bomb}).gaps
        assert "unpacked" in gap.reason


def test_a_stanza_without_a_version_is_a_gap_for_its_package(tmp_path):
    seen = updates(tmp_path, {**DEBIAN, MAIN: "Package: openssl\n\n" + listed("tzdata", "2026a-0", "all")})
    assert offered(seen) == [("tzdata", "2026a-0")]
    assert [gap.scope for gap in seen.gaps] == ["deb:openssl:amd64"]


def test_an_archive_without_a_list_is_a_gap(tmp_path):
    tree = {**DEBIAN, f"{JAMMY}_InRelease": UBUNTU_SECURITY, MAIN: listed("openssl", "9")}
    seen = updates(tmp_path, tree)
    assert offered(seen) == [("openssl", "9")]
    assert [gap.reason for gap in seen.gaps] == ["apt has no package list of Ubuntu jammy-security"]


@pytest.mark.parametrize(
    "tree", [{}, {f"{LISTS}/": ""}, {f"{LISTS}/deb.debian.org_debian_dists_bookworm_main_binary-amd64_Packages": ""}]
)
def test_without_a_security_list_nothing_is_known(tree, tmp_path):
    with pytest.raises(CannotLookError, match="no package list of a security archive") as caught:
        updates(tmp_path, {STATUS: INSTALLED, **tree})
    assert "apt-get update" in caught.value.hint


def test_the_gaps_of_the_installed_packages_are_gaps_of_the_updates(tmp_path):
    seen = updates(tmp_path, {**DEBIAN, STATUS: INSTALLED + "Package: bash\n\n", MAIN: ""})
    assert [gap.scope for gap in seen.gaps] == ["deb:bash"]


def test_pipes_and_directories_among_the_lists_do_not_hang(tmp_path):
    host = plant(tmp_path, {**DEBIAN, MAIN: listed("openssl", "9"), f"{LISTS}/partial/": ""})
    os.mkfifo(host.place(f"{BOOKWORM}_contrib_binary-amd64_Packages"))
    assert offered(facts.updates(host, Config())) == [("openssl", "9")]


@given(st.binary(max_size=400), st.integers(1, 50))
def test_stanzas_do_not_depend_on_where_blocks_end(content, size):
    content = content.replace(b"a", b"\n") + b"\n\n"
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    assert list(debian_control.stanzas(blocks, "/x")) == list(debian_control.stanzas([content], "/x"))


def security_lists() -> bool:
    try:
        return bool(apt_lists.security_archives(Host()))
    except CannotLookError:
        return False


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt here to compare with")
@pytest.mark.skipif(not security_lists(), reason="apt has no security lists here")
def test_apt_agrees_about_this_machine():
    pending = {update.package.name: update.available for update in facts.updates(Host(), Config()).pending}
    command = ["apt-get", "--just-print", "dist-upgrade"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    candidates = dict(re.findall(r"^Inst (\S+) \[.*?\] \((\S+) .*-security", said, re.MULTILINE))
    assert candidates.items() <= pending.items()
    policy = subprocess.run(["apt-cache", "policy", *pending], capture_output=True, text=True, check=True).stdout
    best = dict(re.findall(r"^(\S+):\n.*\n  Candidate: (\S+)", policy, re.MULTILINE))
    assert not [name for name, available in pending.items() if order(best[name]) < order(available)]
