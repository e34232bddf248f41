"""Processes as /proc tells them: what they have mapped, how they were started, where they belong."""

from __future__ import annotations

from collections.abc import Iterable

BOOT = "8f1d0c86-0000-4000-8000-000000000000"
MACHINE: dict[str, str | bytes] = {
    "/proc/sys/kernel/random/boot_id": f"{BOOT}\n",
    "/proc/self/mounts": "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\nbucket /mnt/bucket fuse.gcsfuse rw 0 0\n",
    "/proc/1/root": "-> ../..",
    "/proc/1/exe": "-> /usr/lib/systemd/systemd",
    "/proc/1/maps": "",
    "/proc/1/cmdline": "/sbin/init\0",
}
"""A machine on which nothing but process 1 runs."""
SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"


def mapping(path: str, *, inode: int = 4711, permissions: str = "r-xp") -> str:
    """A line of /proc/PID/maps."""
    return f"7f1b2c000000-7f1b2c021000 {permissions} 00000000 08:01 {inode}                    {path}\n"


def process(
    pid: int,
    *files: str,
    executable: str = "/usr/bin/sleep",
    command: Iterable[str] = (),
    comm: str = "python3",
    cgroup: str = SESSION,
    root: str = "../..",
    descriptors: Iterable[str] = (),
) -> dict[str, str | bytes]:
    """A process that has these files mapped; one that stands as a whole line is taken as it is."""
    lines = (each if each.endswith("\n") else mapping(each) for each in files)
    return {
        f"/proc/{pid}/exe": f"-> {executable}",
        f"/proc/{pid}/root": f"-> {root}",
        f"/proc/{pid}/cwd": "-> /home/ada/work",
        f"/proc/{pid}/comm": f"{comm}\n",
        f"/proc/{pid}/cgroup": cgroup,
        f"/proc/{pid}/cmdline": "".join(f"{word}\0" for word in command or [executable]),
        f"/proc/{pid}/maps": "".join(lines),
        f"/proc/{pid}/fd/0": "-> /dev/null",
        **{f"/proc/{pid}/fd/{number}": f"-> {each}" for number, each in enumerate(descriptors, start=3)},
    }


def distribution(
    environment: str, name: str, *files: str, top_level: str = "", entry_points: str = ""
) -> dict[str, str | bytes]:
    """An installed distribution that says that it brought these files."""
    place = f"{environment}/{name}-1.0.dist-info"
    told = {f"{place}/METADATA": f"Name: {name}\nVersion: 1.0\n"}
    if files:
        told[f"{place}/RECORD"] = "".join(f"{each},sha256=x,1\n" for each in files)
    if top_level:
        told[f"{place}/top_level.txt"] = top_level
    if entry_points:
        told[f"{place}/entry_points.txt"] = entry_points
    return {**told, **{f"{environment}/{each}": "" for each in files if not each.startswith("..")}}
