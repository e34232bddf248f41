"""When NVML is left alone: released by an operator, while packages change, and where asking wakes an idle GPU."""

from __future__ import annotations

import datetime as dt
import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import Config, GpuSection
from agent.facts import gpu_pause
from agent.facts.gpu import gpus
from agent.facts.gpu_samples import gpu_samples
from agent.facts.nvml import NOT_ASKED
from agent.model import CannotLookError
from tests.fakes import nvml
from tests.fakes.nvml import T4, kernel, machine
from tests.fakes.trees import plant

CONFIG = Config(gpu=GpuSection(library=nvml.LIBRARY))
SLEEPY = {**T4, "persistence": "0"}
WALL = dt.datetime(2026, 11, 24, 12, 30, tzinfo=dt.timezone.utc)
UVM = "/sys/module/nvidia_uvm/refcnt"


def released_for(root, seconds):
    return plant(root, {gpu_pause.RELEASE: gpu_pause.release_text(gpu_pause.uptime() + seconds, WALL)})


def silent(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent")  # whoever asks NVML from here on fails


def test_gpus_are_not_released_by_a_time_that_is_over_or_far_away_or_by_garbage(tmp_path):
    assert gpu_pause.released(plant(tmp_path, {"/etc/": ""})) == ""
    for seconds in (-1, 86400 + 60):
        assert gpu_pause.released(released_for(tmp_path, seconds)) == ""
    for text in ("", "over", "nan 2026-11-24T12:30:00Z", "inf 2026-11-24T12:30:00Z", "99", "x" * 70000):
        assert gpu_pause.released(plant(tmp_path, {gpu_pause.RELEASE: text})) == ""


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.binary(max_size=300))
def test_whatever_lies_there_is_a_reason_to_pause_or_none(tmp_path, release, locks):
    host = plant(tmp_path, {gpu_pause.RELEASE: release, "/proc/locks": locks, "/var/lib/dpkg/lock": ""})
    paused = gpu_pause.pause(host)
    assert paused is None or paused.reason


def test_released_gpus_are_left_alone_and_what_was_seen_stays_with_the_reason(tmp_path, monkeypatch):
    host = machine(tmp_path, [T4])
    before, samples = gpus(host, CONFIG), gpu_samples(host, CONFIG, None)
    released_for(tmp_path, 600)
    silent(monkeypatch)
    after = gpus(host, CONFIG, before)
    assert after.gpus == before.gpus
    assert [gap.reason for gap in after.gaps] == ["paused by the operator until 2026-11-24 12:30 UTC"]
    assert gpu_samples(host, CONFIG, samples).gaps == after.gaps
    for probe in (gpus, gpu_samples):
        with pytest.raises(CannotLookError, match="paused by the operator"):
            probe(host, CONFIG, None)


def test_once_the_release_is_over_they_are_asked_again(tmp_path):
    host = machine(tmp_path, [SLEEPY])
    before = gpus(host, CONFIG)
    released_for(tmp_path, 600)
    paused = gpus(host, CONFIG, before)
    released_for(tmp_path, -1)
    assert gpus(host, CONFIG, paused).gaps == ()


@pytest.mark.parametrize("path", ["/var/lib/dpkg/lock", "/var/lib/rpm/.rpm.lock"])
def test_while_a_package_manager_writes_nvml_is_left_alone(tmp_path, path):
    host = plant(tmp_path, {path: ""})
    seen = os.stat(f"{tmp_path}{path}")
    where = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    for kind, pausing in (("WRITE", True), ("READ ", False)):
        plant(
            tmp_path,
            {"/proc/locks": f"1: FLOCK  ADVISORY  WRITE 9 00:01:2 0 EOF\n2: POSIX  ADVISORY  {kind} 7 {where} 0 EOF\n"},
        )
        assert bool(gpu_pause.pause(host)) is pausing


@pytest.mark.parametrize("locks", ["", "garbage\n", "1: POSIX  ADVISORY  WRITE\n", "\x00\x00"])
def test_locks_that_say_nothing_of_packages_pause_nothing(tmp_path, locks):
    assert gpu_pause.pause(plant(tmp_path, {"/proc/locks": locks, "/var/lib/dpkg/lock": ""})) is None


@pytest.mark.parametrize(("tree", "used"), [({"/etc/": ""}, False), ({UVM: "0\n"}, False), ({UVM: "4\n"}, True)])
def test_a_gpu_is_in_use_when_cuda_programs_hold_it(tmp_path, tree, used):
    assert gpu_pause.in_use(plant(tmp_path, tree)) is used


def test_with_persistence_mode_gpus_are_asked_each_time(tmp_path, monkeypatch):
    host = machine(tmp_path, [T4])
    before = gpus(host, CONFIG)
    silent(monkeypatch)
    with pytest.raises(CannotLookError):
        gpus(host, CONFIG, before)


def test_an_idle_gpu_without_persistence_mode_is_not_woken_twice_in_an_hour(tmp_path, monkeypatch):
    host = machine(tmp_path, [SLEEPY], files={**kernel(1), UVM: "0\n"})
    before, samples = gpus(host, CONFIG), gpu_samples(host, CONFIG, None)
    silent(monkeypatch)
    again = gpu_samples(host, CONFIG, gpu_samples(host, CONFIG, samples))
    assert (again.resting, again.samples, again.uptime) == (True, (), samples.uptime)
    long_ago = msgspec.structs.replace(before, asked="another boot 2026-11-24T10")
    assert gpus(host, CONFIG, msgspec.structs.replace(before, asked=_this_hour(host))).gpus == before.gpus
    for probe, earlier in ((gpus, long_ago), (gpu_samples, msgspec.structs.replace(again, uptime=again.uptime - 3601))):
        with pytest.raises(CannotLookError):
            probe(host, CONFIG, earlier)


def _this_hour(host):
    return f"{gpu_pause.boot(host)} {dt.datetime.now(dt.timezone.utc):%Y-%m-%dT%H}"


def test_a_gpu_without_persistence_mode_is_asked_while_a_program_holds_it(tmp_path):
    host = machine(tmp_path, [SLEEPY], files={**kernel(1), UVM: "2\n"})
    samples = gpu_samples(host, CONFIG, gpu_samples(host, CONFIG, None))
    assert (samples.resting, len(samples.samples)) == (False, 1)


def test_the_inforom_is_checked_once_a_day_and_remembered_meanwhile(tmp_path):
    before = gpus(machine(tmp_path / "bad", [{**T4, "nvmlDeviceValidateInforom": "14"}]), CONFIG)
    assert before.gpus[0].inforom_valid is False
    host = machine(tmp_path / "good", [T4])
    assert gpus(host, CONFIG, before).gpus[0].inforom_valid is False
    yesterday = msgspec.structs.replace(before, inforom_checked=dt.date(2026, 1, 1))
    assert gpus(host, CONFIG, yesterday).gpus[0].inforom_valid is True
    another = msgspec.structs.replace(before, gpus=())
    assert gpus(host, CONFIG, another).gpus[0].inforom_valid == NOT_ASKED
