"""What NVML says of the processes on GPUs, joined to what /proc shows of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.facts.gpu import Gpus
from agent.facts.nvml import Gpu, GpuProcess, Refused
from agent.facts.workload import HeldGpu, Workload
from agent.facts.workloads import Workloads


def with_usage(workloads: Workloads, gpus: Gpus, before: Gpus | None = None) -> Workloads:
    """The workloads with what NVML says that each takes; it is said of pids, which a pid used anew would get wrong.

    How busy a GPU is counts as one process's only where it is alone there. With an earlier answer, ``before`` the
    look at the processes, ``hidden`` gets those that NVML shows and /proc does not.
    """
    told = [(gpu, _processes(gpu)) for gpu in gpus.gpus]
    clients = {each.pid for gpu in gpus.gpus for each in _answered(gpu.mps)}
    return msgspec.structs.replace(
        workloads,
        workloads=tuple(_with_usage(each, told, is_client=each.pid in clients) for each in workloads.workloads),
        hidden=tuple(sorted({*workloads.hidden, *(hidden(workloads, before, gpus) if before else ())})),
    )


def hidden(workloads: Workloads, *told: Gpus) -> tuple[int, ...]:
    """The pids that NVML told of in each of these answers and that have no GPU open as far as /proc shows.

    Whoever is in an answer from before the look at the processes and in one from after it was there in between. One
    answer alone proves nothing: what it names may have ended. Where not every process could be looked into, none is.
    """
    if not workloads.complete or not told:
        return ()
    known = {each.pid for each in workloads.workloads}.union(workloads.ending)
    pids = [{pid for gpu in each.gpus for pid in _processes(gpu)} for each in told]
    return tuple(sorted(set.intersection(*pids) - known))


def _with_usage(
    workload: Workload, told: Sequence[tuple[Gpu, Mapping[int, int | None]]], *, is_client: bool
) -> Workload:
    held = list(workload.gpus)
    for gpu, processes in told:
        if workload.pid not in processes:
            continue
        place = next((place for place, each in enumerate(held) if _is_same(each, gpu)), None)
        if place is None:
            held.append(HeldGpu(minor=None, address=_said(gpu.address), uuid=_said(gpu.uuid)))
            place = len(held) - 1
        alone = len(processes) == 1 and isinstance(gpu.utilisation, int)
        held[place] = msgspec.structs.replace(
            held[place], memory=processes[workload.pid], utilisation=gpu.utilisation if alone else None
        )
    return msgspec.structs.replace(workload, gpus=tuple(held), mps=workload.mps or ("client" if is_client else ""))


def _is_same(held: HeldGpu, gpu: Gpu) -> bool:
    return bool(held.uuid and held.uuid == gpu.uuid) or bool(held.address and held.address == gpu.address)


def _said(text: str | Refused) -> str:
    return text if isinstance(text, str) else ""


def _processes(gpu: Gpu) -> Mapping[int, int | None]:
    """The processes on a GPU and their memory; one in several lists has the most that is told of it."""
    memory: dict[int, int | None] = {}
    for each in (*_answered(gpu.compute), *_answered(gpu.graphics), *_answered(gpu.mps)):
        known = memory.get(each.pid)
        memory[each.pid] = known if each.memory is None else max(each.memory, known or 0)
    return memory


def _answered(processes: tuple[GpuProcess, ...] | Refused) -> tuple[GpuProcess, ...]:
    return () if isinstance(processes, Refused) else processes
