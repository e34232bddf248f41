"""Units and containers as control groups name them, and users as passwd does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts import owners
from agent.facts.owners import Placement, find_holders, parse_cgroup, parse_passwd
from tests.fakes.sockets import process
from tests.fakes.trees import plant

ID = "3f8a" * 16
SHORT = ID[:12]
POD = "pod8f1d0c86_0000_4000_8000_000000000000"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", ""),
        ("0::/\n", ""),
        ("0::/system.slice/ssh.service\n", "ssh.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n", "jupyter.service"),
        ("0::/system.slice/ray.service/worker\n", "ray.service"),
        ("12:pids:/x\n1:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
        ("4:memory:/system.slice/not-this.service\n0::/system.slice/this.service\n", "this.service"),
    ],
)
def test_a_process_on_the_host_has_its_innermost_unit_and_no_container(text, unit):
    assert parse_cgroup(text) == Placement(unit=unit)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker"),
        (f"/docker/{ID}", "docker"),
        (f"/docker/{ID}/init.scope", "docker"),
        (f"/machine.slice/libpod-{ID}.scope/container", "podman"),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", "podman"),
        (f"/system.slice/nerdctl-{ID}.scope", "containerd"),
        (f"/system.slice/cri-containerd-{ID}.scope", "containerd"),
        (f"/kubepods/burstable/{POD}/{ID}", "kubernetes"),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-{POD}.slice/cri-containerd-{ID}.scope", "kubernetes"),
        (f"/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope", "kubernetes"),
        (f"/lxc/{ID}", "container"),
    ],
)
def test_a_process_in_a_container_has_its_kind_and_short_id(path, kind):
    for line in (f"0::{path}\n", f"9:name=systemd:/\n4:memory:{path}\n0::/\n"):
        placement = parse_cgroup(line)
        assert (placement.container_kind, placement.container) == (kind, SHORT)


def test_the_process_that_watches_a_podman_container_is_not_in_it():
    assert parse_cgroup(f"0::/machine.slice/libpod-conmon-{ID}.scope\n").container == ""


@given(st.text())
def test_any_text_is_a_cgroup_file_without_an_error(text):
    assert parse_cgroup(text).unit.isprintable()


@given(st.binary())
def test_any_bytes_are_a_passwd_file_without_an_error(content):
    assert all(name.isprintable() for name in parse_passwd(content).values())


def test_the_first_name_of_a_number_counts():
    content = b"root:x:0:0:::\ntoor:x:0:0:::\nbroken\nodd:x:-1:0:::\n+::::::\n"
    assert parse_passwd(content) == {0: "root"}


def test_the_walk_ends_with_the_last_socket(tmp_path):
    files = {**process(5, 1), "/proc/6/fd": "-> fd"}
    assert find_holders(plant(tmp_path, files), [1], [5, 6]) == owners.Walk(
        holders={1: 5}, unreadable=False, truncated=False
    )


def test_a_process_with_very_many_open_files_ends_the_walk_and_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "_DESCRIPTORS", 20)
    walk = find_holders(plant(tmp_path, {**process(5, *range(50, 90)), **process(6, 1)}), [1], [5, 6])
    assert (dict(walk.holders), walk.truncated) == ({}, True)
