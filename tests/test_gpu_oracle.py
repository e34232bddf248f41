"""Another reader of NVML, over the same library: its numbers are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agent.config import Config, GpuSection
from agent.facts.gpu import gpus
from agent.facts.gpu_samples import gpu_samples
from tests.fakes import nvml
from tests.fakes.nvml import A100, H100, L4, T4, machine

CONFIG = Config(gpu=GpuSection(library=nvml.LIBRARY))
MEBIBYTE = 1 << 20


@pytest.mark.slow
def test_gpustat_says_the_same(tmp_path):
    pytest.importorskip("gpustat", reason="gpustat is not installed here: pip install '.[test]'")
    busy = {
        "compute": f"1,{os.getpid()},{300 * MEBIBYTE}",
        "utilisation": "37,5",
        "power": "65432",
        "temperature": "71",
    }
    host = machine(tmp_path, [{**T4, **busy}, L4, A100, H100])
    said = subprocess.run(
        [sys.executable, "-m", "gpustat", "--json"],
        capture_output=True,
        check=True,
        env={**os.environ, "LD_LIBRARY_PATH": host.place(nvml.DIRECTORY)},
    )
    theirs = json.loads(said.stdout)
    assert [_theirs(each) for each in theirs["gpus"]] == [
        _ours(gpu, sample)
        for gpu, sample in zip(gpus(host, CONFIG).gpus, gpu_samples(host, CONFIG, None).samples, strict=True)
    ]


def _theirs(gpu):
    return (
        gpu["index"],
        gpu["uuid"],
        gpu["name"],
        gpu["temperature.gpu"],
        gpu["utilization.gpu"],
        gpu["memory.used"],
        gpu["memory.total"],
        gpu["power.draw"],
        gpu["enforced.power.limit"],
        [(each["pid"], each["gpu_memory_usage"]) for each in gpu["processes"]],
    )


def _ours(gpu, sample):
    return (
        gpu.index,
        gpu.uuid,
        gpu.name,
        sample.temperature,
        sample.utilisation,
        sample.memory_used // MEBIBYTE,
        gpu.memory_total // MEBIBYTE,
        sample.power // 1000,
        gpu.power_limit // 1000,
        [(each.pid, each.memory // MEBIBYTE) for each in sample.compute],
    )
