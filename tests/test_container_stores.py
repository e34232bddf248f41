"""What Docker, containerd and Podman tell of images and containers; their secrets stay with them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.container_stores import Known, stores
from agent.host import Host
from tests.fakes.trees import plant

ONE, OTHER = "1" * 64, "2" * 64
DIGEST = "sha256:" + "a" * 64
DLC = "gcr.io/deeplearning-platform-release/base-cpu:m129"
META = gzip.decompress((Path(__file__).parent / "data" / "containerd-meta.db.gz").read_bytes())
CONFIG = {
    "ID": ONE,
    "Name": "/web",
    "Image": DIGEST,
    "Path": "serve --token=canary",
    "Config": {"Image": "trainer", "Env": ["SECRET=canary"], "Labels": {"token": "canary"}, "Cmd": ["canary"]},
    "MountPoints": {"/data": {"Source": "/home/canary"}},
}
DOCKER = {
    "/etc/docker/daemon.json": '{"data-root": "/data/docker", "proxies": {"http-proxy": "http://canary@proxy"}}',
    "/data/docker/image/overlay2/repositories.json": json.dumps(
        {"Repositories": {"trainer": {"trainer:latest": DIGEST}, DLC.partition(":")[0]: {DLC: DIGEST, "odd\n:1": "x"}}}
    ),
    f"/data/docker/containers/{ONE}/config.v2.json": json.dumps(CONFIG),
    f"/data/docker/containers/{OTHER}/config.v2.json": json.dumps({**CONFIG, "Name": "/stopped"}),
}
PODMAN = {
    "/var/lib/containers/storage/overlay-images/images.json": json.dumps(
        [{"id": "b" * 64, "digest": DIGEST, "names": ["localhost/trainer:latest"]}, {"id": "c" * 64, "names": None}]
    ),
    "/var/lib/containers/storage/overlay-containers/containers.json": json.dumps(
        [
            {
                "id": ONE,
                "names": ["pod1"],
                "image": "b" * 64,
                "metadata": '{"image-name":"localhost/trainer:latest","labels":{"token":"canary"}}',
            },
            {"id": OTHER, "image": "d" * 64, "metadata": "no JSON"},
        ]
    ),
}


def test_a_machine_without_runtimes_has_nothing_and_no_gap(tmp_path):
    seen = stores(plant(tmp_path, {"/etc/": ""}), {ONE})
    assert (seen.images, seen.containers, seen.gaps) == ((), {}, ())


def test_docker_tells_names_and_digests_of_images_and_of_the_containers_asked_for(tmp_path):
    seen = stores(plant(tmp_path, DOCKER), {ONE})
    assert seen.containers == {ONE: Known(runtime="docker", name="web", image="trainer", digest=DIGEST, content=DIGEST)}
    assert [(image.names, image.digest, image.runtime) for image in seen.images] == [
        ((DLC, "trainer:latest"), DIGEST, "docker"),
        (("odd\\u000a:1",), "x", "docker"),
    ]
    assert seen.gaps == ()


def test_only_googles_own_registries_are_deep_learning_containers(tmp_path):
    names = {
        f"{prefix}/base:1": f"sha256:{number}"
        for number, prefix in enumerate(
            [
                "gcr.io/deeplearning-platform-release",
                "us-docker.pkg.dev/deeplearning-platform-release/gcr.io",
                "nvcr.io/nvidia",
                "gcr.io/deeplearning-platform-released",
                "docker.io/gcr.io/deeplearning-platform-release",
            ]
        )
    }
    text = json.dumps({"Repositories": {"all": names}})
    seen = stores(plant(tmp_path, {"/var/lib/docker/image/vfs/repositories.json": text}), set())
    found = {image.digest: image.is_deep_learning_container for image in seen.images}
    assert found == {f"sha256:{number}": number < 2 for number in range(5)}


def test_containerd_tells_them_from_its_database(tmp_path):
    tree = {"/etc/containerd/config.toml": 'root = "/data/containerd"\n'}
    path = "/data/containerd/io.containerd.metadata.v1.bolt/meta.db"
    seen = stores(plant(tmp_path, {**tree, path: META}), {"job1", "job2", ONE})
    (image,) = seen.images
    assert image.names == ("docker.io/library/trainer:latest", DLC)
    assert (image.runtime, image.is_deep_learning_container) == ("containerd", True)
    assert seen.containers["job1"].image == "docker.io/library/trainer:latest"
    assert seen.containers["job1"].digest == image.digest
    assert seen.containers["job1"].content == seen.containers["job2"].content != ""
    assert seen.gaps == ()


def test_podman_tells_them_from_its_lists(tmp_path):
    seen = stores(plant(tmp_path, PODMAN), {ONE, OTHER})
    assert [(image.names, image.digest) for image in seen.images] == [
        ((), "c" * 64),
        (("localhost/trainer:latest",), DIGEST),
    ]
    assert seen.containers[ONE].image == "localhost/trainer:latest"
    assert (seen.containers[ONE].name, seen.containers[ONE].digest) == ("pod1", DIGEST)
    assert seen.containers[OTHER].image == ""


def test_no_secret_of_a_runtime_becomes_a_fact(tmp_path):
    tree: dict[str, str | bytes] = {**DOCKER, **PODMAN}
    tree["/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"] = META
    assert META.count(b"canary") > 2
    seen = stores(plant(tmp_path, tree), {ONE, OTHER, "job1", "job2"})
    assert b"canary" not in msgspec.json.encode(seen)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/docker/daemon.json",
        "/data/docker/image/overlay2/repositories.json",
        f"/data/docker/containers/{ONE}/config.v2.json",
        "/etc/containerd/config.toml",
        "/etc/containers/storage.conf",
        "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
        "/var/lib/containers/storage/overlay-images/images.json",
        "/var/lib/containers/storage/overlay-containers/containers.json",
    ],
)
@pytest.mark.parametrize(
    "content", [b"", b"[", b'{"data-root": 1, "Image": ["canary"]} = "canary"', b"\xff", b"x = [1"]
)
def test_a_damaged_file_is_a_gap_about_all_containers_and_hides_the_rest_no_more_than_it_must(tmp_path, path, content):
    seen = stores(plant(tmp_path, {**DOCKER, **PODMAN, path: content}), {ONE, OTHER})
    gaps = [gap for gap in seen.gaps if gap.scope == "container:" and "cannot be understood" in gap.reason]
    assert gaps or content == b""  # an empty settings file in TOML says nothing, which is allowed
    assert "canary" not in repr(seen.gaps)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_a_gap(tmp_path):
    host = plant(tmp_path, DOCKER)
    (tmp_path / "data/docker").chmod(0)
    (gap,) = stores(host, {ONE}).gaps
    (tmp_path / "data/docker").chmod(0o700)
    assert (gap.scope, "root" in gap.hint) == ("container:", True)


@given(st.binary(max_size=200))
def test_any_bytes_in_any_list_are_a_gap_or_nothing(tmp_path_factory, content):
    paths = ["/etc/docker/daemon.json", "/var/lib/docker/image/vfs/repositories.json"]
    paths += ["/var/lib/containers/storage/vfs-images/images.json", "/etc/containerd/config.toml"]
    host = plant(tmp_path_factory.mktemp("machine"), dict.fromkeys(paths, content))
    assert isinstance(stores(host, {ONE, "../../etc"}), type(stores(Host("/nowhere"), set())))
