"""What is judged about the NVIDIA driver and the GPUs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import knowledge
from agent.checks.gpu import (
    gpu_ecc_disabled,
    gpu_lost,
    gpu_missing,
    gpu_profiling_open_to_users,
    gpu_reset_required,
    gpu_too_hot,
    gpu_uncorrected_ecc_errors,
    nvidia_driver_end_of_life,
    nvidia_driver_not_loaded,
    nvidia_driver_restart_needed,
    nvidia_driver_vulnerable,
)
from agent.facts.gpu import Driver, Gpus, Library, Module, PciGpu
from agent.facts.gpu_samples import GpuSamples
from agent.facts.nvml import Refused
from agent.knowledge import DriverBranch, DriverBranches, NvidiaBulletin, NvidiaBulletins, NvidiaFlaw
from agent.model import Severity
from tests.fakes.gpus import NOT_SUPPORTED, a_sample, a_well_gpu, refusing
from tests.fakes.nvml import address, uuid
from tests.fakes.trees import NOW

BRANCHES = DriverBranches(
    updated=dt.date(2026, 11, 1),
    sources=(),
    branches=(
        DriverBranch(name="535", end=dt.date(2026, 6, 30)),
        DriverBranch(name="580", end=dt.date(2028, 6, 30)),
        DriverBranch(name="615"),
    ),
)
BULLETINS = NvidiaBulletins(
    updated=dt.date(2026, 11, 1),
    sources=(),
    bulletins=(
        NvidiaBulletin(
            product="driver",
            id="5821",
            published=dt.date(2026, 5, 19),
            fixed=("535.309.01", "580.159.03"),
            flaws=(NvidiaFlaw(id="CVE-1", score=8.8),),
        ),
        NvidiaBulletin(
            product="driver",
            id="5861",
            published=dt.date(2026, 9, 30),
            fixed=("580.178.04", "615.71.09"),
            flaws=(NvidiaFlaw(id="CVE-2", score=7.8), NvidiaFlaw(id="CVE-3", score=5.5, branches=("615",))),
        ),
    ),
)
GPU = a_well_gpu()
ON_BUS = PciGpu(address=address(0), driver="nvidia", uuid=uuid(0))


def a_gpu(**fields: Any) -> Gpus:
    return Gpus(gpus=(a_well_gpu(**fields),))


def a_driver(version: str = "580.178.04", *, installed: str = "", **fields: Any) -> Driver:
    library = Library(path="/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", version=installed or version)
    return Driver(gpus=(ON_BUS,), **{"module": Module(version=version), "libraries": (library,), **fields})


GPU_CHECKS = [gpu_lost, gpu_reset_required, gpu_uncorrected_ecc_errors, gpu_ecc_disabled]


@pytest.mark.parametrize("check", GPU_CHECKS, ids=lambda check: check.id)
@pytest.mark.parametrize(
    "gpus",
    [
        Gpus(),
        Gpus(gpus=(GPU,)),
        Gpus(gpus=(refusing("NOT_SUPPORTED", keep=("name", "uuid", "address")),)),
        Gpus(gpus=(refusing("TIMEOUT"),)),
    ],
    ids=["none", "well", "a card that has nothing of this", "refused"],
)
def test_no_gpu_and_a_gpu_that_is_well_or_silent_are_quiet(check, gpus):
    assert list(check(gpus)) == []


def test_a_machine_without_gpu_and_driver_is_quiet():
    assert list(nvidia_driver_not_loaded(Driver())) == []
    assert list(nvidia_driver_end_of_life(Driver(), BRANCHES, NOW)) == []
    assert list(nvidia_driver_vulnerable(Driver(), BULLETINS)) == []
    assert list(nvidia_driver_restart_needed(Driver())) == []
    assert list(gpu_profiling_open_to_users(Driver())) == []
    assert list(gpu_missing(Driver(), Gpus())) == []


def test_a_machine_in_order_is_quiet():
    driver = a_driver(parameters={"RmProfilingAdminOnly": "1"})
    assert list(nvidia_driver_not_loaded(driver)) == []
    assert list(nvidia_driver_end_of_life(driver, BRANCHES, NOW)) == []
    assert list(nvidia_driver_vulnerable(driver, BULLETINS)) == []
    assert list(nvidia_driver_restart_needed(driver)) == []
    assert list(gpu_profiling_open_to_users(driver)) == []
    assert list(gpu_missing(driver, Gpus(gpus=(GPU,)))) == []


@pytest.mark.parametrize("holder", ["nouveau", "vfio-pci"])
def test_a_gpu_that_was_given_to_another_driver_is_quiet(holder):
    driver = Driver(gpus=(PciGpu(address=address(0), driver=holder),))
    assert list(nvidia_driver_not_loaded(driver)) == []
    assert list(gpu_missing(driver, Gpus())) == []


def test_a_gpu_without_driver_is_a_finding():
    (finding,) = nvidia_driver_not_loaded(Driver(gpus=(PciGpu(address=address(3)),)))
    assert finding.subject == "nvidia-driver"
    assert address(3) in finding.detail


def test_the_end_of_a_branch_counts_from_the_day_after():
    last = NOW.__class__(now=dt.datetime(2026, 6, 30, 23, tzinfo=dt.timezone.utc))
    assert list(nvidia_driver_end_of_life(a_driver("535.309.01"), BRANCHES, last)) == []
    (finding,) = nvidia_driver_end_of_life(a_driver("535.309.01"), BRANCHES, NOW)
    assert "R535 ended on 2026-06-30" in finding.detail


@pytest.mark.parametrize("version", ["615.71.09", "999.1", "580.95.05"])
def test_a_branch_without_published_end_or_before_it_is_quiet(version):
    assert list(nvidia_driver_end_of_life(a_driver(version), BRANCHES, NOW)) == []


@pytest.mark.parametrize("version", ["580.178.04", "580.178.4", "580.200", "615.71.09", "620.10", "1000.1"])
def test_a_fixed_driver_and_one_newer_than_the_bulletin_are_quiet(version):
    assert list(nvidia_driver_vulnerable(a_driver(version), BULLETINS)) == []


@pytest.mark.parametrize("version", ["580.95.05", "580.178.03", "580.9", "615.71.08"])
def test_a_driver_below_the_fix_of_its_branch_is_a_finding(version):
    (finding,) = nvidia_driver_vulnerable(a_driver(version), BULLETINS)
    assert f"fixed in {finding.evidence['fixed']} by bulletin 5861 of 2026-09-30" in finding.detail
    assert finding.evidence["fixed"] in {"580.178.04", "615.71.09"}


@pytest.mark.parametrize("version", ["535.309.01", "570.211.01", "590.48.01", "610.57.04", "99.1"])
def test_a_branch_that_the_bulletin_leaves_out_is_abandoned_and_not_safe(version):
    (finding,) = nvidia_driver_vulnerable(a_driver(version), BULLETINS)
    assert "gets no fixes" in finding.detail


def test_fixes_that_are_installed_and_not_loaded_need_a_restart():
    (finding,) = nvidia_driver_vulnerable(a_driver("580.95.05", installed="580.178.04"), BULLETINS)
    assert "still loaded" in finding.detail
    assert "reboot" in finding.fix
    (finding,) = nvidia_driver_restart_needed(a_driver("580.95.05", installed="580.178.04"))
    assert finding.detail == "driver 580.95.05 is loaded, 580.178.04 is installed"


def test_without_a_library_on_disk_the_loaded_driver_is_judged_alone():
    assert list(nvidia_driver_restart_needed(a_driver(libraries=()))) == []
    assert len(list(nvidia_driver_vulnerable(a_driver("580.95.05", libraries=()), BULLETINS))) == 1


@settings(max_examples=50)
@given(st.tuples(st.integers(1, 999), st.integers(0, 999), st.integers(0, 99)))
def test_any_version_is_judged_by_number_and_never_by_text(numbers):
    version = ".".join(map(str, numbers))
    is_fixed = numbers[0] > 615 or numbers >= (615, 71, 9) or (numbers[0] == 580 and numbers >= (580, 178, 4))
    assert bool(list(nvidia_driver_vulnerable(a_driver(version), BULLETINS))) is not is_fixed


def test_the_finding_counts_the_flaws_and_names_the_bulletins_that_are_missing():
    (finding,) = nvidia_driver_vulnerable(a_driver("580.95.05"), BULLETINS)
    assert finding.detail.startswith("driver 580.95.05: 2 known flaws, the worst scored 8.8, fixed in 580.178.04")
    assert (finding.evidence["flaws"], finding.evidence["worst_score"]) == (2, 8.8)
    assert [(each.place, each.fix) for each in finding.instances] == [
        ("bulletin:5821", "580.159.03"),
        ("bulletin:5861", "580.178.04"),
    ]


def test_a_flaw_of_other_branches_is_not_counted():
    (finding,) = nvidia_driver_vulnerable(a_driver("580.159.03"), BULLETINS)
    assert (finding.evidence["flaws"], finding.evidence["worst_score"]) == (1, 7.8)
    assert [each.place for each in finding.instances] == ["bulletin:5861"]


def test_flaws_that_are_not_bad_weigh_less():
    mild = NvidiaBulletin(
        product="driver",
        id="1",
        published=dt.date(2026, 1, 1),
        fixed=("580.1",),
        flaws=(NvidiaFlaw(id="CVE-1", score=5.5),),
    )
    table = NvidiaBulletins(updated=BULLETINS.updated, sources=(), bulletins=(mild,))
    (finding,) = nvidia_driver_vulnerable(a_driver("580.0"), table)
    assert finding.severity is Severity.MEDIUM


def test_each_branch_is_in_the_table_once():
    table = knowledge.load(DriverBranches)
    assert len({branch.name for branch in table.branches}) == len(table.branches)


def test_counters_that_users_may_read_are_a_finding():
    (finding,) = gpu_profiling_open_to_users(a_driver(parameters={"RmProfilingAdminOnly": "0"}))
    assert finding.subject == "nvidia-driver"


def test_a_gpu_on_the_bus_that_the_driver_does_not_show_is_missing():
    second = PciGpu(address=address(1), driver="nvidia")
    (finding,) = gpu_missing(Driver(gpus=(ON_BUS, second)), Gpus(gpus=(GPU,)))
    assert finding.subject == address(1)


def test_an_excluded_gpu_and_one_that_is_shown_without_address_are_not_missing():
    excluded = PciGpu(address=address(1), driver="nvidia", excluded=True)
    assert list(gpu_missing(Driver(gpus=(ON_BUS, excluded)), Gpus(gpus=(GPU,)))) == []
    assert list(gpu_missing(Driver(gpus=(ON_BUS,)), Gpus(gpus=(refusing("GPU_IS_LOST"),)))) == []


def test_a_lost_gpu_is_a_finding_under_the_best_name_there_is():
    (finding,) = gpu_lost(Gpus(gpus=(refusing("GPU_IS_LOST", keep=("uuid", "address")),)))
    assert finding.subject == uuid(0)
    (finding,) = gpu_lost(Gpus(gpus=(refusing("GPU_IS_LOST", keep=("address",)),)))
    assert finding.subject == address(0)
    (finding,) = gpu_lost(Gpus(gpus=(refusing("GPU_IS_LOST"),)))
    assert finding.subject == "gpu/0"


def test_a_gpu_that_waits_for_a_reset_is_a_finding():
    (finding,) = gpu_reset_required(a_gpu(vbios=Refused(error="RESET_REQUIRED")))
    assert finding.subject == uuid(0)


def test_uncorrected_errors_since_the_driver_was_loaded_are_a_finding():
    (finding,) = gpu_uncorrected_ecc_errors(a_gpu(uncorrected_volatile=2))
    assert finding.evidence == {"errors": 2}


def test_ecc_that_is_off_is_a_finding_which_says_when_it_only_waits_for_a_restart():
    (off,) = gpu_ecc_disabled(a_gpu(ecc_enabled=False, ecc_pending=False))
    (waiting,) = gpu_ecc_disabled(a_gpu(ecc_enabled=False, ecc_pending=True))
    assert off.subject == waiting.subject == uuid(0)
    assert "reboot" in waiting.fix


def too_hot(gpus=None, **sample):
    return list(gpu_too_hot(gpus or a_gpu(), GpuSamples(samples=(a_sample(**sample),))))


MARGIN = a_gpu(slowdown_temperature=NOT_SUPPORTED, slowdown_margin=-2)


@pytest.mark.parametrize("margin", [-2, -5])
def test_a_gpu_at_its_slowdown_temperature_is_too_hot_by_either_measure(margin):
    found = [*too_hot(temperature=93), *too_hot(MARGIN, margin=margin)]
    assert [finding.subject for finding in found] == [uuid(0)] * 2


def test_a_hotter_gpu_is_the_same_finding_word_for_word():
    assert too_hot(temperature=93) == too_hot(temperature=99)


def test_a_gpu_below_its_limit_and_one_that_does_not_say_are_not_too_hot():
    assert too_hot(temperature=92) == too_hot(MARGIN, margin=-1) == too_hot(temperature=NOT_SUPPORTED) == []
    assert list(gpu_too_hot(a_gpu(), GpuSamples())) == []
