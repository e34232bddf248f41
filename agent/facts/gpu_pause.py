"""Whether NVML may be asked now: not while an operator or a package manager is at work, and seldom at rest."""

from __future__ import annotations

import datetime as dt
import os
import time

from agent.host import Host
from agent.model import AbsentError, CannotLookError, Unknown

RELEASE = "/run/dlvmguard/gpu-release"
"""Until when an operator wants the GPUs left alone: a time of CLOCK_BOOTTIME, and the same as the wall clock had it."""
LONGEST_RELEASE = dt.timedelta(days=1)
# What a package manager locks while it changes packages: https://manpages.debian.org/stable/dpkg/dpkg.1.en.html,
# https://rpm-software-management.github.io/rpm/man/rpm.8
_PACKAGE_LOCKS = {"dpkg": "/var/lib/dpkg/lock", "rpm": "/var/lib/rpm/.rpm.lock"}


def uptime() -> float:
    """Seconds since the machine started, on a clock that goes on while it sleeps and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot(host: Host) -> str:
    """Which start of the machine this is; empty where the kernel does not say."""
    try:
        return host.line("/proc/sys/kernel/random/boot_id")[:36]
    except CannotLookError:
        return ""


def release_text(until: float, wall: dt.datetime) -> str:
    """What is written to release the GPUs."""
    return f"{until:.0f} {wall:%Y-%m-%dT%H:%M:%SZ}\n"


def released(host: Host) -> str:
    """Until when an operator wants the GPUs left alone, as a time to show; empty when not, or not any more."""
    try:
        until, _, wall = host.line(RELEASE).partition(" ")
        left = float(until) - uptime()
        shown = dt.datetime.strptime(wall, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
    except (CannotLookError, ValueError):
        return ""  # whatever else lies there must not blind us
    return f"{shown:%Y-%m-%d %H:%M} UTC" if 0 < left <= LONGEST_RELEASE.total_seconds() else ""


def pause(host: Host) -> Unknown | None:
    """Why NVML is to be left alone now, if it is."""
    if until := released(host):
        return Unknown(reason=f"paused by the operator until {until}", hint="End it with sudo dlvmguard gpu resume.")
    if name := _package_manager(host):
        return Unknown(reason=f"{name} is changing packages, so NVML is left alone", hint="It is asked again later.")
    return None


def _package_manager(host: Host) -> str:
    """Which package manager is at work: whoever changes packages has a lock for writing, which the kernel lists."""
    try:
        locks = [line.split() for line in host.text("/proc/locks").splitlines()]
    except CannotLookError:
        return ""
    # "1: POSIX  ADVISORY  WRITE 4711 08:01:262153 0 EOF": https://man7.org/linux/man-pages/man5/proc_locks.5.html
    held = {fields[5] for fields in locks if len(fields) > 5 and fields[3] == "WRITE"}  # noqa: PLR2004 -- see above
    for name, path in _PACKAGE_LOCKS.items():
        try:
            seen = host.stat(path)
        except CannotLookError:
            continue
        if f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}" in held:
            return name
    return ""


def in_use(host: Host) -> bool:
    """Whether a CUDA program has the GPUs open: it holds nvidia-uvm, of which the kernel counts the users.

    Nothing is opened or woken to find out. What cannot be read counts as use.
    """
    try:
        return host.line("/sys/module/nvidia_uvm/refcnt") != "0"
    except AbsentError:
        return False
    except CannotLookError:
        return True
