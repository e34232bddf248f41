"""Files that the GPU stack trusts, and who may change them."""

from __future__ import annotations

import contextlib
import stat

from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_STAFF = 50
"""Debian gives /usr/local to this group, in which nobody is:
https://www.debian.org/doc/debian-policy/ch-opersys.html#site-specific-programs"""


class TrustedFile(Value, frozen=True, kw_only=True):
    """A file or directory on which root relies, and who may do what with it."""

    path: str
    owner: int
    group: int
    mode: int

    @property
    def writers(self) -> str:
        """Who besides root may change it, in words; empty where nobody may."""
        if self.mode & stat.S_IWOTH:
            return "every user"
        if self.owner:
            return f"the user {self.owner}"
        if self.mode & stat.S_IWGRP and self.group not in {0, _STAFF}:
            return f"the group {self.group}"
        return ""

    @property
    def is_private(self) -> bool:
        """Whether only root may read it."""
        return not (self.owner or self.mode & stat.S_IROTH or (self.mode & stat.S_IRGRP and self.group))


def trusted(host: Host, path: str, gaps: list[Unknown], *, root: str = "", follow: bool = True) -> TrustedFile | None:
    """Who may change what a path, below ``root``, leads to; None where there is nothing, or where that is a gap."""
    try:
        seen = host.stat(f"{root}{path}", follow=follow)
    except AbsentError:
        return None
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(path)))
        return None
    return TrustedFile(path=shown(path), owner=seen.st_uid, group=seen.st_gid, mode=stat.S_IMODE(seen.st_mode))


def first_root(host: Host) -> str:
    """What to put before a path to see it as the machine's first process does; nothing where that cannot be.

    Our service has a /tmp of its own, and the kernel's modules are hidden from it.
    """
    with contextlib.suppress(CannotLookError):
        host.stat("/proc/1/root/etc")
        return "/proc/1/root"
    return ""
