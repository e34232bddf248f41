"""Which processes are in containers, by their control groups and their roots."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.container_processes import holds_gpu, parse_cgroup, running
from agent.host import Host
from tests.fakes.containers import a_machine, contained, needs_root
from tests.fakes.trees import plant

ONE, OTHER = "1" * 64, "2" * 64
OWN = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n"
SERVICE = "90 80 8:1 / / rw - ext4 /dev/sda1 rw\n91 90 0:50 / /tmp rw - tmpfs tmpfs rw\n"


def a_root(device: str, source: str = "/", kind: str = "overlay") -> str:
    return f"90 80 {device} {source} / rw - {kind} x rw\n"


def processes(*each: tuple[int, str, str, int]) -> dict[str, str]:
    """Files of processes: id, control group, mounts, when they were started."""
    tree = {}
    for pid, group, mounts, started in ((1, "/init.scope", OWN, 1), *each):
        tree[f"/proc/{pid}/cgroup"] = f"12:pids:{group}\n0::{group}\n"
        tree[f"/proc/{pid}/mountinfo"] = mounts
        tree[f"/proc/{pid}/stat"] = f"{pid} (a) b) S {' '.join(['0'] * 18)} {started} 0 0"
        tree[f"/proc/{pid}/ns/mnt"] = f"-> mnt:[{hash(mounts)}]"
    return tree


def found(tmp_path, *each):
    return [(seen.id, seen.kind, seen.pids) for seen in running(plant(tmp_path, processes(*each)))]


def test_a_machine_without_containers_has_none(tmp_path):
    assert found(tmp_path, (9, "/user.slice/session-1.scope", OWN, 5)) == []


@pytest.mark.parametrize(
    ("group", "mounts"),
    [
        ("/system.slice/web.service", SERVICE),
        ("/system.slice/chroot.service", "91 90 0:50 / /tmp rw - tmpfs tmpfs rw\n"),
        (f"/system.slice/docker-{ONE}.scope", SERVICE),
        ("/user.slice/sandbox.scope", a_root("0:60", kind="tmpfs")),
        ("/system.slice/snap.lxd.daemon.service", a_root("7:3", kind="squashfs")),
        ("/", a_root("0:6", kind="devtmpfs")),
        ("/system.slice/odd.service", ""),
    ],
    ids=["PrivateTmp", "chroot", "the runtime's own helper", "bubblewrap", "snap", "kernel thread", "no mounts"],
)
def test_what_is_kept_from_much_is_no_container(tmp_path, group, mounts):
    assert found(tmp_path, (9, group, mounts, 5)) == []


def test_the_processes_of_a_container_are_together_the_oldest_first(tmp_path):
    group = f"/system.slice/docker-{ONE}.scope"
    seen = found(tmp_path, (9, group, a_root("0:60"), 50), (70, group, a_root("0:60"), 40), (71, "/x", OWN, 1))
    assert seen == [(ONE, "docker", (70, 9))]


def test_containers_are_apart_even_where_nobody_knows_their_maker(tmp_path):
    seen = found(
        tmp_path,
        (9, f"/docker/{ONE}", a_root("0:60"), 50),
        (10, f"/docker/{OTHER}/init.scope", a_root("0:61"), 50),
        (11, "/default/job", a_root("0:62"), 50),
        (12, "/system.slice/image.service", a_root("8:1", "/var/lib/image", "ext4"), 50),
        (13, "/", a_root("8:1", "/srv/tree", "ext4"), 50),
    )
    assert seen == [
        ("/srv/tree", "", (13,)),
        (ONE, "docker", (9,)),
        (OTHER, "docker", (10,)),
        ("image", "", (12,)),
        ("job", "", (11,)),
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{ONE}", (ONE, "docker")),
        (f"/system.slice/docker-{ONE}.scope", (ONE, "docker")),
        (f"/docker/{ONE}/docker/{OTHER}", (OTHER, "docker")),
        (f"/machine.slice/libpod-{ONE}.scope/container", (ONE, "podman")),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ONE}.scope", (ONE, "podman")),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-{ONE}.scope",
            (ONE, "kubernetes"),
        ),
        (f"/kubepods/besteffort/pod1/{ONE}", (ONE, "kubernetes")),
        (f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ONE}", (ONE, "kubernetes")),
        (f"/system.slice/crio-{ONE}.scope", (ONE, "cri-o")),
        (f"/default/nerdctl-{ONE}.scope", (ONE, "containerd")),
        ("/machine.slice/systemd-nspawn@web.service/payload", ("web", "systemd-nspawn")),
        ("/machine.slice/machine-we\\x2db.scope/payload/init.scope", ("we\\\\x2db", "systemd-nspawn")),
        ("/lxc.payload.box/system.slice", ("box", "lxc")),
        ("/lxc/box", ("box", "lxc")),
        ("/user.slice/user-1000.slice/session-3.scope", None),
        ("/", None),
        (f"/docker/{'g' * 64}", None),
    ],
)
def test_control_groups_of_both_versions_are_understood(path, expected):
    assert parse_cgroup(f"0::{path}\n") == expected
    assert parse_cgroup(f"9:name=systemd:{path}\n8:pids:{path}\n0::/\n") == expected


@given(st.text(max_size=300))
def test_any_text_is_a_control_group_without_an_error(text):
    seen = parse_cgroup(text)
    assert seen is None or all(part.isprintable() for part in seen)


def test_a_process_that_ends_meanwhile_is_left_out(tmp_path):
    host = plant(tmp_path, {**processes((9, f"/docker/{ONE}", a_root("0:60"), 1)), "/proc/12/": ""})
    assert [seen.id for seen in running(host)] == [ONE]


def test_a_process_with_a_device_of_nvidias_holds_a_gpu(tmp_path):
    host = plant(tmp_path, {"/proc/5/fd/3": "-> /dev/nvidia0", "/proc/6/fd/3": "-> /dev/null", "/proc/7/fd/": ""})
    assert [holds_gpu(host, pids) for pids in ((5,), (6, 5), (6,), (7, 8), ())] == [True, True, False, False, False]


@needs_root
def test_a_real_container_is_told_from_this_machine(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with contained(root) as pid:
        machine = a_machine(tmp_path / "machine", (pid, f"/docker/{ONE}"), (os.getpid(), f"/docker/{OTHER}"))
        assert [(seen.id, seen.pids) for seen in running(Host(str(machine)))] == [(ONE, (pid,))]
