"""GPUs as NVML describes them: the real bindings in the real child process, over a stand-in of the library."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config, GpuSection
from agent.facts.gpu import gpus
from agent.facts.gpu_samples import gpu_samples
from agent.facts.nvml import Gpu, GpuProcess, Refused, Sample, parse_survey
from agent.host import Answer, shown
from agent.model import CannotLookError
from tests.fakes import nvml
from tests.fakes.nvml import A100, H100, SOURCE, T4, address, kernel, machine, uuid
from tests.fakes.trees import plant

# As an ordinary user the stand-in is not root's, which is trusted only where the configuration names it.
CONFIG = Config(gpu=GpuSection(library=nvml.LIBRARY))
QUICK = Config(gpu=GpuSection(library=nvml.LIBRARY, deadline_seconds=1.0))
DEVICE_CALLS = set(re.findall(r"nvmlDeviceGet\w+", SOURCE.read_text())) - {"nvmlDeviceGetHandleByIndex_v2"}
DEVICE_CALLS -= {"nvmlDeviceGetCount_v2"}
DEVICE_CALLS |= {"nvmlDeviceValidateInforom"}


def the_gpu(host) -> Gpu:
    (gpu,) = gpus(host, CONFIG).gpus
    return gpu


def the_sample(host) -> Sample:
    (sample,) = gpu_samples(host, CONFIG, None).samples
    return sample


@pytest.mark.parametrize(
    ("profile", "slowdown", "margin"),
    [(T4, 93, Refused(error="NOT_SUPPORTED")), (A100, 89, Refused(error="NOT_SUPPORTED")), (H100, None, -2)],
)
def test_a_gpu_is_described(tmp_path, profile, slowdown, margin):
    gpu = the_gpu(machine(tmp_path, [profile]))
    assert (gpu.name, gpu.key, gpu.address) == (profile["name"], uuid(0), address(0))
    assert (gpu.ecc_enabled, gpu.ecc_pending, gpu.uncorrected_volatile) == (True, True, 0)
    assert gpu.memory_total == int(profile["memory"].split(",")[0])
    assert gpu.slowdown_temperature == (slowdown or Refused(error="NOT_SUPPORTED"))
    assert gpu.slowdown_margin == margin


def test_what_the_driver_counts_is_passed_on(tmp_path):
    counted = {"corrected": "5,900", "uncorrected": "2,7", "utilisation": "98,40", "memory": "1000,400", "ecc": "0,1"}
    host = machine(tmp_path, [{**T4, **counted}])
    gpu, sample = the_gpu(host), the_sample(host)
    assert (gpu.corrected_volatile, gpu.corrected_aggregate) == (5, 900)
    assert (gpu.uncorrected_volatile, gpu.uncorrected_aggregate) == (2, 7)
    assert (sample.utilisation, sample.memory_utilisation, sample.memory_used) == (98, 40, 400)
    assert (gpu.ecc_enabled, gpu.ecc_pending) == (False, True)


def test_a_counter_of_64_bits_fits(tmp_path):
    assert the_gpu(machine(tmp_path, [{**T4, "corrected": f"-1,{2**63 - 1}"}])).corrected_volatile == 2**64 - 1


def test_processes_come_by_kind_with_memory_where_it_is_accounted_for(tmp_path):
    gpu = the_sample(machine(tmp_path, [{**T4, "compute": "2,1000,4096", "graphics": "1,77", "mps": "1,88,1"}]))
    assert gpu.compute == (GpuProcess(pid=1000, memory=4096), GpuProcess(pid=1001, memory=4096))
    assert gpu.graphics == (GpuProcess(pid=77, memory=None),)
    assert gpu.mps == (GpuProcess(pid=88, memory=1),)


@pytest.mark.parametrize("count", [0, 1, 8, 16])
def test_any_number_of_gpus(tmp_path, count):
    seen = gpus(machine(tmp_path, [A100] * count), CONFIG)
    assert [gpu.key for gpu in seen.gpus] == [uuid(index) for index in range(count)]
    assert (seen.driver, seen.gaps) == (nvml.VERSION, ())


def test_two_thousand_processes_on_each_of_sixteen_gpus(tmp_path):
    seen = gpu_samples(machine(tmp_path, [{**H100, "compute": "2000,100,4096"}] * 16), CONFIG, None)
    assert [len(gpu.compute) for gpu in seen.samples if not isinstance(gpu.compute, Refused)] == [2000] * 16


@pytest.mark.parametrize(
    ("code", "error"),
    [(4, "NO_PERMISSION"), (10, "TIMEOUT"), (13, "FUNCTION_NOT_FOUND"), (999, "UNKNOWN"), (77, "CODE_77")],
)
def test_a_refused_field_says_its_error_and_is_a_gap_of_that_gpu_alone(tmp_path, code, error):
    broken = {**T4, "nvmlDeviceGetTotalEccErrors": str(code), "nvmlDeviceGetEnforcedPowerLimit": str(code)}
    seen = gpus(machine(tmp_path, [T4, broken]), CONFIG)
    assert seen.gpus[0].uncorrected_volatile == 0
    assert seen.gpus[1].uncorrected_volatile == seen.gpus[1].power_limit == Refused(error=error)
    assert [gap.scope for gap in seen.gaps] == [uuid(1)]
    assert f"uncorrected_volatile ({error})" in seen.gaps[0].reason


def test_what_a_card_does_not_have_is_an_answer_and_no_gap(tmp_path):
    host = machine(tmp_path, [{"name": "GPU"}])
    seen = gpus(host, CONFIG)
    assert seen.gpus[0].ecc_enabled == Refused(error="NOT_SUPPORTED")
    assert seen.gaps == gpu_samples(host, CONFIG, None).gaps == ()


def test_functions_that_an_old_driver_lacks_are_said_and_the_rest_is_seen(tmp_path):
    gone = ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMarginTemperature", "nvmlDeviceGetRemappedRows",
            "nvmlDeviceGetGpuFabricInfoV", "nvmlSystemGetConfComputeState")  # fmt: skip
    host = machine(tmp_path, [H100], without=gone)
    seen = gpus(host, CONFIG)
    lacking = {name for name, error in seen.gpus[0].refusals().items() if error == "FUNCTION_NOT_FOUND"}
    assert lacking == {"rows_remapped", "rows_remapped_uncorrected", "remap_pending", "remap_failed", "fabric"}
    assert (seen.confidential, seen.gaps) == (Refused(error="FUNCTION_NOT_FOUND"), ())
    assert the_sample(host).refusals() == {"margin": "FUNCTION_NOT_FOUND", "mps": "FUNCTION_NOT_FOUND"}


@pytest.mark.parametrize(
    ("gone", "field", "value"),
    [("nvmlDeviceGetTemperature", "temperature", 40), ("nvmlDeviceGetCurrentClocksEventReasons", "clock_reasons", 1)],
)
def test_a_call_that_was_renamed_or_withdrawn_is_asked_by_its_other_name(tmp_path, gone, field, value):
    assert getattr(the_sample(machine(tmp_path, [T4], without=(gone,))), field) == value


@pytest.mark.parametrize("handle", [True, False])
def test_a_lost_gpu_is_present_as_lost_under_the_uuid_that_the_kernel_knows(tmp_path, handle):
    lost = dict.fromkeys(DEVICE_CALLS, "15") if handle else {"nvmlDeviceGetHandleByIndex_v2": "15"}
    seen = gpus(machine(tmp_path, [T4, {**T4, **lost}, T4]), CONFIG)
    assert [gpu.key for gpu in seen.gpus] == [uuid(0), uuid(1), uuid(2)]
    assert set(seen.gpus[1].refusals().values()) == {"GPU_IS_LOST"}
    assert [gap.scope for gap in seen.gaps] == [uuid(1)]


def test_a_lost_gpu_that_nothing_names_leaves_no_gpu_judged(tmp_path):
    lost = {**T4, "nvmlDeviceGetHandleByIndex_v2": "15"}
    files = {name: text for name, text in kernel(2).items() if not name.startswith("/sys")}
    seen = gpus(machine(tmp_path, [T4, lost], files=files), CONFIG)
    assert seen.gpus[1].key == "gpu/1"
    assert [gap.scope for gap in seen.gaps] == [""]


def test_a_gpu_on_the_bus_that_nvml_does_not_show_is_a_gap(tmp_path):
    seen = gpus(machine(tmp_path, [T4], files=kernel(2)), CONFIG)
    assert [gpu.key for gpu in seen.gpus] == [uuid(0)]
    assert [gap.scope for gap in seen.gaps] == [uuid(1)]


@pytest.mark.parametrize("name", [b"\xff\xfe T4", "\x1b[2JT4 \u202e", "back\\slash"])
def test_names_that_are_no_clean_text_come_out_printable(tmp_path, name):
    gpu = the_gpu(machine(tmp_path, [{**T4, "name": name}]))
    assert gpu.name == shown(name)
    assert gpu.name.isprintable()


@pytest.mark.parametrize(
    "fault", [{"nvmlInitWithFlags": "hang"}, {"nvmlDeviceGetVbiosVersion": "hang"}, {"nvmlShutdown": "hang"}]
)
def test_a_driver_that_hangs_is_reported_within_the_deadline(tmp_path, fault):
    with pytest.raises(CannotLookError, match="the NVIDIA driver gave no answer within 1 s"):
        gpus(machine(tmp_path, [T4], **fault), QUICK)


def test_a_library_that_crashes_is_reported_with_its_signal(tmp_path):
    with pytest.raises(CannotLookError, match="NVML crashed: signal 6, abort"):
        gpus(machine(tmp_path, [T4], nvmlDeviceGetName="abort"), CONFIG)


@pytest.mark.parametrize("fault", ["exit", "print"])
def test_an_answer_that_is_none_is_not_a_machine_without_gpus(tmp_path, fault):
    with pytest.raises(CannotLookError, match="not understood"):
        gpus(machine(tmp_path, [T4], nvmlDeviceGetName=fault), CONFIG)


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (18, "LIB_RM_VERSION_MISMATCH", "Restart"),
        (9, "DRIVER_NOT_LOADED", "modprobe"),
        (4, "NO_PERMISSION", "root"),
        (17, "OPERATING_SYSTEM", "char-nvidia"),
        (999, "UNKNOWN", ""),
    ],
)
def test_nvml_that_does_not_start_says_why_and_what_to_do(tmp_path, code, reason, hint):
    with pytest.raises(CannotLookError, match=reason) as caught:
        gpus(machine(tmp_path, [T4], nvmlInitWithFlags=str(code)), CONFIG)
    assert hint in caught.value.hint


def test_a_count_that_is_refused_or_absurd_is_not_a_machine_without_gpus(tmp_path):
    with pytest.raises(CannotLookError, match="TIMEOUT"):
        gpus(machine(tmp_path / "refused", [T4], nvmlDeviceGetCount_v2="10"), CONFIG)
    with pytest.raises(CannotLookError, match="claims 4294967295 GPUs"):
        gpus(machine(tmp_path / "absurd", [T4], count="4294967295"), CONFIG)


def test_a_process_list_of_absurd_length_ends_the_child_and_not_the_machine(tmp_path):
    with pytest.raises(CannotLookError, match="MemoryError"):
        gpu_samples(machine(tmp_path, [{**T4, "compute": "2000000000,1,1"}]), CONFIG, None)


def test_a_gpu_without_library_cannot_be_looked_at(tmp_path):
    with pytest.raises(CannotLookError, match=r"no libnvidia-ml\.so\.1"):
        gpus(plant(tmp_path, kernel(1)), Config())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can own a library as the system's is owned")
def test_the_systems_library_is_found_without_configuration(tmp_path):
    assert len(gpus(machine(tmp_path, [T4]), Config()).gpus) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("config", [Config(), CONFIG])
def test_a_library_of_another_user_is_not_loaded(tmp_path, config):
    host = machine(tmp_path, [T4])
    os.chown(tmp_path / nvml.LIBRARY.lstrip("/"), 1234, 1234)
    with pytest.raises(CannotLookError, match="belongs to user 1234"):
        gpus(host, config)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_library_that_others_may_write_is_not_loaded(tmp_path, mode):
    host = machine(tmp_path, [T4])
    (tmp_path / nvml.LIBRARY.lstrip("/")).chmod(mode)
    with pytest.raises(CannotLookError, match="written by others"):
        gpus(host, CONFIG)


def test_what_is_no_library_is_refused_or_said_not_to_load(tmp_path):
    with pytest.raises(CannotLookError, match="not a regular file"):
        gpus(plant(tmp_path / "directory", {**kernel(1), f"{nvml.LIBRARY}/": ""}), CONFIG)
    text = plant(tmp_path / "text", {**kernel(1), nvml.LIBRARY: "not ELF"})
    (tmp_path / f"text{nvml.LIBRARY}").chmod(0o644)
    with pytest.raises(CannotLookError, match="does not load"):
        gpus(text, CONFIG)


def test_the_environment_decides_nothing_about_the_library(tmp_path, monkeypatch):
    machine(tmp_path / "evil", [{**T4, "name": "evil"}])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / f"evil{nvml.DIRECTORY}"))
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / f"evil{nvml.LIBRARY}"))
    assert the_gpu(machine(tmp_path / "good", [T4])).name == "Tesla T4"


@settings(max_examples=50)
@given(st.integers(-64, 255), st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_the_child_prints_is_a_survey_or_a_reason(status, output, errors):
    try:
        reason = (parse_survey(Answer(status=status, output=output, errors=errors)).refused or Refused(error="")).error
    except CannotLookError as error:
        reason = error.reason
    assert isinstance(reason, str)
