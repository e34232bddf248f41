"""Snaps as facts: what is installed, without asking snapd."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts.snaps import Snap, Snaps, parse_version, snaps
from tests.fakes.trees import plant

FILES = "/var/lib/snapd/snaps"


def a_snap(name: str, revision: str, description: str, mount: str = "/snap") -> dict[str, str]:
    return {
        f"{FILES}/{name}_{revision}.snap": "",
        f"{mount}/{name}/current": f"-> {revision}",
        f"{mount}/{name}/{revision}/meta/snap.yaml": description,
    }


def look(root, tree):
    return snaps(plant(root, tree), Config())


def test_a_machine_without_snapd_has_none(tmp_path):
    assert look(tmp_path, {"/etc/os-release": "ID=debian\n"}) == Snaps()


def test_installed_snaps_are_read_by_name(tmp_path):
    tree = {
        **a_snap("google-cloud-cli", "290", "name: google-cloud-cli\nversion: 500.0.0\nsummary: x\n"),
        **a_snap("core22", "1380", "name: core22\nversion: '20240408'\n"),
        f"{FILES}/core22_1122.snap": "",
        f"{FILES}/partial/": "",
        "/snap/README": "x",
    }
    assert look(tmp_path, tree) == Snaps(
        snaps=(
            Snap(name="core22", version="20240408", revision="1380"),
            Snap(name="google-cloud-cli", version="500.0.0", revision="290"),
        )
    )


def test_snaps_are_found_where_other_distributions_mount_them(tmp_path):
    (snap,) = look(tmp_path, a_snap("hello", "x1", "version: '1'\n", "/var/lib/snapd/snap")).snaps
    assert snap == Snap(name="hello", version="1", revision="x1")


def test_a_snap_that_is_disabled_is_not_in_use(tmp_path):
    assert look(tmp_path, {f"{FILES}/lxd_1.snap": ""}) == Snaps()


@pytest.mark.parametrize(
    ("link", "description"),
    [("-> ../../etc", "version: 1\n"), ("-> 7", "name: x\n"), ("-> 7", "version: |\n  1\n"), ("-> 8", "version: 1\n")],
)
def test_a_snap_that_cannot_be_read_is_a_gap_for_it_alone(tmp_path, link, description):
    tree = {**a_snap("hello", "7", description), **a_snap("core22", "1", "version: '2'\n"), "/snap/hello/current": link}
    seen = look(tmp_path, tree)
    assert [snap.name for snap in seen.snaps] == ["core22"]
    assert [gap.scope for gap in seen.gaps] == ["snap:hello"]


def test_a_description_that_is_a_pipe_does_not_hang(tmp_path):
    host = plant(tmp_path, {f"{FILES}/x1_1.snap": "", "/snap/x1/current": "-> 1", "/snap/x1/1/meta/": ""})
    os.mkfifo(host.place("/snap/x1/1/meta/snap.yaml"))
    assert [gap.scope for gap in snaps(host, Config()).gaps] == ["snap:x1"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("version: 1.2.3", "1.2.3"),
        ("version: '1.2'", "1.2"),
        ('version: "2"  # latest', "2"),
        ("version: 2.63+22.04ubuntu0.1 # x", "2.63+22.04ubuntu0.1"),
        ("version:", ""),
        ("  version: 1", ""),
        ("versions: 1", ""),
        ("version: >", ""),
    ],
)
def test_the_version_that_a_description_names(line, expected):
    assert parse_version(f"name: x\n{line}\nsummary: y\n".encode()) == expected


@given(st.binary())
def test_any_bytes_have_a_version_that_prints_or_none(content):
    assert parse_version(b"version: " + content).isprintable()
