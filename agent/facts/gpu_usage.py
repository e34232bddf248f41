"""What NVML says of the processes on GPUs, joined to what /proc shows of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.facts.gpu_nodes import in_order
from agent.facts.gpu_samples import GpuSamples
from agent.facts.nvml import GpuProcess, Refused, Sample
from agent.facts.workload import GpuPart, HeldGpu, Workload
from agent.facts.workloads import Workloads

_OnGpu = tuple[Sample, Mapping[int, GpuProcess]]


def with_usage(workloads: Workloads, samples: GpuSamples, before: GpuSamples | None = None) -> Workloads:
    """The workloads with what NVML says that each takes; it is said of pids, which a pid used anew would get wrong.

    Where no load is told of a process, that of a GPU on which it is alone is its own. With earlier samples, of
    ``before`` the look at the processes, ``hidden`` gets those that NVML shows and /proc does not.
    """
    told = [(sample, _processes(sample)) for sample in samples.samples]
    clients = {each.pid for sample in samples.samples for each in _answered(sample.mps)}
    return msgspec.structs.replace(
        workloads,
        workloads=tuple(_with_usage(each, told, is_client=each.pid in clients) for each in workloads.workloads),
        hidden=tuple(sorted({*workloads.hidden, *(hidden(workloads, before, samples) if before else ())})),
    )


def hidden(workloads: Workloads, *told: GpuSamples) -> tuple[int, ...]:
    """The pids that NVML told of in each of these samples and that have no GPU open as far as /proc shows.

    Whoever is in samples from before the look at the processes and in some from after it was there in between. One
    sample alone proves nothing: what it names may have ended. Where not every process could be looked into, none is.
    """
    if not workloads.complete or not told or len({each.boot for each in told}) > 1:
        return ()
    known = {each.pid for each in workloads.workloads}.union(workloads.ending)
    pids = [{pid for sample in each.samples for pid in _processes(sample)} for each in told]
    return tuple(sorted(set.intersection(*pids) - known))


def _with_usage(workload: Workload, told: Sequence[_OnGpu], *, is_client: bool) -> Workload:
    held = list(workload.gpus)
    for sample, processes in told:
        process = processes.get(workload.pid)
        if process is None:
            continue
        place = next((place for place, each in enumerate(held) if _is_same(each, sample)), len(held))
        if place == len(held):
            held.append(HeldGpu(minor=None, address=_said(sample.address), uuid=_said(sample.uuid)))
        held[place] = _used(held[place], process, alone_with=sample if len(processes) == 1 else None)
    return msgspec.structs.replace(workload, gpus=tuple(held), mps=workload.mps or ("client" if is_client else ""))


def _used(held: HeldGpu, process: GpuProcess, *, alone_with: Sample | None) -> HeldGpu:
    utilisation, parts = process.utilisation, set(held.parts)
    if utilisation is None and alone_with and isinstance(alone_with.utilisation, int):
        utilisation = alone_with.utilisation
    if process.gpu_instance is not None:
        parts.add(GpuPart(gpu_instance=process.gpu_instance, compute_instance=process.compute_instance))
    return msgspec.structs.replace(held, memory=process.memory, utilisation=utilisation, parts=in_order(parts))


def _is_same(held: HeldGpu, sample: Sample) -> bool:
    return bool(held.uuid and held.uuid == sample.uuid) or bool(held.address and held.address == sample.address)


def _said(text: str | Refused) -> str:
    return text if isinstance(text, str) else ""


def _processes(sample: Sample) -> Mapping[int, GpuProcess]:
    """The processes on a GPU; of one in several lists the most that is told."""
    found: dict[int, GpuProcess] = {}
    for each in (*_answered(sample.compute), *_answered(sample.graphics), *_answered(sample.mps)):
        known = found.setdefault(each.pid, each)
        if known is not each:
            memory, load = _most(known.memory, each.memory), _most(known.utilisation, each.utilisation)
            found[each.pid] = msgspec.structs.replace(known, memory=memory, utilisation=load)
    return found


def _most(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _answered(processes: tuple[GpuProcess, ...] | Refused) -> tuple[GpuProcess, ...]:
    return () if isinstance(processes, Refused) else processes
