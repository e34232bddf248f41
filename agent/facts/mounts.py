"""Which file systems lie where, and which of them a search for software does not enter."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError

KERNEL = {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf"}
"""The kernel's own file systems hold no packages, so leaving them out leaves nothing out."""
_REMOTE = {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "fuse", "fuseblk", "glusterfs", "gpfs", "lustre"}
_REMOTE |= {"nfs", "nfs4", "smb3", "smbfs"}
"""May hang when their server does, may bill for each listing (Cloud Storage FUSE), and belong to other machines too."""
_DISKS = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"}
_SYSTEM_OVERLAYS = {"/", "/usr", "/opt"}
"""Where an overlay is the machine itself, in a container or with systemd-sysext, and not a container's.

https://www.freedesktop.org/software/systemd/man/latest/systemd-sysext.html
"""
_SYSTEM = ("/boot", "/dev", "/efi", "/etc", "/proc", "/run", "/snap", "/sys", "/tmp", "/var")  # noqa: S108 -- where, not what
"""Where the system itself, containers and sessions mount what nobody would install Python into.

https://refspecs.linuxfoundation.org/FHS_3.0/fhs/index.html
"""


class BarredError(CannotLookError):
    """Something on the way is not passed: at ``place``, a ``link`` or a mount of the type ``kind``."""

    def __init__(self, place: str, kind: str) -> None:
        """Say what bars the way, and where."""
        what = "a symbolic link" if kind == "link" else f"a mount of type {shown(kind)}"
        super().__init__(f"{shown(place)} is {what}, which is not followed")
        self.place = place
        self.kind = kind


def read(host: Host) -> dict[str, str]:
    """The type of the file system at each mount point; of several mounts on one point the last is seen."""
    try:
        return parse_mounts(host.read("/proc/self/mounts", limit=16 * MEBIBYTE))
    except AbsentError:
        if host.is_live:
            raise
        return {}  # a captured tree


def parse_mounts(text: bytes) -> dict[str, str]:
    """Mount points with their types, from /proc/self/mounts; lines of another form are passed over.

    Format: https://man7.org/linux/man-pages/man5/fstab.5.html
    """
    rows = (os.fsdecode(line).split(" ") for line in text.split(b"\n"))
    return {_unescaped(row[1]): row[2] for row in rows if len(row) > 2}  # noqa: PLR2004 -- device, place, type


def _unescaped(place: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)


def above(path: str, mounts: Mapping[str, str]) -> str:
    """The mount point that holds this path."""
    while path not in mounts and path != "/":
        path = posixpath.dirname(path)
    return path


def barring(place: str, mounts: Mapping[str, str]) -> str:
    """The type of the file system mounted here, if it is one that a search does not enter; else empty."""
    kind = mounts.get(place, "")
    if kind == "overlay":
        return "" if place in _SYSTEM_OVERLAYS else kind
    return kind if kind in KERNEL or kind in _REMOTE or kind.startswith("fuse.") else ""


def barrier(host: Host) -> Callable[[str], str]:
    """Tells of a path the type of the file system that it lies on, if a search does not enter that; else empty."""
    mounts = read(host)
    return lambda path: barring(above(path, mounts), mounts)


def pass_to(host: Host, path: str, mounts: Mapping[str, str], *, start: str = "/") -> None:
    """Make sure that a search from ``start``, which may itself be a link, comes to ``path``.

    Raises:
        BarredError: a link or a mount that is not entered lies on the way.
        CannotLookError: part of the way cannot be looked at.
    """
    place = above(start, mounts)
    if kind := barring(place, mounts):
        raise BarredError(place, kind)
    step = start
    for name in filter(None, path[len(start) :].split("/")):
        step = posixpath.join(step, name)
        if kind := barring(step, mounts):
            raise BarredError(step, kind)
        if stat.S_ISLNK(host.stat(step, follow=False).st_mode):
            raise BarredError(step, "link")


def elsewhere(roots: Sequence[str], mounts: Mapping[str, str]) -> Iterator[str]:
    """The mount points of disks and of remote file systems to which no search from these roots comes."""
    searched = (*roots, *_SYSTEM)
    for place, kind in sorted(mounts.items()):
        is_data = kind in _DISKS or kind in _REMOTE or kind.startswith("fuse.")
        # A mount point above a root, as / is, belongs to the system as much as the root does.
        if is_data and not any(is_below(place, top) or is_below(top, place) for top in searched):
            yield place


def is_below(path: str, top: str) -> bool:
    """Whether this is ``top`` or something in it."""
    return path == top or path.startswith(top if top == "/" else f"{top}/")
