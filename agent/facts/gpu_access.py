"""Who gets at GPUs past the driver: containers, clients of the Multi-Process Service, and helpers that root runs."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

import msgspec

from agent.facts.gpu import DRIVER_SUBJECT, parse_fields
from agent.facts.gpu_files import TrustedFile, first_root, trusted
from agent.facts.nvidia_container_toolkit import CONFIGURATION, SPECIFICATIONS, SUBJECT
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown

MPS = "/tmp/nvidia-mps"  # noqa: S108 -- looked at, never written: https://docs.nvidia.com/deploy/mps/index.html
DOCKER = "/etc/docker/daemon.json"
_PROGRAMS = (
    "nvidia-cdi-hook",
    "nvidia-container-cli",
    "nvidia-container-runtime",
    "nvidia-container-runtime-hook",
    "nvidia-ctk",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-modprobe",
    "nvidia-persistenced",
)
_CAPABILITIES = ("mig/config", "fabric-mgmt")
"""What may change how GPUs are cut up or joined; the others only show, or open one instance:
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/device-nodes-and-capabilities.html"""
_MANY = 1000
_PEOPLE = range(1000, 60_000)
"""The numbers that Debian gives to people: https://www.debian.org/doc/debian-policy/ch-opersys.html#uid-and-gid-classes"""
_NO_SHELL = re.compile(rb"|.*/(?:nologin|false)")


class GpuAccess(Fact, frozen=True, kw_only=True):
    """Who gets at GPUs, and by what. ``trusted`` is what root runs or obeys.

    ``mps`` is the directory in which CUDA programs look for the Multi-Process Service, where one waits. ``managing``
    are the device nodes that let their openers change how GPUs are cut up. ``default_runtime`` is that of Docker;
    ``people`` how many accounts with a shell the machine itself knows.
    """

    trusted: tuple[TrustedFile, ...] = ()
    mps: TrustedFile | None = None
    managing: tuple[str, ...] = ()
    default_runtime: str = ""
    people: int = 0


def look(host: Host) -> GpuAccess:
    """Who gets at the GPUs of a machine that has some."""
    gaps: list[Unknown] = []
    paths = (*(f"/usr/bin/{name}" for name in _PROGRAMS), CONFIGURATION, DOCKER, *_specifications(host, gaps))
    return GpuAccess(
        trusted=tuple(each for path in paths if (each := trusted(host, path, gaps))),
        mps=_mps(host, gaps),
        managing=tuple(_managing(host, gaps)),
        default_runtime=_default_runtime(host, gaps),
        people=_people(host, gaps),
        gaps=tuple(gaps),
    )


def _read(host: Host, path: str, gaps: list[Unknown], *, scope: str) -> bytes:
    """A file, which may be missing; where it cannot be read nothing is known of ``scope``."""
    try:
        return host.read(path)
    except AbsentError:
        return b""
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=scope))
        return b""


def _specifications(host: Host, gaps: list[Unknown]) -> Iterator[str]:
    """The directories of device specifications, with what lies in them."""
    for directory in SPECIFICATIONS:
        try:
            entries = host.entries(directory, limit=_MANY)
        except AbsentError:
            continue
        except CannotLookError as error:
            gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=directory))
            continue
        yield directory
        yield from (each.path for each in entries if each.name.endswith((".json", ".yaml", ".yml")))


def _mps(host: Host, gaps: list[Unknown]) -> TrustedFile | None:
    """The directory, or a link in its place, if something waits for clients there; links are not followed."""
    root = first_root(host)
    try:
        seen = host.stat(f"{root}{MPS}", follow=False)
        host.stat(f"{root}{MPS}/control", follow=False)
    except AbsentError:
        return None
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=MPS))
        return None
    # Whatever the mode of a link says, who owns it decides in /tmp.
    mode = 0o700 if stat.S_ISLNK(seen.st_mode) else stat.S_IMODE(seen.st_mode)
    return TrustedFile(path=MPS, owner=seen.st_uid, group=seen.st_gid, mode=mode)


def _managing(host: Host, gaps: list[Unknown]) -> Iterator[str]:
    for name in _CAPABILITIES:
        content = _read(host, f"/proc/driver/nvidia/capabilities/{name}", gaps, scope="/dev/nvidia-caps")
        minor = parse_fields(content.decode("utf-8", "replace")).get("DeviceFileMinor", "")
        if re.fullmatch(r"\d{1,8}", minor, re.ASCII):
            yield f"/dev/nvidia-caps/nvidia-cap{minor}"


class _Docker(msgspec.Struct, rename="kebab"):
    default_runtime: str = ""


def _default_runtime(host: Host, gaps: list[Unknown]) -> str:
    content = _read(host, DOCKER, gaps, scope=SUBJECT)
    try:
        return shown(msgspec.json.decode(content, type=_Docker).default_runtime) if content.strip() else ""
    except (msgspec.DecodeError, ValueError, RecursionError):
        gaps.append(Unknown(reason=f"{DOCKER} is not a configuration of Docker", scope=SUBJECT))
        return ""


def _people(host: Host, gaps: list[Unknown]) -> int:
    return count_people(_read(host, "/etc/passwd", gaps, scope=DRIVER_SUBJECT))


def count_people(content: bytes) -> int:
    """How many accounts of people, with a shell, there are in a file as /etc/passwd."""
    found = set()
    for line in content.splitlines():
        fields = line.split(b":")
        if len(fields) == 7 and re.fullmatch(rb"\d{1,10}", fields[2]) and not _NO_SHELL.fullmatch(fields[6].strip()):  # noqa: PLR2004 -- passwd(5)
            found.add(int(fields[2]))
    return sum(uid in _PEOPLE for uid in found)
