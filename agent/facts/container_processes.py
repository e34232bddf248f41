"""Which processes are in containers: by the control group that a runtime made, or by a root of another file system."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from agent.host import MEBIBYTE, Host, shown
from agent.host_inside import parse_mountinfo
from agent.model import AbsentError, CannotLookError, Value

_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_KINDS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("crio", "cri-o"),
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("nerdctl", "containerd"),
)
"""What the path says when a container runtime made it; Kubernetes first, for it names the runtime below itself."""
_MACHINES = (
    # https://www.freedesktop.org/software/systemd/man/latest/systemd-nspawn.html
    (re.compile(r"/systemd-nspawn@([^/]+)\.service(?=/|$)"), "systemd-nspawn"),
    (re.compile(r"/machine\.slice/machine-([^/]+)\.scope(?=/|$)"), "systemd-nspawn"),
    # https://linuxcontainers.org/lxc/manpages/man5/lxc.container.conf.5.html
    (re.compile(r"(?:^|/)lxc(?:\.payload\.|/)([^/]+)"), "lxc"),
)
_SANDBOXES = {"tmpfs", "ramfs", "rootfs", "devtmpfs"}
"""A root in memory is a sandbox around programs of the machine, as bubblewrap makes it, or a thread of the kernel's."""
_SNAP = re.compile(r"/snap\.[^/]+\.(?:service|scope)(?=/|$)")
"""Programs of snaps see the snap's base as their root; they are known as snaps."""
_HELD = 200_000
"""At most so many open files are looked at for those of a GPU, which is a second or two; anybody may open as many."""
_START_FIELD = 19
"""Of what follows the name in /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""


class Running(Value, frozen=True, kw_only=True):
    """A running container: its id as its runtime or its control group tells, and its processes, the oldest first."""

    id: str
    kind: str
    pids: tuple[int, ...]


class Root(Value, frozen=True, kw_only=True):
    """What a process sees as ``/``: which directory on which device, and the type of the file system."""

    device: str
    source: str
    kind: str


def running(host: Host) -> tuple[Running, ...]:
    """The containers that run, by id. What shares the root of the machine is none, whatever else it is kept from."""
    own = _root(host, 1)
    roots: dict[str, Root | None] = {}
    found: dict[tuple[str, str], list[int]] = {}
    for pid in host.processes():
        try:
            key = _container(host, pid, own, roots)
        except AbsentError:
            continue  # it ended
        if key:
            found.setdefault(key, []).append(pid)
    return tuple(
        Running(id=name, kind=kind, pids=tuple(sorted(pids, key=lambda pid: (_age(host, pid), pid))))
        for (name, kind), pids in sorted(found.items())
    )


def containing(host: Host) -> Callable[[int], tuple[str, str] | None]:
    """What tells the id and the kind of the container that a process is in, if any, for the time of one look."""
    own, roots = None, dict[str, Root | None]()
    with contextlib.suppress(AbsentError):
        own = _root(host, 1)
    if own is None:  # not ours to look into: only known runtimes can be told
        return lambda pid: parse_cgroup(host.text(f"/proc/{pid}/cgroup", limit=65536))
    return lambda pid: _container(host, pid, own, roots)


def holds_gpu(host: Host, pids: Iterable[int]) -> bool:
    """Whether one of the processes has a device of NVIDIA's open. One that may not be looked into tells nothing."""
    return any(target.startswith("/dev/nvidia") for target in itertools.islice(_held(host, pids), _HELD))


def _held(host: Host, pids: Iterable[int]) -> Iterator[str]:
    for pid in pids:
        with contextlib.suppress(CannotLookError):
            yield from host.descriptors(pid)


def _container(host: Host, pid: int, own: Root | None, roots: dict[str, Root | None]) -> tuple[str, str] | None:
    """The id and the kind of the container that a process is in; None where it is in none."""
    groups = host.text(f"/proc/{pid}/cgroup", limit=65536)
    namespace = ""
    with contextlib.suppress(CannotLookError):
        namespace = host.link(f"/proc/{pid}/ns/mnt")
    if not namespace or namespace not in roots:
        roots[namespace] = _root(host, pid)
    root = roots[namespace]
    if root is None or root == own:
        return None
    return parse_cgroup(groups) or _of_unknown_make(groups, root)


def parse_cgroup(text: str) -> tuple[str, str] | None:
    """The id and the kind of container that a /proc/PID/cgroup file tells; of one in another the inner one.

    Format: https://man7.org/linux/man-pages/man7/cgroups.7.html
    """
    for line in text.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        if ids := _CONTAINER.findall(path):
            return ids[-1], next((kind for mark, kind in _KINDS if mark in path), "")
        for pattern, kind in _MACHINES:
            if match := pattern.search(path):
                return shown(match[1]), kind
    return None


def _of_unknown_make(groups: str, root: Root) -> tuple[str, str] | None:
    """A container of which no pattern is known goes by its control group, as those made with ctr do."""
    path = max((line.partition(":")[2].partition(":")[2] for line in groups.splitlines()), key=len, default="")
    if root.kind in _SANDBOXES or _SNAP.search(path):
        return None
    name = path.rpartition("/")[2].removesuffix(".service").removesuffix(".scope")
    return shown(name or root.source), ""


def _root(host: Host, pid: int) -> Root | None:
    """Where the root of a process is, by its mounts, without a question to the file system; None if it is no mount."""
    try:
        mounts = parse_mountinfo(host.read(f"/proc/{pid}/mountinfo", limit=16 * MEBIBYTE))
    except AbsentError:
        raise
    except CannotLookError:
        return None  # a kernel thread, or a process that just ends
    top = [mount for mount in mounts if mount.place == "/"]
    return Root(device=top[-1].device, source=top[-1].source, kind=top[-1].kind) if top else None


def _age(host: Host, pid: int) -> int:
    """When a process was started, since the boot; one that ended meanwhile comes last."""
    with contextlib.suppress(AbsentError, IndexError, ValueError):
        return int(host.line(f"/proc/{pid}/stat").rpartition(")")[2].split()[_START_FIELD])
    return 1 << 64
