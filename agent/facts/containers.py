"""Containers: which run, from which images, and what is installed in them.

Read from outside, through the root of a process in there, where everything is hostile. Of several running copies of
one image the first is read and stands for all: what was changed inside another of them is not seen. What did not
change since it was read last is not read again, and a walk for new Python environments is made once a day.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from agent.config import Config
from agent.facts import packages, rpm
from agent.facts.container_processes import Running, holds_gpu, running
from agent.facts.container_stores import Image, Known, stores
from agent.facts.debian_control import STATUS
from agent.facts.machine import parse_os_release
from agent.facts.packages import Package, Packages
from agent.facts.python import Environment, environments
from agent.facts.rpm import DATABASE, RpmPackage, RpmPackages
from agent.host import Host, shown
from agent.host_inside import Inside
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

P = TypeVar("P", Packages, RpmPackages)

_ROOTS = ("/usr", "/opt", "/root", "/home", "/workspace", "/app")
"""Where images keep Python environments, beside the configured places."""
_AT_ONCE = 20
"""So many containers are read in one look, a second or so each; the next look goes on with the others."""
_WALKED = dt.timedelta(days=1)
_SHORT, _DIGEST = 12, 64
"""As Docker shortens an id, and how long one is."""
_RELEASES = ("/etc/os-release", "/usr/lib/os-release")
_RPM = tuple(f"{directory}/{name}" for directory in rpm.DIRECTORIES for name in (DATABASE, f"{DATABASE}-wal"))
_UNREAD = {"/lib/apk/db/installed": "apk", "/var/lib/dpkg/status.d": "deb"}
"""The databases of packages of Alpine and of distroless images, which are not read, and the kind of their packages."""
_GLANCES = (
    "/var/lib/docker/containers",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/containerd/io.containerd.runtime.v2.task/default",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "/run/containerd/io.containerd.runtime.v2.task/moby",
    "/var/lib/containers/storage/overlay-containers/containers.json",
)
"""What changes when a container is started or ended."""


class Container(Value, frozen=True, kw_only=True):
    """A running container and what is installed in it.

    ``place`` is the stable key of it in findings, ``container:IMAGE`` or, of an unknown image, ``container:ID``; where
    one name stands for several images at once, the content follows. ``release`` is ``ID VERSION_ID`` of its
    os-release. Paths of ``environments`` are those inside. ``signature`` is another one when what was read has
    changed, ``walked`` when it was last searched for environments.
    """

    place: str
    id: str
    name: str = ""
    image: str = ""
    digest: str = ""
    runtime: str = ""
    release: str = ""
    debs: tuple[Package, ...] = ()
    rpms: tuple[RpmPackage, ...] = ()
    environments: tuple[Environment, ...] = ()
    holds_gpu: bool = False
    gaps: tuple[Unknown, ...] = ()
    signature: str = ""
    walked: dt.datetime | None = None


class Containers(Fact, frozen=True, kw_only=True):
    """The running containers, one for each image where several are alike, and the images on the disk."""

    containers: tuple[Container, ...] = ()
    images: tuple[Image, ...] = ()


class _Alike(Value, frozen=True, kw_only=True):
    """Running containers that began with the same files, and what is known of them."""

    place: str
    known: Known
    copies: tuple[Running, ...]


def _glance(host: Host, _config: Config) -> tuple[tuple[int, ...], ...]:
    """Whether a container was started or ended."""
    return tuple(map(host.signature, _GLANCES))


@probe(every=dt.timedelta(hours=1), glance=_glance, slow=True)
def containers(host: Host, config: Config, earlier: Containers | None) -> Containers:
    """Running containers, what is installed in them, and images."""
    seen = running(host)
    known = stores(host, {each.id for each in seen})
    remembered = {each.id: each for each in earlier.containers} if earlier else {}
    now = dt.datetime.now(dt.timezone.utc)
    found, left = list[Container](), _AT_ONCE
    for alike in _alike(seen, known.containers):
        host.progress(alike.place)
        container = _look(host, config, alike, remembered, now if left else None)
        if container:
            found.append(container)
            left -= container.walked == now
    gaps = [gap for container in found for gap in container.gaps]
    return Containers(
        containers=tuple(sorted(found, key=lambda container: (container.place, container.id))),
        images=known.images,
        gaps=(*known.gaps, *gaps),
        unfinished=not left,
    )


def _alike(seen: Sequence[Running], known: Mapping[str, Known]) -> Iterator[_Alike]:
    """Group the containers; of several names for one image the first in order is taken."""
    groups: dict[str, list[Running]] = {}
    for each in seen:
        content = known[each.id].content if each.id in known else ""
        groups.setdefault(content or each.id, []).append(each)
    told = {
        key: min((known[each.id] for each in group if each.id in known), key=_spelling, default=None)
        for key, group in groups.items()
    }
    uses = Counter(said.image for said in told.values() if said)
    for key, group in groups.items():
        said = told[key] or Known(runtime=group[0].kind)
        short = shown(key.rpartition(":")[2][:_SHORT]) if len(key) >= _DIGEST else key
        image = f"{said.image}@{short}" if uses[said.image] > 1 else said.image
        yield _Alike(place=f"container:{image if said.image else short}", known=said, copies=tuple(group))


def _spelling(known: Known) -> tuple[str, str]:
    return (known.image, known.name)


def _look(
    host: Host, config: Config, alike: _Alike, remembered: Mapping[str, Container], now: dt.datetime | None
) -> Container | None:
    """One of the copies, the one that was read before if it still runs; None if they all ended.

    Without ``now`` too many were read already, and this one has to wait.
    """
    for copy in sorted(alike.copies, key=lambda copy: copy.id not in remembered):
        container = Container(
            place=alike.place,
            id=copy.id,
            name=alike.known.name,
            image=alike.known.image,
            digest=alike.known.digest,
            runtime=alike.known.runtime,
            holds_gpu=holds_gpu(host, (pid for each in alike.copies for pid in each.pids)),
        )
        try:
            with contextlib.closing(Inside(host, copy.pids[0])) as inside:
                filled = _filled(inside, config, container, remembered.get(copy.id), now)
                if inside.is_same:
                    return filled
        except AbsentError:
            continue  # it ended
        except CannotLookError as error:
            return _unseen(container, error.reason, error.hint)
    return None


def _filled(
    inside: Inside, config: Config, container: Container, before: Container | None, now: dt.datetime | None
) -> Container:
    """The container with what is in it, as it was read before where nothing tells that it changed."""
    if before and before.walked and before.place == container.place:
        is_fresh = now is None or now - before.walked < _WALKED
        if is_fresh and before.signature == _signature(inside, before.environments):
            return msgspec.structs.replace(before, holds_gpu=container.holds_gpu)
    if now is None:
        return _unseen(container, f"only {_AT_ONCE} containers are read at once", "It is read next.")
    gaps = list[Unknown]()
    debs = _installed(lambda: packages.read(inside), f"{container.place}:deb", gaps)
    rpms = _installed(lambda: rpm.read(inside), f"{container.place}:rpm", gaps)
    found, unseen = environments(inside, (*config.python.roots, *_ROOTS), config.python.directories)
    gaps += [_within(f"{container.place}:{gap.scope}" if gap.scope else container.place, gap) for gap in unseen]
    return msgspec.structs.replace(
        container,
        release=_release(inside),
        debs=debs.packages if debs else (),
        rpms=rpms.packages if rpms else (),
        environments=found,
        gaps=(*gaps, *_not_read(inside, container.place)),
        signature=_signature(inside, found),
        walked=now,
    )


def _unseen(container: Container, reason: str, hint: str) -> Container:
    gap = Unknown(reason=reason, hint=hint)
    return msgspec.structs.replace(container, gaps=(_within(container.place, gap),))


def _within(scope: str, gap: Unknown) -> Unknown:
    """A gap of something in a container, said of the container."""
    return Unknown(reason=f"in {scope}: {gap.reason}", hint=gap.hint, scope=scope)


def _release(inside: Inside) -> str:
    for path in _RELEASES:
        with contextlib.suppress(CannotLookError):
            fields = parse_os_release(inside.text(path, limit=65536))
            return shown(f"{fields.get('ID', '')} {fields.get('VERSION_ID', '')}".strip())
    return ""


def _installed(read: Callable[[], P], scope: str, gaps: list[Unknown]) -> P | None:
    """The packages of one kind; None where there are none, or none that can be read, which is a gap."""
    try:
        seen = read()
    except AbsentError:
        return None
    except CannotLookError as error:
        gaps.append(_within(scope, Unknown(reason=error.reason, hint=error.hint)))
        return None
    gaps += [_within(scope, gap) for gap in seen.gaps]
    return seen


def _not_read(inside: Inside, place: str) -> Iterator[Unknown]:
    """Databases of packages that are there and that nobody reads."""
    for path, kind in _UNREAD.items():
        with contextlib.suppress(CannotLookError):
            if inside.exists(path):
                yield _within(
                    f"{place}:{kind}",
                    Unknown(
                        reason=f"the packages in {path} are not read", hint="Scan the image before it is deployed."
                    ),
                )


def _signature(inside: Inside, found: Sequence[Environment]) -> str:
    """What is another one when packages were installed, removed or changed since."""
    paths = (*_RELEASES, STATUS, *_RPM, *(each.path for each in found))
    return hashlib.sha256(repr([inside.signature(path) for path in paths]).encode()).hexdigest()[:32]
