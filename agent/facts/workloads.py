"""Workloads: the processes that have a GPU open, whose they are and what they run.

Seen through /proc alone, with no question to the driver. How much of a GPU each takes is NVML's to say, and is
joined to it by ``gpu_usage``. Command lines and environments hold secrets: only what is named in
``told_by_process`` is kept of them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from agent.config import Config
from agent.facts import gpu_holders, owners
from agent.facts.connections import Sockets, sockets
from agent.facts.container_processes import containing
from agent.facts.container_stores import Known, stores
from agent.facts.gpu import parse_fields
from agent.facts.gpu_holders import Holder
from agent.facts.gpu_nodes import GpuNodes
from agent.facts.told_by_process import parse_preload
from agent.facts.traces_of_work import first_models, models
from agent.facts.workload import Container, Job, Program, Workload
from agent.facts.workload_details import Details, Examiner
from agent.facts.workload_jobs import parse_jobs
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, probe

_WORKLOADS = 2000
_REMOTES = 50
_NOBODY = 0xFFFFFFFF
"""No login: https://man7.org/linux/man-pages/man5/proc_pid_loginuid.5.html"""
_PRELOAD = "/etc/ld.so.preload"
_MPS: Mapping[str, Literal["control", "server"]] = {
    # https://docs.nvidia.com/deploy/mps/
    "nvidia-cuda-mps-control": "control",
    "nvidia-cuda-mps-server": "server",
}
_DRIVER = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version")


class Workloads(Fact, frozen=True, kw_only=True):
    """The processes that have a GPU open. ``complete`` says that every process could be looked into.

    ``hidden`` are processes that somebody conceals: with a mount over their directory in /proc, or that NVML told of
    both before and after a look which did not see them. ``ending`` are those that ended and wait for their parent:
    the driver may still account for them. ``preload`` is what /etc/ld.so.preload loads into every program.
    """

    workloads: tuple[Workload, ...] = ()
    hidden: tuple[int, ...] = ()
    ending: tuple[int, ...] = ()
    preload: tuple[str, ...] = ()
    complete: bool = True


def _glance(host: Host, _config: Config) -> str:
    """How many CUDA programs have the GPUs open, as the kernel counts the users of the driver's module."""
    try:
        return host.line("/sys/module/nvidia_uvm/refcnt")
    except CannotLookError:
        return ""


@probe(every=dt.timedelta(seconds=60), glance=_glance, settles=dt.timedelta(minutes=5))
def workloads(host: Host, _config: Config) -> Workloads:
    """The processes that have a GPU open."""
    if not any(map(host.exists, _DRIVER)):
        return Workloads()  # without the driver there is nothing that anybody could have opened
    covered = set(gpu_holders.covered(host))
    found = gpu_holders.find(host)
    look = _Look(host)
    seen = tuple(look.workloads(found.holders[:_WORKLOADS]))
    gaps = look.gaps
    if found.unreadable:
        hint = "Run it as root, with CAP_SYS_PTRACE, to see this."
        gaps.append(Unknown(reason="some processes may not be looked into, and could use a GPU", hint=hint))
    if found.truncated or len(found.holders) > _WORKLOADS:
        gaps.append(Unknown(reason="more files are open, or more processes use a GPU, than were looked at"))
    complete = not gaps
    return Workloads(
        workloads=seen,
        hidden=tuple(sorted(covered & set(host.processes()))),
        ending=found.ending,
        preload=_preload(host, gaps),
        complete=complete,
        gaps=tuple(gaps),
    )


class _Look:
    """What all workloads of one look share."""

    def __init__(self, host: Host) -> None:
        """See the GPUs, the users and the containers as they are now."""
        self.gaps: list[Unknown] = []
        self._host = host
        self._nodes = GpuNodes(host)
        self._examiner = Examiner(host, uptime=_uptime(host))
        self._container = containing(host)
        self._users: Mapping[int, str] = {}
        with contextlib.suppress(CannotLookError):
            self._users = owners.parse_passwd(host.read("/etc/passwd"))

    def workloads(self, holders: Iterable[Holder]) -> Iterator[Workload]:
        """The holders as workloads, without those that end meanwhile."""
        seen = list[tuple[Holder, Workload]]()
        for holder in holders:
            if workload := self._still_there(holder):
                seen.append((holder, workload))
        containers = [each.container.id for _, each in seen if each.container]
        known = _known_containers(self._host, frozenset(containers)) if containers else {}
        networks = self._networks([holder for holder, _ in seen])
        for holder, workload in seen:
            yield _joined(workload, known, networks(holder), holder.sockets)

    def _still_there(self, holder: Holder) -> Workload | None:
        """The workload, unless the process ended or its number became another's while it was looked at."""
        missing, workload = "", None
        try:
            workload = self._workload(holder)
        except AbsentError as error:
            missing = error.reason
        with contextlib.suppress(AbsentError):
            if gpu_holders.look_at(self._host, holder.pid).started == holder.stat.started:
                if missing:  # it did not end, and so conceals something
                    self.gaps.append(Unknown(reason=missing))
                return workload
        return None

    def _workload(self, holder: Holder) -> Workload:
        host, place = self._host, holder.place
        name = shown(host.read(f"/proc/{holder.pid}/comm", limit=4096).removesuffix(b"\n"))
        status = parse_fields(host.text(f"{place}/status", limit=65536))
        groups = host.text(f"{place}/cgroup", limit=65536)
        container = self._container(holder.pid)
        uid, login = _number(status.get("Uid", ""), 1), self._audit(place, "loginuid")
        seen = self._details(holder, name, code=_number(status.get("VmLib", ""), 0), inside=container is not None)
        files, more = first_models(seen.traces.models | models(holder.files))
        return Workload(
            pid=holder.pid,
            started=holder.stat.started,
            parent=holder.stat.parent,
            name=name,
            uid=uid,
            user=self._users.get(uid, ""),
            login=login,
            login_user="" if login is None else self._users.get(login, ""),
            session=self._audit(place, "sessionid"),
            unit=owners.parse_cgroup(groups).unit,
            container=Container(id=container[0], kind=container[1]) if container else None,
            jobs=_jobs(parse_jobs(groups), seen.told.jobs),
            program=seen.program,
            environments=seen.environments,
            prefix=seen.told.prefix,
            frameworks=seen.frameworks,
            libraries=tuple(sorted(seen.traces.libraries)),
            notebook=seen.told.notebook,
            kernel=seen.words.kernel,
            gpus=self._nodes.held(holder.nodes),
            visible=seen.told.visible,
            mps=_MPS.get(posixpath.basename(seen.program.path), ""),
            models=files,
            preload=seen.told.preload,
            named=seen.named,
            truncated=more or holder.truncated or seen.traces.truncated,
        )

    def _details(self, holder: Holder, name: str, *, code: int, inside: bool) -> Details:
        try:
            return self._examiner.details(holder, name, code=code, inside=inside)
        except AbsentError:
            raise
        except CannotLookError as error:
            self.gaps.append(Unknown(reason=error.reason, hint=error.hint))
            return Details(program=Program())

    def _audit(self, place: str, name: str) -> int | None:
        """Who logged in, as the kernel keeps it whatever the process becomes; a kernel without audit has none."""
        with contextlib.suppress(CannotLookError):
            number = _number(self._host.line(f"{place}/{name}"), 0, _NOBODY)
            return None if number == _NOBODY else number
        return None

    def _networks(self, holders: Iterable[Holder]) -> Callable[[Holder], Sockets]:
        """What tells the sockets of a process; each network is asked once, for all that live in it."""
        members: dict[str, list[Holder]] = {}
        for holder in holders:
            with contextlib.suppress(CannotLookError):
                if holder.sockets:
                    members.setdefault(self._host.link(f"{holder.place}/ns/net"), []).append(holder)
        found: dict[tuple[int, int], Sockets] = {}
        for group in members.values():
            wanted = frozenset[int]().union(*(each.sockets for each in group))
            for holder in group:
                with contextlib.suppress(CannotLookError):  # it ended: the next one may tell
                    seen = sockets(self._host, holder.place, wanted)
                    found.update((_key(each), seen) for each in group)
                    break
        return lambda holder: found.get(_key(holder), Sockets(ports={}, remotes={}))


def _key(holder: Holder) -> tuple[int, int]:
    return holder.pid, holder.stat.started


def _joined(workload: Workload, known: Mapping[str, Known], network: Sockets, inodes: Iterable[int]) -> Workload:
    """The workload with what is looked up for all together: its sockets, and what its container is called."""
    container = workload.container
    if container and container.id in known:
        said = known[container.id]
        container = Container(id=container.id, kind=container.kind, name=said.name, image=said.image)
    inodes = frozenset(inodes)
    ports = {network.ports[inode] for inode in inodes if inode in network.ports}
    remotes = {network.remotes[inode] for inode in inodes if inode in network.remotes}
    return msgspec.structs.replace(
        workload,
        container=container,
        ports=tuple(sorted(ports, key=lambda each: (each.port, each.address))),
        remotes=tuple(sorted(remotes, key=lambda each: (each.port, each.exposure.rank)))[:_REMOTES],
        truncated=workload.truncated or len(remotes) > _REMOTES,
    )


@functools.lru_cache(maxsize=2)
def _known_containers(host: Host, ids: frozenset[str]) -> Mapping[str, Known]:
    """What the runtimes say of these containers; asked again when there are others."""
    return stores(host, ids).containers


def _jobs(sure: Sequence[Job], claimed: Iterable[Job]) -> tuple[Job, ...]:
    kinds = {job.kind for job in sure}
    return (*sure, *(job for job in claimed if job.kind not in kinds))


def _number(text: str, place: int, otherwise: int = 0) -> int:
    fields = text.split()
    is_number = len(fields) > place and fields[place].isascii() and fields[place].isdigit()
    return int(fields[place]) if is_number else otherwise


def _uptime(host: Host) -> float:
    try:
        return float(host.line("/proc/uptime").split()[0])
    except (ValueError, IndexError) as error:
        raise CannotLookError("/proc/uptime is not in the kernel's format") from error


def _preload(host: Host, gaps: list[Unknown]) -> tuple[str, ...]:
    try:
        return parse_preload(host.text(_PRELOAD, limit=65536))
    except AbsentError:
        return ()
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=_PRELOAD))
        return ()
