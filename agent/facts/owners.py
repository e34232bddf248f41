"""Who holds a socket and who that process is: its names, its systemd unit, its container.

Never its command line or environment, which hold secrets.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping

from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Value


class Placement(Value, frozen=True, kw_only=True):
    """Where control groups put a process. ``unit`` is the innermost systemd unit; the rest is empty on the host."""

    unit: str = ""
    container_kind: str = ""
    container: str = ""


class Owner(Value, frozen=True, kw_only=True):
    """One process: the name that it gives itself, its program, and where it runs."""

    pid: int
    process: str
    executable: str
    placement: Placement


def owner(host: Host, pid: int) -> Owner:
    """What can be seen of a process; a part that it or the system does not show is empty."""
    process, executable, groups = b"", "", ""
    with contextlib.suppress(CannotLookError):
        process = host.read(f"/proc/{pid}/comm", limit=4096).removesuffix(b"\n")
    with contextlib.suppress(CannotLookError):
        executable = host.link(f"/proc/{pid}/exe")
    with contextlib.suppress(CannotLookError):
        groups = host.text(f"/proc/{pid}/cgroup", limit=65536)
    return Owner(pid=pid, process=shown(process), executable=shown(executable), placement=parse_cgroup(groups))


_DESCRIPTORS = 500_000
"""At most so many open files are looked at in one walk, which is seconds; any user may open as many."""


class Walk(Value, frozen=True, kw_only=True):
    """The process that holds each socket, by inode, and what was left out.

    ``unreadable`` says that some processes may not be looked into, ``truncated`` that there were too many files.
    """

    holders: Mapping[int, int]
    unreadable: bool
    truncated: bool


def find_holders(host: Host, inodes: Collection[int], pids: Iterable[int]) -> Walk:
    """Look for sockets through the open files of processes, up to the last socket found.

    Of several holders the oldest counts: it opened the socket, children that inherit it come and go. Process 1 is
    asked last, because it also holds the sockets of systemd's socket units.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    holders: dict[int, int] = {}
    unreadable, left = False, _DESCRIPTORS
    for pid in sorted(pids, key=lambda each: (each == 1, each)):
        if not wanted or not left:
            break
        try:
            for target in itertools.islice(host.descriptors(pid), left):
                left -= 1
                inode = wanted.pop(target, None)
                if inode is not None:
                    holders[inode] = pid
        except AbsentError:
            continue  # it ended
        except CannotLookError:
            unreadable = True
    return Walk(holders=holders, unreadable=unreadable, truncated=bool(wanted) and not left)


_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_UNIT = re.compile(r"[^/]+\.(?:service|scope|slice)")
_KINDS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("nerdctl", "containerd"),
)
"""What the path says when a container runtime made it; Kubernetes first, for it names the runtime below itself."""


def parse_cgroup(text: str) -> Placement:
    """The placement that a /proc/PID/cgroup file tells, of version 1, 2 or both at once.

    Format: https://man7.org/linux/man-pages/man7/cgroups.7.html. Paths of systemd:
    https://systemd.io/CGROUP_DELEGATION/
    """
    unit, kind, container = "", "", ""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        hierarchy, _, path = rest.partition(":")
        if hierarchy in {"", "name=systemd"} and not unit:
            unit = next((part for part in reversed(path.split("/")) if _UNIT.fullmatch(part)), "")
        # libpod-conmon is the process beside a Podman container that watches it, on the host.
        if not container and "conmon" not in path and (match := _CONTAINER.search(path)):
            container = match[1][:12]
            kind = next((name for mark, name in _KINDS if mark in path), "container")
    return Placement(unit=shown(unit), container_kind=kind, container=container)


def parse_passwd(content: bytes) -> dict[int, str]:
    """User names by number; of several names for one number the first, as the C library answers."""
    names: dict[int, str] = {}
    for line in content.splitlines():
        fields = line.split(b":")
        if len(fields) == 7 and fields[2].isdigit() and len(fields[2]) <= 10:  # noqa: PLR2004 -- passwd(5), 32 bits
            names.setdefault(int(fields[2]), shown(fields[0]))
    return names
