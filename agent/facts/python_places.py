"""Where Python packages are installed: the directories called site-packages or dist-packages."""

from __future__ import annotations

import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_NAMES = {"site-packages", "dist-packages"}
_ENDINGS = tuple(f"/{name}" for name in _NAMES)
LIBRARY = re.compile(r"/lib(64)?/(python|pypy)\d+(\.\d+)?t?$")
"""A standard library: of what lies in it, only the packages are of interest."""
_PRUNED = {"__pycache__", "node_modules", ".git", ".hg", ".svn"}
"""Never the way to an environment, and large."""
_WIDE = 1000
"""A directory with more directories than this is most likely data; it waits until all others have been searched."""
_GAPS = 100
"""More directories than this that cannot be listed are said in one sentence."""

_KERNEL = {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf"}
"""The kernel's own file systems hold no packages, so leaving them out leaves nothing out."""
_REMOTE = {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "fuse", "fuseblk", "glusterfs", "gpfs", "lustre"}
_REMOTE |= {"nfs", "nfs4", "smb3", "smbfs"}
"""May hang when their server does, may bill for each listing (Cloud Storage FUSE), and belong to other machines too."""
_SYSTEM_OVERLAYS = {"/", "/usr", "/opt"}
"""Where an overlay is the machine itself, in a container or with systemd-sysext, and not a container's.

https://www.freedesktop.org/software/systemd/man/latest/systemd-sysext.html
"""


class Places(Value, frozen=True, kw_only=True):
    """The directories found, as the operating system knows them, and what was not searched."""

    directories: tuple[str, ...]
    gaps: tuple[Unknown, ...]


def find(host: Host, roots: Sequence[str], *, limit: int) -> Places:
    """Walk below ``roots``, shallow directories first and wide ones last, at most ``limit`` directories.

    No link is followed, except where a root itself is one.
    """
    mounts = _mounts(host)
    roots = _distinct(roots)
    found, gaps, cut = list[str](), list[Unknown](), set[str]()
    known, ahead, wide = len(roots), deque(roots), deque[str]()
    while ahead or wide:
        is_put_off = not ahead
        path = wide.popleft() if is_put_off else ahead.popleft()
        if kind := _barring_mount(_mount_above(path, mounts) if path in roots else path, mounts):
            gaps += [] if kind in _KERNEL else [_not_searched(path, kind)]
        elif path.endswith(_ENDINGS):
            found.append(path)
        else:
            below = _below(host, path, gaps, follow=path in roots)
            if len(below) > _WIDE and not is_put_off:
                wide.append(path)
                continue
            room = max(0, limit - known)
            if len(below) > room:
                cut |= {root for root in roots if path == root or path.startswith(_inside(root))}
            ahead += below[:room]
            known += len(below[:room])
    gaps = [*_bounded(gaps), *(_cut(root, limit) for root in sorted(cut))]
    return Places(directories=tuple(sorted(found)), gaps=tuple(gaps))


def _below(host: Host, path: str, gaps: list[Unknown], *, follow: bool) -> list[str]:
    """The directories in this one that the walk goes on to; one that cannot be listed becomes a gap."""
    try:
        names = host.directories(path, follow=follow)
    except AbsentError:
        return []  # a root that this machine does not have, or a directory removed meanwhile
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(path)))
        return []
    if not names:
        return []
    start = _inside(path)
    if LIBRARY.search(path):
        return [start + name for name in names if name in _NAMES]
    pruned = _PRUNED | {"pkgs"} if _is_conda(path, names) else _PRUNED
    return [start + name for name in names if name not in pruned]


def _is_conda(path: str, names: Iterable[str]) -> bool:
    """Whether ``pkgs`` in here is conda's store of unpacked packages, each of which looks like an environment."""
    return not {"conda-meta", "envs"}.isdisjoint(names) or posixpath.basename(path) in {".conda", ".mamba"}


def _inside(path: str) -> str:
    return path if path == "/" else f"{path}/"


def _distinct(roots: Iterable[str]) -> list[str]:
    """The roots in one spelling, without those that lie below another."""
    spelt = sorted({posixpath.normpath(root) for root in roots})
    return [root for root in spelt if not any(root != other and root.startswith(_inside(other)) for other in spelt)]


def _not_searched(path: str, kind: str) -> Unknown:
    return Unknown(
        reason=f"{shown(path)} is not searched for Python environments: it is a mount of type {shown(kind)}",
        hint="Environments on a shared or remote file system are judged where it is local.",
        scope=shown(path),
    )


def _cut(root: str, limit: int) -> Unknown:
    return Unknown(
        reason=f"{shown(root)} was not searched to the end for Python environments: more than {limit} directories",
        hint="Raise python.directories, or name fewer places in python.roots.",
        scope=shown(root),
    )


def _bounded(gaps: list[Unknown]) -> Iterator[Unknown]:
    """The first gaps, and one that stands for the rest and so for everything."""
    yield from gaps[:_GAPS]
    if len(gaps) > _GAPS:
        rest = gaps[_GAPS]
        yield Unknown(reason=f"{len(gaps) - _GAPS} more directories cannot be searched: {rest.reason}", hint=rest.hint)


def _mounts(host: Host) -> dict[str, str]:
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


def _mount_above(path: str, mounts: Mapping[str, str]) -> str:
    """The mount point that holds this path."""
    while path not in mounts and path != "/":
        path = posixpath.dirname(path)
    return path


def _barring_mount(place: str, mounts: Mapping[str, str]) -> str:
    """The type of the file system mounted here, if it is one that the walk does not enter; else empty."""
    kind = mounts.get(place, "")
    if kind == "overlay":
        return "" if place in _SYSTEM_OVERLAYS else kind
    return kind if kind in _KERNEL or kind in _REMOTE or kind.startswith("fuse.") else ""


def barrier(host: Host) -> Callable[[str], str]:
    """Tells of a path the type of the file system that it lies on, if the walk does not enter that; else empty."""
    mounts = _mounts(host)
    return lambda path: _barring_mount(_mount_above(path, mounts), mounts)
