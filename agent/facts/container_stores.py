"""What container runtimes keep about images and containers in their own files: names and digests, and no more.

The same files hold environments, labels, mounts and command lines, and so secrets; none of that is decoded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from agent import knowledge
from agent.facts import bolt
from agent.host import MEBIBYTE, Host, shown
from agent.knowledge import DeepLearningContainers
from agent.model import AbsentError, CannotLookError, Unknown, Value

T = TypeVar("T")

_DOCKER = "/var/lib/docker"
_DOCKER_OF_SNAP = "/var/snap/docker/common/var-lib-docker"
_DOCKER_ID = re.compile(r"[0-9a-f]{64}")
_DOCKER_SETTINGS = "/etc/docker/daemon.json"
_CONTAINERD = "/var/lib/containerd"
_CONTAINERD_OF_K3S = "/var/lib/rancher/k3s/agent/containerd"
_CONTAINERD_SETTINGS = "/etc/containerd/config.toml"
_CONTAINERD_FILE = "io.containerd.metadata.v1.bolt/meta.db"
_DOCKERS = b"moby"
"""The namespace in containerd of Docker's own, of which Docker itself keeps more."""
_PODMAN = "/var/lib/containers/storage"
_PODMAN_SETTINGS = "/etc/containers/storage.conf"
_PODMAN_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")
_LARGE = 16 * MEBIBYTE
"""Far more than thousands of images need; it is held in memory while it is read."""
_METAS = 2 * 65536
"""Both descriptions of a bolt database, whatever its page size."""
_WORD = 512
"""A name longer than that is none: https://github.com/opencontainers/distribution-spec/blob/main/spec.md"""


class Image(Value, frozen=True, kw_only=True):
    """An image on the disk. ``names`` as people wrote them, ``digest`` as ``sha256:…`` that names its content.

    Docker's digest is that of the image's configuration, its id; that of the others is its manifest's.
    """

    names: tuple[str, ...]
    digest: str
    runtime: str
    is_deep_learning_container: bool = False


class Known(Value, frozen=True, kw_only=True):
    """What a runtime knows of a container. Those of the same ``content`` began with the same files."""

    runtime: str
    name: str = ""
    image: str = ""
    digest: str = ""
    content: str = ""


class Stores(Value, frozen=True, kw_only=True):
    """All images, the containers by id, and what could not be read."""

    images: tuple[Image, ...] = ()
    containers: Mapping[str, Known] = {}
    gaps: tuple[Unknown, ...] = ()


def stores(host: Host, ids: Collection[str]) -> Stores:
    """What the runtimes of this machine know: all images, and the containers of these ids."""
    looks: tuple[Callable[[], Stores], ...] = (
        lambda: _docker(host, _docker_root(host), ids),
        lambda: _docker(host, _DOCKER_OF_SNAP, ids),
        lambda: _containerd(host, _containerd_root(host)),
        lambda: _containerd(host, _CONTAINERD_OF_K3S),
        lambda: _podman(host, _podman_root(host)),
    )
    found = [_read_or_gap(look) for look in looks]
    images = [image for each in found for image in each.images]
    return Stores(
        images=tuple(sorted(images, key=lambda image: (image.names, image.digest, image.runtime))),
        containers={name: known for each in found for name, known in each.containers.items() if name in ids},
        gaps=tuple(gap for each in found for gap in each.gaps),
    )


def _read_or_gap(look: Callable[[], Stores]) -> Stores:
    try:
        return look()
    except AbsentError:
        return Stores()  # no such runtime here
    except CannotLookError as error:
        # Which image a container is from is part of its key, so nothing is known of any of them.
        return Stores(gaps=(Unknown(reason=error.reason, hint=error.hint, scope="container:"),))


class _DockerSettings(msgspec.Struct):
    """Reference: https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file."""

    root: str = msgspec.field(name="data-root", default="")


class _ContainerdSettings(msgspec.Struct):
    """Reference: https://github.com/containerd/containerd/blob/main/docs/man/containerd-config.toml.5.md."""

    root: str = ""


class _PodmanStorage(msgspec.Struct):
    root: str = msgspec.field(name="graphroot", default="")


class _PodmanSettings(msgspec.Struct):
    """Reference: https://github.com/containers/storage/blob/main/docs/containers-storage.conf.5.md."""

    storage: _PodmanStorage = msgspec.field(default_factory=_PodmanStorage)


def _docker_root(host: Host) -> str:
    with contextlib.suppress(AbsentError):
        return _decoded(host, _DOCKER_SETTINGS, _DockerSettings).root or _DOCKER
    return _DOCKER


def _containerd_root(host: Host) -> str:
    with contextlib.suppress(AbsentError):
        return _decoded(host, _CONTAINERD_SETTINGS, _ContainerdSettings, msgspec.toml.decode).root or _CONTAINERD
    return _CONTAINERD


def _podman_root(host: Host) -> str:
    with contextlib.suppress(AbsentError):
        return _decoded(host, _PODMAN_SETTINGS, _PodmanSettings, msgspec.toml.decode).storage.root or _PODMAN
    return _PODMAN


def _decoded(host: Host, path: str, kind: type[T], decode: Callable[..., T] = msgspec.json.decode) -> T:
    """A file, of which only the fields that the type has are looked at."""
    content = host.read(path, limit=_LARGE)
    try:
        return decode(content, type=kind)
    except (msgspec.DecodeError, ValueError):
        raise CannotLookError(f"{shown(path)} cannot be understood") from None  # the decoder may quote what it read


class _Repositories(msgspec.Struct):
    """Docker's names of images: by repository, then by name, the id of the image."""

    names: dict[str, dict[str, str]] = msgspec.field(name="Repositories", default_factory=dict)


class _DockerImage(msgspec.Struct):
    image: str = msgspec.field(name="Image", default="")


class _DockerContainer(msgspec.Struct):
    """https://github.com/moby/moby/blob/master/daemon/container/container.go."""

    name: str = msgspec.field(name="Name", default="")
    digest: str = msgspec.field(name="Image", default="")
    config: _DockerImage = msgspec.field(name="Config", default_factory=_DockerImage)


def _docker(host: Host, root: str, ids: Collection[str]) -> Stores:
    names: dict[str, list[str]] = {}
    for driver in host.directories(f"{root}/image", follow=True) if host.exists(f"{root}/image") else []:
        with contextlib.suppress(AbsentError):
            repositories = _decoded(host, f"{root}/image/{driver}/repositories.json", _Repositories)
            for name, digest in (pair for each in repositories.names.values() for pair in each.items()):
                names.setdefault(digest, []).append(name)
    containers = {}
    for each in filter(_DOCKER_ID.fullmatch, ids):
        with contextlib.suppress(AbsentError):  # another runtime's
            said = _decoded(host, f"{root}/containers/{each}/config.v2.json", _DockerContainer)
            digest = _word(said.digest)
            containers[each] = Known(
                runtime="docker",
                name=_word(said.name).removeprefix("/"),
                image=_word(said.config.image),
                digest=digest,
                content=digest,
            )
    return Stores(images=_images(names, "docker"), containers=containers)


class _PodmanImage(msgspec.Struct):
    """https://github.com/containers/storage/blob/main/images.go."""

    id: str
    digest: str = ""
    names: tuple[str, ...] | None = None


class _PodmanContainer(msgspec.Struct):
    """https://github.com/containers/storage/blob/main/containers.go."""

    id: str
    image: str = ""
    names: tuple[str, ...] | None = None
    metadata: str = ""


class _PodmanMetadata(msgspec.Struct):
    """What Podman and CRI-O put beside a container, as JSON in a string."""

    image: str = msgspec.field(name="image-name", default="")


def _podman(host: Host, root: str) -> Stores:
    names: dict[str, list[str]] = {}
    containers = {}
    for driver in _PODMAN_DRIVERS:
        images: dict[str, _PodmanImage] = {}
        with contextlib.suppress(AbsentError):
            listed = _decoded(host, f"{root}/{driver}-images/images.json", tuple[_PodmanImage, ...])
            images = {image.id: image for image in listed}
        for image in images.values():
            names.setdefault(image.digest or image.id, []).extend(image.names or ())
        with contextlib.suppress(AbsentError):
            for each in _decoded(host, f"{root}/{driver}-containers/containers.json", tuple[_PodmanContainer, ...]):
                containers[each.id] = _podman_container(each, images.get(each.image))
    return Stores(images=_images(names, "podman"), containers=containers)


def _podman_container(said: _PodmanContainer, image: _PodmanImage | None) -> Known:
    written = ""
    with contextlib.suppress(msgspec.DecodeError, ValueError):
        written = msgspec.json.decode(said.metadata.encode(), type=_PodmanMetadata).image
    names = image.names if image else None
    return Known(
        runtime="podman",
        name=_word((said.names or ("",))[0]),
        image=_word(written or (names or ("",))[0]),
        digest=_word(image.digest if image else ""),
        content=_word(said.image),
    )


def _containerd(host: Host, root: str) -> Stores:
    """Format: https://github.com/containerd/containerd/blob/main/core/metadata/buckets.go."""
    path = f"{root}/{_CONTAINERD_FILE}"
    images: list[Image] = []
    containers: dict[str, Known] = {}
    try:
        database = bolt.read(lambda: host.read(path, limit=_LARGE), lambda: host.read_start(path, limit=_METAS))
        for namespace, inside in _buckets(database.bucket(b"v1")):
            targets = ((name, image.bucket(b"target")) for name, image in _buckets(inside.bucket(b"images")))
            digests = {_text(name): _text(target.value(b"digest")) for name, target in targets if target}
            names: dict[str, list[str]] = {}
            for name, digest in digests.items():
                names.setdefault(digest, []).append(name)
            images += _images(names, "docker" if namespace == _DOCKERS else "containerd")
            if namespace != _DOCKERS:
                containers.update(_containerd_containers(inside, digests))
    except bolt.BoltError as error:
        raise CannotLookError(f"{shown(path)} cannot be understood: {error.reason}") from error
    return Stores(images=tuple(images), containers=containers)


def _containerd_containers(namespace: bolt.Bucket, digests: Mapping[str, str]) -> Iterator[tuple[str, Known]]:
    snapshots = {name: dict(_buckets(inside)) for name, inside in _buckets(namespace.bucket(b"snapshots"))}
    for key, container in _buckets(namespace.bucket(b"containers")):
        image = _text(container.value(b"image"))
        snapshot = snapshots.get(container.value(b"snapshotter"), {}).get(container.value(b"snapshotKey"))
        yield (
            _text(key),
            Known(
                runtime="containerd",
                image=_word(image),
                digest=_word(digests.get(image, "")),
                content=_word(_text(snapshot.value(b"parent")) if snapshot else ""),
            ),
        )


def _buckets(bucket: bolt.Bucket | None) -> Iterator[tuple[bytes, bolt.Bucket]]:
    for name, inside in bucket.items() if bucket else ():
        if isinstance(inside, bolt.Bucket):
            yield name, inside


def _images(names: Mapping[str, Iterable[str]], runtime: str) -> tuple[Image, ...]:
    """Images by digest; one that has a digest for a name, as Kubernetes gives it too, goes by its others."""
    prefixes = knowledge.load(DeepLearningContainers).prefixes
    found = []
    for digest, each in names.items():
        written = tuple(sorted({_word(name) for name in each if not name.startswith("sha256:")} - {""}))
        found.append(
            Image(
                names=written,
                digest=_word(digest),
                runtime=runtime,
                is_deep_learning_container=any(name.startswith(prefixes) for name in written),
            )
        )
    return tuple(found)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _word(text: str) -> str:
    return shown(text[:_WORD])
