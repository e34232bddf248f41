"""What GPUs do at the moment, and what is remembered of it: load, links, replays, MIG and its processes."""

from __future__ import annotations

import msgspec
import pytest

from agent.config import Config, GpuSection
from agent.facts.gpu import gpus
from agent.facts.gpu_samples import GpuSamples, Loaded, gpu_samples
from agent.facts.nvml import GpuProcess, Refused
from tests.fakes import nvml
from tests.fakes.nvml import A100_MIG, H100, PROFILES, T4, machine, uuid

CONFIG = Config(gpu=GpuSection(library=nvml.LIBRARY))
BUSY = {**T4, "utilisation": "99,50", "compute": "1,700,4096", "link": "3,16", "reasons": "0x44"}


def sampled(root, *answers, earlier=None):
    return gpu_samples(machine(root, answers), CONFIG, earlier)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_card_is_sampled_and_says_what_it_lacks(tmp_path, profile):
    (sample,) = sampled(tmp_path, PROFILES[profile]).samples
    assert (sample.power, sample.energy, sample.performance_state, sample.pcie_generation) == (9500, 123456, 8, 1)
    lacking = {"T4": {"margin"}, "A100": {"margin"}, "A100 with MIG": {"margin", "utilisation", "memory_utilisation"}}
    assert set(sample.refusals()) == lacking.get(profile, set())


def test_processes_of_mig_instances_are_placed_and_named_once(tmp_path):
    (sample,) = sampled(tmp_path, A100_MIG).samples
    assert sample.compute == (GpuProcess(pid=700, memory=4096, gpu_instance=1, compute_instance=0),)
    (gpu,) = gpus(machine(tmp_path / "again", [A100_MIG]), CONFIG).gpus
    assert isinstance(gpu.mig, tuple)
    assert [(each.profile, each.gpu_instance) for each in gpu.mig] == [("3g.20gb", 1), ("1g.5gb", 9)]


def test_a_process_comes_with_its_share_where_the_driver_keeps_it(tmp_path):
    (sample,) = sampled(tmp_path, {**BUSY, "compute": "2,700,4096", "used": "701,63"}).samples
    assert isinstance(sample.compute, tuple)
    assert [(each.pid, each.utilisation) for each in sample.compute] == [(700, None), (701, 63)]


def test_the_last_two_looks_at_work_are_remembered_and_idle_ones_forget_nothing(tmp_path):
    slow = Loaded(pcie_generation=3, pcie_width=16, slowed_by=("temperature, by hardware",))
    once = sampled(tmp_path / "1", BUSY)
    twice = sampled(tmp_path / "2", {**BUSY, "reasons": "4", "link": "3,8"}, earlier=once)
    idle = sampled(tmp_path / "3", T4, earlier=twice)
    assert once.under_load == {uuid(0): (slow,)}
    assert twice.under_load == idle.under_load == {uuid(0): (slow, Loaded(pcie_generation=3, pcie_width=8))}
    assert len(sampled(tmp_path / "4", BUSY, earlier=idle).under_load[uuid(0)]) == 2


def test_load_without_a_program_is_the_driver_at_its_own_work(tmp_path):
    assert sampled(tmp_path, {**BUSY, "compute": "0,0"}).under_load == {}


def test_another_start_of_the_machine_forgets(tmp_path):
    earlier = msgspec.structs.replace(sampled(tmp_path / "1", BUSY), boot="before")
    assert sampled(tmp_path / "2", T4, earlier=earlier).under_load == {}


def test_replays_are_counted_by_the_minute_between_two_looks(tmp_path):
    once = sampled(tmp_path / "1", T4)
    earlier = msgspec.structs.replace(once, uptime=once.uptime - 600)
    rates = sampled(tmp_path / "2", {**T4, "replays": "120"}, earlier=earlier).replay_rates
    assert 11 < rates[uuid(0)] <= 12
    reset = msgspec.structs.replace(once.samples[0], replays=500)
    assert sampled(tmp_path / "3", T4, earlier=msgspec.structs.replace(once, samples=(reset,))).replay_rates == {}


@pytest.mark.parametrize("code", ["15", "16", "10", "999"])
def test_a_sample_that_is_refused_is_a_gap_and_no_zero(tmp_path, code):
    error = {"15": "GPU_IS_LOST", "16": "RESET_REQUIRED", "10": "TIMEOUT", "999": "UNKNOWN"}[code]
    seen = sampled(tmp_path, H100, {**H100, "nvmlDeviceGetHandleByIndex_v2": code})
    assert seen.samples[1].temperature == seen.samples[1].compute == Refused(error=error)
    assert [gap.scope for gap in seen.gaps] == [uuid(1)]


def test_a_machine_without_gpu_has_no_samples_and_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent")
    host = machine(tmp_path, [], files={"/sys/bus/pci/devices/": ""})
    assert gpu_samples(host, Config(), None) == GpuSamples()
