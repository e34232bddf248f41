"""Running containers and what is installed in them: real namespaces on a machine that is a tree otherwise."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import lzma
import os
from pathlib import Path

import msgspec

from agent.config import Config
from agent.facts.containers import Containers, containers
from agent.host import Host
from tests.fakes.containers import a_machine, appear, contained, needs_root
from tests.fakes.trees import plant

ONE, OTHER, THIRD = "1" * 64, "2" * 64, "3" * 64
DIGEST = "sha256:" + "a" * 64
SITE = "/usr/lib/python3/dist-packages"
IMAGE = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "/var/lib/dpkg/status": "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2.13\n\n",
    f"{SITE}/torch-2.6.0.dist-info/METADATA": "Name: torch\nVersion: 2.6.0\n",
    "/opt/conda/lib/python3.11/site-packages/numpy-2.0.dist-info/METADATA": "Name: numpy\nVersion: 2.0\n",
    "/proc/": "",
}


def known_to_docker(*ids: str, image: str = "trainer", digest: str = DIGEST) -> dict[str, str]:
    return {
        f"/var/lib/docker/containers/{each}/config.v2.json": json.dumps(
            {"Name": f"/name-{each[0]}", "Image": digest, "Config": {"Image": image}}
        )
        for each in ids
    }


@contextlib.contextmanager
def boxes(tmp_path, *ids, files=None):
    """A machine on which containers with these ids run, each in a tree of its own."""
    with contextlib.ExitStack() as stack:
        started = []
        for each in ids:
            plant(tmp_path / each, {**IMAGE, **(files or {})})
            started.append((stack.enter_context(contained(tmp_path / each)), f"/docker/{each}"))
        yield Host(str(a_machine(tmp_path / "machine", *started)))


def look(host: Host, earlier: Containers | None = None) -> Containers:
    return containers(host, Config(), earlier)


def test_a_machine_without_containers_has_none_and_no_gap(tmp_path):
    assert look(Host(str(a_machine(tmp_path)))) == Containers()


@needs_root
def test_what_is_installed_in_a_container_is_read(tmp_path):
    with boxes(tmp_path, ONE) as host:
        plant(tmp_path / "machine", known_to_docker(ONE))
        fact = look(host)
    (seen,) = fact.containers
    assert (seen.place, seen.id, seen.name) == ("container:trainer", ONE, "name-1")
    assert (seen.image, seen.digest, seen.runtime) == ("trainer", DIGEST, "docker")
    assert (seen.release, [deb.name for deb in seen.debs], seen.holds_gpu) == ("debian 12", ["zlib1g"], False)
    assert {(each.path, dist.name) for each in seen.environments for dist in each.distributions} == {
        (SITE, "torch"),
        ("/opt/conda/lib/python3.11/site-packages", "numpy"),
    }
    assert (fact.gaps, fact.unfinished) == ((), False)


@needs_root
def test_a_container_that_no_runtime_knows_goes_by_its_short_id(tmp_path):
    with boxes(tmp_path, ONE) as host:
        (seen,) = look(host).containers
    assert (seen.place, seen.runtime, seen.image) == (f"container:{ONE[:12]}", "docker", "")


@needs_root
def test_copies_of_one_image_are_one_and_different_images_of_one_name_are_two(tmp_path):
    with boxes(tmp_path, ONE, OTHER, THIRD) as host:
        plant(tmp_path / "machine", known_to_docker(ONE, OTHER))
        plant(tmp_path / "machine", known_to_docker(THIRD, digest="sha256:" + "b" * 64))
        places = [seen.place for seen in look(host).containers]
    assert places == ["container:trainer@" + "a" * 12, "container:trainer@" + "b" * 12]


@needs_root
def test_what_did_not_change_is_not_read_again(tmp_path):
    with boxes(tmp_path, ONE) as host:
        first = look(host)
        (before,) = first.containers
        marked = msgspec.structs.replace(before, release="read before")
        (after,) = look(host, msgspec.structs.replace(first, containers=(marked,))).containers
        assert after.release == "read before"
        plant(tmp_path / ONE, {f"{SITE}/ray-2.9.dist-info/METADATA": "Name: ray\nVersion: 2.9\n"})
        (changed,) = look(host, first).containers
    assert "ray" in {dist.name for each in changed.environments for dist in each.distributions}


@needs_root
def test_a_walk_for_new_environments_is_made_every_day(tmp_path):
    with boxes(tmp_path, ONE) as host:
        first = look(host)
        plant(
            tmp_path / ONE,
            {"/opt/new/lib/python3.12/site-packages/ray-2.9.dist-info/METADATA": "Name: ray\nVersion: 2\n"},
        )
        assert look(host, first).containers == first.containers
        assert first.containers[0].walked
        yesterday = first.containers[0].walked - dt.timedelta(days=1, minutes=1)
        old = msgspec.structs.replace(first.containers[0], walked=yesterday)
        (again,) = look(host, Containers(containers=(old,))).containers
    assert len(again.environments) == len(first.containers[0].environments) + 1


@needs_root
def test_a_memory_survives_being_written_down(tmp_path):
    with boxes(tmp_path, ONE) as host:
        first = look(host)
        assert look(host, msgspec.json.decode(msgspec.json.encode(first), type=Containers)) == first


@needs_root
def test_a_hostile_container_shows_nothing_of_the_machine(tmp_path):
    plant(
        tmp_path,
        {"/secret/status": IMAGE["/var/lib/dpkg/status"], "/secret/x-1.dist-info/METADATA": "Name: x\nVersion: 1\n"},
    )
    hostile = {
        "/etc/os-release": f"-> {tmp_path}/secret/status",
        "/var/lib/dpkg": f"-> {tmp_path}/secret",
        SITE: f"-> {tmp_path}/secret",
        "/opt/a/lib/python3.11/site-packages": f"-> ../../../../../../../../{tmp_path}/secret",
        "/home": "-> home",
    }
    plant(tmp_path / ONE, hostile)
    os.mkfifo(tmp_path / ONE / "fifo")
    plant(
        tmp_path / ONE,
        {"/opt/b/lib/python3.11/site-packages/f-1.dist-info/METADATA": "-> /fifo", "/usr/lib/os-release": "-> /fifo"},
    )
    with contained(tmp_path / ONE) as pid:
        (seen,) = look(Host(str(a_machine(tmp_path / "machine", (pid, f"/docker/{ONE}"))))).containers
    assert (seen.release, seen.debs) == ("", ())
    assert [dist.name for each in seen.environments for dist in each.distributions if not dist.problem] == []


@needs_root
def test_what_cannot_be_read_in_a_container_is_a_gap_of_that_container(tmp_path):
    files = {
        "/var/lib/dpkg/status": "Package: a\nStatus: install ok odd\nVersion: 1\n\n",
        "/lib/apk/db/installed": "",
        "/var/lib/rpm/Packages": "",
    }
    with boxes(tmp_path, ONE, files=files) as host:
        fact = look(host)
    place = f"container:{ONE[:12]}"
    assert {gap.scope for gap in fact.gaps} == {f"{place}:deb", f"{place}:apk", f"{place}:rpm"}
    assert fact.gaps == fact.containers[0].gaps


@needs_root
def test_rpm_packages_are_read_in_a_container_too(tmp_path):
    packed = Path(__file__).parent / "data" / "rpmdb.sqlite.xz"
    files = {"/usr/lib/sysimage/rpm/rpmdb.sqlite": lzma.decompress(packed.read_bytes())}
    with boxes(tmp_path, ONE, files=files) as host:
        fact = look(host)
    assert len(fact.containers[0].rpms) > 1
    assert fact.gaps == ()


@needs_root
def test_a_mount_that_may_not_answer_is_named_and_left_out(tmp_path):
    plant(tmp_path / ONE, {**IMAGE, "/opt/data": "-> /fuse"})
    with contained(tmp_path / ONE, "fuse") as pid:
        host = Host(str(a_machine(tmp_path / "machine", (pid, f"/docker/{ONE}"))))
        fact = containers(host, msgspec.convert({"python": {"roots": ["/fuse"]}}, Config), None)
    (gap,) = fact.gaps
    assert (gap.scope, "fuse" in gap.reason) == (f"container:{ONE[:12]}:/fuse", True)
    assert len(fact.containers[0].environments) == 2


@needs_root
def test_a_container_that_ended_leaves_its_copy_to_be_read(tmp_path):
    with boxes(tmp_path, OTHER) as host:
        with contained(tmp_path / OTHER) as ended:
            appear(tmp_path / "machine", ended, f"/docker/{ONE}")
            (tmp_path / "machine" / "proc" / str(ended) / "mountinfo").unlink()
            plant(tmp_path / "machine", {f"/proc/{ended}/mountinfo": "90 80 0:99 / / rw - overlay x rw\n"})
        plant(tmp_path / "machine", known_to_docker(ONE, OTHER))
        (seen,) = look(host).containers
    assert (seen.id, seen.release) == (OTHER, "debian 12")


def test_a_container_that_cannot_be_entered_is_a_gap_and_there_all_the_same(tmp_path):
    tree = {"/proc/1/cgroup": "0::/docker/" + ONE, "/proc/1/mountinfo": "1 1 0:1 / / rw - ext4 x rw\n"}
    tree |= {"/proc/7/cgroup": "0::/docker/" + ONE, "/proc/7/mountinfo": "9 1 0:9 / / rw - overlay x rw\n"}
    tree |= {
        "/proc/7/stat": "7 (x) S " + "0 " * 30,
        "/proc/7/ns/user": "-> user:[1]",
        "/proc/self/ns/user": "-> user:[1]",
    }
    host = plant(tmp_path, {**tree, "/proc/7/root/": ""})
    fact = look(host)
    assert [each.place for each in fact.containers] == [f"container:{ONE[:12]}"]
    assert [gap.scope for gap in fact.gaps] == [f"container:{ONE[:12]}"]
