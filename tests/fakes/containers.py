"""A process in another root of its own, as a container's: real namespaces, made by the kernel; needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace and look into it")

_BOX = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind, flags, options=None):
    done(libc.mount(source.encode(), target.encode(), kind.encode(), flags, options and options.encode()))
NEWNS, NEWUSER, BIND, REC, PRIVATE, DETACH = 0x20000, 0x10000000, 4096, 16384, 1 << 18, 2
root, kind, mounts = sys.argv[1], sys.argv[2], sys.argv[3:]
fuse = os.open("/dev/fuse", os.O_RDWR) if "fuse" in mounts else -1
done(libc.unshare(NEWNS | (NEWUSER if kind == "users" else 0)))
mount("none", "/", "none", REC | PRIVATE)
if kind == "users":
    mount("lower", root, "overlay", 0, f"lowerdir={root}/usr:{root}/etc,userxattr")
else:
    mount(root, root, "none", BIND | REC)
for each in mounts:
    os.makedirs(f"{root}/{each}", exist_ok=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0" if each == "fuse" else None
    mount(each, f"{root}/{each}", each, 0, options)
os.chdir(root)
done(libc.syscall(155, b".", b"."))
done(libc.umount2(b".", DETACH))
os.chdir("/")
print("ready", flush=True)
sys.stdin.read()
"""
"""Arguments: the root, ``host`` or ``users`` for a user namespace of its own, and the types of file systems to mount,
each on a directory of its name. A FUSE mount has a server that never answers. 155 is pivot_root on x86-64.

https://man7.org/linux/man-pages/man2/pivot_root.2.html
"""


@contextlib.contextmanager
def contained(root: Path, *mounts: str, kind: str = "host") -> Iterator[int]:
    """The id of a process that sees ``root`` as ``/``, as long as the block lasts."""
    command = [sys.executable, "-S", "-c", _BOX, str(root), kind, *mounts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        if process.stdout.readline() != b"ready\n":
            pytest.skip(f"no mount namespace here: {process.stderr.read().decode()[-200:]}")
        try:
            yield process.pid
        finally:
            process.kill()


def appear(machine: Path, pid: int, cgroup: str = "") -> None:
    """Let a real process appear on a machine that is a tree otherwise, in a control group of one's choice."""
    place = machine / "proc" / str(pid)
    place.mkdir(parents=True)
    for name in ("root", "ns", "stat", "mounts", "mountinfo", "fd"):
        (place / name).symlink_to(f"/proc/{pid}/{name}")
    (place / "cgroup").write_text(f"0::{cgroup}\n")


def a_machine(root: Path, *containers: tuple[int, str]) -> Path:
    """The tree of a machine on which these processes are in these control groups, beside its own first process."""
    appear(root, 1, "/init.scope")
    (root / "proc" / "self").symlink_to("/proc/self")
    for pid, cgroup in containers:
        appear(root, pid, cgroup)
    return root
