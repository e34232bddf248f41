"""What is judged of the health of GPUs."""

from __future__ import annotations

import pytest

from agent import discovery
from agent.checks.gpu_health import gpu_fabric_unhealthy, gpu_nvlink_down, gpu_nvlink_errors, nvidia_driver_hung
from agent.collect import collect
from agent.config import Config, GpuSection
from agent.evaluate import evaluate
from agent.facts.gpu import Driver, Gpus, Module, driver, gpus
from agent.facts.gpu_samples import GpuSamples, gpu_samples
from agent.facts.nvml import Fabric, NvLink
from agent.model import Fact, Finding, Seen, Unknown
from tests.fakes import nvml
from tests.fakes.gpus import NOT_SUPPORTED, a_well_gpu, refusing
from tests.fakes.nvml import H100, PROFILES, machine, uuid
from tests.fakes.trees import NOW

CONFIG = Config(gpu=GpuSection(library=nvml.LIBRARY))
CHECKS = {check.id: check for check in discovery.checks() if check.topic == "gpu_health"}
ON_GPUS = [check for check in CHECKS.values() if list(check.needs.values()) == [Gpus]]
UP = NvLink(active=True, replays=9, recoveries=0, crc_errors=3, failed_recoveries=NOT_SUPPORTED)
DOWN = NvLink(active=False, replays=0, recoveries=0, crc_errors=0, failed_recoveries=0)
WELL = Fabric(state="completed", status="SUCCESS")


def found(name, **fields):
    return list(CHECKS[name](Gpus(gpus=(a_well_gpu(**fields),))))


@pytest.mark.parametrize("check", ON_GPUS, ids=lambda check: check.id)
@pytest.mark.parametrize(
    "gpus",
    [
        Gpus(),
        Gpus(gpus=(a_well_gpu(),)),
        Gpus(gpus=(a_well_gpu(nvlinks=(UP, UP), fabric=WELL, remap_pending=False, remap_failed=False),)),
        Gpus(gpus=(a_well_gpu(nvlinks=(DOWN, DOWN), fabric=Fabric(state="not supported", status="SUCCESS")),)),
        Gpus(gpus=(a_well_gpu(mig_enabled=True, mig_pending=True, ecc_enabled=False, ecc_pending=False),)),
        Gpus(gpus=(refusing("NOT_SUPPORTED", keep=("uuid",)),)),
        Gpus(gpus=(refusing("GPU_IS_LOST"),)),
    ],
    ids=["none", "a T4", "linked", "alone", "MIG", "a card that has nothing of this", "lost"],
)
def test_no_gpu_and_gpus_that_are_well_or_silent_are_quiet(check, gpus):
    assert list(check(gpus)) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_machine_as_it_comes_has_nothing_to_show(tmp_path, profile):
    host = machine(tmp_path, [PROFILES[profile]] * 2, confidential="0,0,0")
    looks: dict[type[Fact], Fact] = {
        Driver: driver(host, CONFIG),
        Gpus: gpus(host, CONFIG),
        GpuSamples: gpu_samples(host, CONFIG, None),
    }
    facts = {kind: Seen(fact=fact, taken=NOW.now) for kind, fact in looks.items()}
    judged = evaluate(discovery.checks(), facts, CONFIG, NOW)
    health = [each for each in judged if each.check in CHECKS or each.check.startswith("gpu-")]
    assert len(health) > 20
    assert [finding for each in health for finding in each.findings] == []
    assert [gap for each in health for gap in each.unknowns] == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gpu-memory-repair-pending", {"remap_pending": True}),
        ("gpu-memory-repair-pending", {"retirement_pending": True}),
        ("gpu-memory-repair-failed", {"remap_failed": True}),
        ("gpu-memory-worn-out", {"pages_retired": 40, "pages_retired_uncorrected": 23}),
        ("gpu-recovery-needed", {"recovery_action": "reset the GPU"}),
        ("gpu-ecc-change-pending", {"ecc_pending": False}),
        ("gpu-mig-change-pending", {"mig_enabled": False, "mig_pending": True}),
        ("gpu-inforom-corrupt", {"inforom_valid": False}),
        ("gpu-nvlink-down", {"nvlinks": (UP, DOWN)}),
        ("gpu-fabric-unhealthy", {"fabric": Fabric(state="in progress", status="SUCCESS")}),
    ],
)
def test_what_is_wrong_is_a_finding_of_its_check_alone(name, fields):
    assert [finding.subject for finding in found(name, **fields)] == [uuid(0)]
    assert [other for other in ON_GPUS if other.id != name and found(other.id, **fields)] == []


def test_the_finding_says_what_the_driver_asks_for():
    (finding,) = found("gpu-recovery-needed", recovery_action="drain and reset the GPU")
    assert "asks to drain and reset the GPU" in finding.detail


def test_links_that_are_down_or_had_to_recover_are_named():
    links = (UP, DOWN, NvLink(active=True, replays=0, recoveries=0, crc_errors=0, failed_recoveries=2))
    facts = Gpus(gpus=(a_well_gpu(nvlinks=links),))
    (down,), (errors,) = gpu_nvlink_down(facts), gpu_nvlink_errors(facts)
    assert down.detail.endswith("1 of 3 NVLinks are down: 1")
    assert errors.detail.endswith("had to recover: 2")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("3,0,0x1aa", None),
        ("0,0,0", None),
        ("1,0,0", "joining it is not started"),
        ("3,999,0", "joining it ended with UNKNOWN"),
        ("3,0,0x1a9", "bandwidth is degraded"),
        ("3,0,0x59a", "a route is unhealthy; its configuration is wrong, number 5"),
        ("77,0,0", "joining it is number 77"),
    ],
)
def test_the_fabric_is_understood_from_the_drivers_bits(tmp_path, answer, said):
    seen = gpus(machine(tmp_path, [{**H100, "fabric": answer}]), CONFIG)
    assert [finding.detail.split("fabric: ")[1] for finding in gpu_fabric_unhealthy(seen)] == ([said] if said else [])


HUNG = Unknown(reason="the NVIDIA driver gave no answer within 15 s")
LOADED = Driver(module=Module(version="580.178.04"))


def test_a_driver_that_answers_and_one_that_is_not_there_have_not_hung():
    assert list(nvidia_driver_hung(LOADED, Gpus())) == list(nvidia_driver_hung(Driver(), HUNG)) == []


def test_a_driver_that_gives_no_answer_has_hung_and_one_that_cannot_be_asked_is_unknown():
    (finding,) = nvidia_driver_hung(LOADED, HUNG)
    assert isinstance(finding, Finding)
    (unknown,) = nvidia_driver_hung(LOADED, Unknown(reason="paused by the operator"))
    assert isinstance(unknown, Unknown)
    assert unknown.covers("nvidia-driver")


def test_what_the_probe_says_of_a_driver_that_hangs_is_what_the_check_looks_for(tmp_path):
    quick = Config(gpu=GpuSection(library=nvml.LIBRARY, deadline_seconds=1.0))
    host = machine(tmp_path, [H100], nvmlDeviceGetVbiosVersion="hang")
    (look,) = collect([each for each in discovery.probes() if each.fact is Gpus], host, quick)
    assert isinstance(look.fact, Unknown)
    (finding,) = nvidia_driver_hung(LOADED, look.fact)
    assert isinstance(finding, Finding)
