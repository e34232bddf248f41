"""What a GPU does at this moment: load, heat, power, and the processes on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pynvml

from agent.facts.nvml import GpuProcess, Processes, Refused, Sample
from agent.nvml.asking import address, ask, mig_handles, part

_NO_INSTANCE = 0xFFFFFFFF


def sample(index: int) -> Sample:
    """One GPU."""
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if isinstance(handle, Refused):
        return Sample(index=index, **dict.fromkeys(Sample.__struct_fields__[1:], handle))
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    parts = _parts(handle)
    used = _utilisation(handle)
    return Sample(
        index=index,
        uuid=ask(pynvml.nvmlDeviceGetUUID, handle),
        address=address(ask(pynvml.nvmlDeviceGetPciInfo_v3, handle)),
        persistence=part(ask(pynvml.nvmlDeviceGetPersistenceMode, handle), bool),
        memory_total=part(memory, lambda said: said.total),
        memory_used=part(memory, lambda said: said.used),
        utilisation=part(rates, lambda said: said.gpu),
        memory_utilisation=part(rates, lambda said: said.memory),
        temperature=_temperature(handle),
        margin=ask(pynvml.nvmlDeviceGetMarginTemperature, handle),
        power=ask(pynvml.nvmlDeviceGetPowerUsage, handle),
        energy=ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle),
        performance_state=ask(pynvml.nvmlDeviceGetPerformanceState, handle),
        clock_reasons=_clock_reasons(handle),
        pcie_generation=ask(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        pcie_width=ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        replays=ask(pynvml.nvmlDeviceGetPcieReplayCounter, handle),
        compute=_processes(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle, parts, used),
        graphics=_processes(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, handle, parts, used),
        mps=_processes(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, handle, parts, used),
    )


def _temperature(handle: Any) -> Any:
    """The old call, which CUDA 14 is to remove, or its successor."""
    said = ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    if said == Refused(error="FUNCTION_NOT_FOUND"):
        return ask(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    return said


def _clock_reasons(handle: Any) -> Any:
    """The call that came with R535, or the one that it renamed."""
    said = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if said == Refused(error="FUNCTION_NOT_FOUND"):
        return ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return said


def _parts(handle: Any) -> list[Any]:
    """The MIG instances of a GPU. Of one that refuses to tell, the processes are those that the whole GPU shows."""
    parts = mig_handles(handle)
    return [] if isinstance(parts, Refused) else parts


def _utilisation(handle: Any) -> Mapping[int, int]:
    """The share of each process in the newest sample that the driver keeps of it; it keeps none with MIG."""
    said = ask(pynvml.nvmlDeviceGetProcessUtilization, handle, 0)
    if isinstance(said, Refused):
        return {}
    return {each.pid: each.smUtil for each in sorted(said, key=lambda each: each.timeStamp)}


def _processes(call: Callable[..., Any], handle: Any, parts: list[Any], used: Mapping[int, int]) -> Processes:
    """Those of the GPU and, for whoever is not shown all of them there, those of its parts, each once."""
    found = {}
    for place in (handle, *parts):
        said = ask(call, place)
        if isinstance(said, Refused):
            return said
        for each in said:
            process = GpuProcess(
                pid=each.pid,
                memory=each.usedGpuMemory,
                utilisation=used.get(each.pid),
                gpu_instance=_instance(each.gpuInstanceId),
                compute_instance=_instance(each.computeInstanceId),
            )
            found[process.pid, process.gpu_instance, process.compute_instance] = process
    placed = {process.pid for process in found.values() if process.gpu_instance is not None}
    shown = [each for each in found.values() if each.gpu_instance is not None or each.pid not in placed]
    return tuple(sorted(shown, key=_order))


def _order(process: GpuProcess) -> tuple[int, ...]:
    return (process.pid, *(-1 if each is None else each for each in (process.gpu_instance, process.compute_instance)))


def _instance(number: int) -> int | None:
    return None if number == _NO_INSTANCE else number
