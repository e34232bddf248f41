"""What is judged of how GPUs are set up and run."""

from __future__ import annotations

import pytest

from agent import discovery
from agent.checks.gpu_settings import (
    gpu_compute_prohibited,
    gpu_confidential_computing_open,
    gpu_display_active,
    gpu_firmware_off,
    gpu_pcie_link_reduced,
    gpu_pcie_replays,
    gpu_persistence_off,
    gpu_power_limit_lowered,
    gpu_slowed_down,
)
from agent.facts.gpu import Driver, Gpus, Module
from agent.facts.gpu_samples import GpuSamples, Loaded
from agent.facts.nvml import Confidential, Refused
from agent.model import Fact, Severity
from tests.fakes.gpus import NOT_SUPPORTED, a_well_gpu, refusing
from tests.fakes.nvml import uuid

FULL = Loaded(pcie_generation=3, pcie_width=16)
HOT = Loaded(pcie_generation=3, pcie_width=16, slowed_by=("temperature, by hardware",))
NARROW = Loaded(pcie_generation=3, pcie_width=8)
SLOW = Loaded(pcie_generation=1, pcie_width=16)
OPEN = Driver(module=Module(version="580.178.04", flavour="open"))


def a_gpu(**fields):
    return Gpus(gpus=(a_well_gpu(**fields),))


def at_work(*looks):
    return GpuSamples(under_load={uuid(0): looks})


def test_a_gpu_that_is_well_and_one_that_says_nothing_are_quiet():
    for gpus in (Gpus(), a_gpu(), Gpus(gpus=(refusing("NOT_SUPPORTED", keep=("uuid",)),)),
                 Gpus(gpus=(refusing("GPU_IS_LOST"),))):  # fmt: skip
        for check in discovery.checks():
            if check.topic == "gpu_settings":
                facts: dict[type, Fact] = {Gpus: gpus, GpuSamples: at_work(FULL, FULL), Driver: OPEN}
                assert list(check(**{name: facts[kind] for name, kind in check.needs.items()})) == []


@pytest.mark.parametrize("looks", [(), (HOT,), (HOT, FULL), (FULL, HOT)])
def test_a_gpu_that_was_not_slowed_down_twice_in_a_row_is_quiet(looks):
    assert list(gpu_slowed_down(a_gpu(), at_work(*looks))) == []


def test_a_gpu_that_is_slowed_down_at_work_is_a_finding():
    (finding,) = gpu_slowed_down(a_gpu(), at_work(HOT, HOT))
    assert (finding.subject, finding.detail.split(": ")[1]) == (uuid(0), "temperature, by hardware")


@pytest.mark.parametrize(
    "looks",
    [(), (NARROW,), (NARROW, FULL), (SLOW, FULL), (Loaded(pcie_generation=0, pcie_width=0),) * 2,
     (Loaded(pcie_generation=NOT_SUPPORTED, pcie_width=NOT_SUPPORTED),) * 2],
)  # fmt: skip
def test_a_link_that_is_whole_at_work_or_not_shown_is_quiet(looks):
    assert list(gpu_pcie_link_reduced(a_gpu(), at_work(*looks))) == []


@pytest.mark.parametrize(("look", "said"), [(NARROW, "x8 instead of x16"), (SLOW, "generation 1 instead of 3")])
def test_a_link_that_is_narrow_or_slow_at_work_is_a_finding(look, said):
    (finding,) = gpu_pcie_link_reduced(a_gpu(), at_work(look, look))
    assert finding.detail.endswith(said)


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (8.0, 0), (8.1, 1), (9000.0, 1)])
def test_more_replays_a_minute_than_nvidia_recommends_are_a_finding(rate, count):
    found = list(gpu_pcie_replays(a_gpu(), GpuSamples(replay_rates={uuid(0): rate})))
    assert len(found) == count


def test_the_open_module_without_firmware_is_a_finding_and_the_other_module_is_not_judged():
    (finding,) = gpu_firmware_off(OPEN, a_gpu(gsp=False))
    assert finding.subject == uuid(0)
    proprietary = Driver(module=Module(version="535.309.01", flavour="proprietary"))
    assert (
        list(gpu_firmware_off(proprietary, a_gpu(gsp=False)))
        == list(gpu_firmware_off(Driver(), a_gpu(gsp=False)))
        == []
    )


def test_persistence_mode_that_is_off_is_worth_a_word_and_no_more():
    assert len(list(gpu_persistence_off(a_gpu(persistence=False)))) == 1
    assert gpu_persistence_off.severity is Severity.INFO


@pytest.mark.parametrize(("limit", "count"), [(60000, 1), (70000, 0), (75000, 0), (0, 0), (NOT_SUPPORTED, 0)])
def test_a_power_limit_below_the_default_is_a_finding(limit, count):
    assert len(list(gpu_power_limit_lowered(a_gpu(power_limit=limit)))) == count


def test_a_display_on_a_virtual_machine_is_a_finding_and_on_a_workstation_is_not():
    assert len(list(gpu_display_active(a_gpu(display_active=True)))) == 1
    assert list(gpu_display_active(a_gpu(display_active=True, virtualisation="none"))) == []


@pytest.mark.parametrize(("mode", "count"), [("default", 0), ("exclusive-process", 0), ("prohibited", 1)])
def test_a_gpu_that_is_closed_to_programs_is_a_finding(mode, count):
    assert len(list(gpu_compute_prohibited(a_gpu(compute_mode=mode)))) == count


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, None),
        (Refused(error="NOT_SUPPORTED"), None),
        (Confidential(environment="unavailable", enabled=False, developer_tools=True), None),
        (Confidential(environment="production", enabled=True, developer_tools=False), None),
        (Confidential(environment="production", enabled=True, developer_tools=True), "developers' tools are allowed"),
        (Confidential(environment="simulation", enabled=True, developer_tools=False), "the environment is simulation"),
    ],
)
def test_confidential_computing_is_judged_only_where_it_is_on(said, words):
    found = list(gpu_confidential_computing_open(Gpus(confidential=said)))
    assert [words in finding.detail for finding in found] == ([True] if words else [])
