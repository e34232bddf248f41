"""What is in use: installed software that processes have run since the machine was booted.

Also the files that they still run although others have taken their place on the disk. Processes of containers, and
others that have a root directory of their own, are left out: what they run is not what is installed here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from agent.config import Config
from agent.facts.processes import Holder, Observed, Observer
from agent.facts.python_origins import Trace, origins
from agent.host import Host, shown
from agent.model import CannotLookError, Fact, Unknown, Value, probe

_ENVIRONMENTS = 1000
_TRACES = 20_000
_PROGRAMS = 200
_FILES = 100
"""Users can make up as many as they like; more than these are counted, or said in one sentence."""


class Use(enum.Enum):
    """How much something is in use, most first. What was once seen holds until the next boot."""

    GPU = "gpu"
    """Its files are mapped by a process that holds a GPU, or its program is one."""
    LOADED = "loaded"
    """Its files are mapped by a process, or its program was started."""
    ENVIRONMENT = "environment"
    """Something else of its environment runs; that it is loaded cannot be seen, as of pure Python packages."""
    IDLE = "idle"
    """Nothing of its environment was seen to run since the boot."""

    @property
    def rank(self) -> int:
        """0 for the most."""
        return list(Use).index(self)


class EnvironmentUse(Value, frozen=True, kw_only=True):
    """What runs of one Python environment (its directory of packages): GPU and LOADED name distributions."""

    path: str
    gpu: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()


class StaleProgram(Value, frozen=True, kw_only=True):
    """What still runs files that were replaced or removed on the disk.

    ``name`` is a service's unit (``ssh.service``), or the name that a program outside of services gives itself, and
    then ``user`` is whose it is; process 1 is ``init``. ``files`` are the first of the ``count`` files.
    """

    name: str
    kind: Literal["service", "init", "program"]
    user: str = ""
    files: tuple[str, ...]
    count: int


class SoftwareUse(Fact, frozen=True, kw_only=True):
    """What was seen in use since the boot of that id, and what runs files that are no longer those on the disk.

    ``complete`` says that all processes could be looked at; where not, nothing is known to be idle.
    """

    boot: str
    complete: bool
    environments: tuple[EnvironmentUse, ...] = ()
    stale: tuple[StaleProgram, ...] = ()

    def of(self, path: str, distribution: str) -> Use | None:
        """How much a distribution of this environment is in use; None where that cannot be known."""
        for each in self.environments:
            if each.path == path:
                if distribution in each.gpu:
                    return Use.GPU
                return Use.LOADED if distribution in each.loaded else Use.ENVIRONMENT
        return Use.IDLE if self.complete else None


@probe(every=dt.timedelta(minutes=5))
def software_use(host: Host, _config: Config, earlier: SoftwareUse | None) -> SoftwareUse:
    """Installed software in use, and files in memory that are no longer those on the disk."""
    boot = host.line("/proc/sys/kernel/random/boot_id")
    walk = _Walk(host)
    before = earlier.environments if earlier and earlier.boot == boot else ()
    environments = _united(
        (*(each for each in before if _may_be_there(host, each.path)), *_environments(host, walk.seen))
    )
    stale = [_stale(holder, paths) for holder, paths in sorted(walk.stale.items())]
    gaps = [*walk.gaps]
    if len(environments) > _ENVIRONMENTS or len(stale) > _PROGRAMS:
        gaps.append(Unknown(reason="more environments and programs are in use than are kept apart"))
    return SoftwareUse(
        boot=boot,
        complete=not gaps,
        environments=environments[:_ENVIRONMENTS],
        stale=tuple(stale[:_PROGRAMS]),
        gaps=tuple(gaps),
    )


class _Walk:
    """What all processes together were seen to use: traces by environment and whether beside a GPU."""

    def __init__(self, host: Host) -> None:
        """Look at every process."""
        self.seen: dict[str, dict[Trace, bool]] = {}
        self.stale: dict[Holder, set[str]] = {}
        self._traces = 0
        self._is_truncated = False
        pids = host.processes()
        self._is_hidden = 1 not in pids  # hidepid: https://docs.kernel.org/filesystems/proc.html#mount-options
        observer = Observer(host)
        for pid in pids:
            try:
                observed = observer.observe(pid)
            except CannotLookError:
                self._is_hidden = True
                continue
            if observed:
                self._note(observed)
            if observed and observed.stale:
                with contextlib.suppress(CannotLookError):  # it ended, and so runs nothing stale
                    self.stale.setdefault(observer.holder(pid), set()).update(observed.stale)

    def _note(self, observed: Observed) -> None:
        self._is_truncated |= observed.truncated
        for path, traces in observed.environments.items():
            known = self.seen.setdefault(path, {})
            for trace in traces:
                if trace not in known and self._traces >= _TRACES:
                    self._is_truncated = True
                    continue
                self._traces += trace not in known
                known[trace] = known.get(trace, False) or observed.holds_gpu

    @property
    def gaps(self) -> Iterator[Unknown]:
        """What could not be seen."""
        if self._is_hidden:
            hint = "Run it as root, with CAP_SYS_PTRACE, to see this."
            yield Unknown(reason="what some processes run could not be looked at", hint=hint)
        if self._is_truncated:
            yield Unknown(reason="some processes have more files mapped than were looked at")


def _environments(host: Host, seen: Mapping[str, Mapping[Trace, bool]]) -> Iterator[EnvironmentUse]:
    """The environments that are there, with the distributions that the traces lead to."""
    for path, traces in seen.items():
        try:
            found = origins(host, path, traces)
        except CannotLookError:
            if not _may_be_there(host, path):
                continue
            found = {}
        yield EnvironmentUse(
            path=shown(path),
            gpu=tuple(sorted({shown(name) for trace, name in found.items() if traces[trace]})),
            loaded=tuple(sorted({shown(name) for name in found.values()})),
        )


def _united(uses: Iterable[EnvironmentUse]) -> tuple[EnvironmentUse, ...]:
    """One use for each environment, in order."""
    gpu, loaded = dict[str, set[str]](), dict[str, set[str]]()
    for each in uses:
        gpu.setdefault(each.path, set()).update(each.gpu)
        loaded.setdefault(each.path, set()).update(each.loaded)
    return tuple(
        EnvironmentUse(path=path, gpu=tuple(sorted(gpu[path])), loaded=tuple(sorted(loaded[path])))
        for path in sorted(loaded)
    )


def _may_be_there(host: Host, path: str) -> bool:
    """Whether the environment was not removed, as far as can be told; an escaped name leads nowhere."""
    try:
        return "\\" in path or host.exists(path)
    except CannotLookError:
        return True


def _stale(holder: Holder, paths: Iterable[str]) -> StaleProgram:
    files = sorted(map(shown, paths))
    return StaleProgram(
        name=holder.name, kind=holder.kind, user=holder.user, files=tuple(files[:_FILES]), count=len(files)
    )
