"""What the GPUs do at the moment: load, memory, heat, power and processes, and what is remembered of earlier looks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Mapping

import msgspec

from agent.config import Config
from agent.facts import gpu_pause, nvml
from agent.facts.gpu import identified, on_the_bus, unanswered, unseen
from agent.facts.nvml import Number, Sample
from agent.host import Host
from agent.model import CannotLookError, Fact, Value, probe

# nvmlClocksEventReasons of https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "temperature, by software",
    0x40: "temperature, by hardware",
    0x80: "power brake",
}
_BUSY_PERCENT = 50
_REST_SECONDS = 3600.0
_REMEMBERED = 2
_JUDGED = {"uuid", "temperature", "compute"}


class Loaded(Value, frozen=True, kw_only=True):
    """A GPU at a look at which it worked: its link, which narrows and slows down at rest, and what held it back."""

    pcie_generation: Number
    pcie_width: Number
    slowed_by: tuple[str, ...] = ()


class GpuSamples(Fact, frozen=True, kw_only=True):
    """The GPUs at the moment; none on a machine without.

    ``resting`` says that there are GPUs that were not asked: persistence mode is off and no CUDA program holds them,
    so that looking would wake them. ``under_load`` are the last looks, at most two and the newest last, at which a GPU
    worked, and ``replay_rates`` the PCIe packets that it sent again per minute since the look before, both by the
    key of the GPU. ``uptime`` is when they were asked, in seconds since this start of the machine, ``boot``.
    """

    samples: tuple[Sample, ...] = ()
    resting: bool = False
    under_load: Mapping[str, tuple[Loaded, ...]] = {}
    replay_rates: Mapping[str, float] = {}
    boot: str = ""
    uptime: float = 0.0


def _glance(host: Host, _config: Config) -> Hashable:
    """Whether CUDA programs came or went, or the GPUs were released; while there are any, each minute."""
    busy = gpu_pause.in_use(host)
    return gpu_pause.released(host), busy, busy and int(gpu_pause.uptime() // 60)


@probe(every=dt.timedelta(minutes=10), glance=_glance, volatile=True)
def gpu_samples(host: Host, config: Config, earlier: GpuSamples | None = None) -> GpuSamples:
    """What each NVIDIA GPU does at the moment, as NVML says it: each minute while CUDA programs hold one.

    Where persistence mode is off, idle GPUs are woken once an hour at most.
    """
    on_bus = [gpu for gpu in on_the_bus(host) if gpu.is_for_nvidia]
    if not on_bus and not config.gpu.library and not host.exists("/proc/driver/nvidia/version"):
        return GpuSamples()
    before = earlier or GpuSamples()
    boot, now = gpu_pause.boot(host), gpu_pause.uptime()
    if boot != before.boot:
        before = GpuSamples(boot=boot)
    if paused := gpu_pause.pause(host):
        if not earlier:
            raise CannotLookError(paused.reason, paused.hint)
        return msgspec.structs.replace(before, samples=(), gaps=(paused,))
    if _may_rest(before, now) and not gpu_pause.in_use(host):
        return msgspec.structs.replace(before, samples=(), resting=True, gaps=())
    library = nvml.library(host, config.gpu.library)
    survey = nvml.survey(host, library, "samples", deadline=config.gpu.deadline_seconds)
    seen = identified(survey.samples, on_bus)
    return GpuSamples(
        samples=seen,
        under_load={gpu.key: looks for gpu in seen if (looks := _under_load(gpu, before))},
        replay_rates=_replay_rates(seen, before, now),
        boot=boot,
        uptime=now,
        gaps=(*unanswered(seen, _JUDGED), *unseen(seen, on_bus)),
    )


def _may_rest(before: GpuSamples, now: float) -> bool:
    """Whether the GPUs were asked within the hour, and are such that asking wakes them."""
    sleepy = before.resting or any(gpu.persistence is False for gpu in before.samples)
    return sleepy and 0 <= now - before.uptime < _REST_SECONDS


def _under_load(gpu: Sample, before: GpuSamples) -> tuple[Loaded, ...]:
    """The looks at which it worked, this one included if it does. Idle looks say nothing and forget nothing."""
    known = before.under_load.get(gpu.key, ())
    busy = isinstance(gpu.utilisation, int) and gpu.utilisation >= _BUSY_PERCENT
    # A GPU whose memory is checked when the driver is loaded looks busy, but nobody works on it.
    if not busy or not any(isinstance(each, tuple) and each for each in (gpu.compute, gpu.mps)):
        return known
    reasons = gpu.clock_reasons if isinstance(gpu.clock_reasons, int) else 0
    now = Loaded(
        pcie_generation=gpu.pcie_generation,
        pcie_width=gpu.pcie_width,
        slowed_by=tuple(name for bit, name in _SLOWDOWNS.items() if reasons & bit),
    )
    return (*known, now)[-_REMEMBERED:]


def _replay_rates(gpus: tuple[Sample, ...], before: GpuSamples, now: float) -> dict[str, float]:
    """Those of a GPU of which no count is known from the look before stay as they were."""
    counts = {gpu.key: gpu.replays for gpu in before.samples}
    rates = {key: rate for key, rate in before.replay_rates.items() if not isinstance(counts.get(key), int)}
    minutes = (now - before.uptime) / 60
    for gpu in gpus:
        count = counts.get(gpu.key)
        if isinstance(count, int) and isinstance(gpu.replays, int) and gpu.replays >= count and minutes > 0:
            rates[gpu.key] = round((gpu.replays - count) / minutes, 1)
    return rates
