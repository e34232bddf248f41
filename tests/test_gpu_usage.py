"""What NVML says of processes, joined to what /proc shows of them."""

from __future__ import annotations

import msgspec

from agent.facts.gpu_samples import GpuSamples
from agent.facts.gpu_usage import hidden, with_usage
from agent.facts.nvml import GpuProcess, Refused, Sample
from agent.facts.workload import GpuPart, HeldGpu, Workload
from agent.facts.workloads import Workloads
from agent.model import Unknown

NO = Refused(error="NOT_SUPPORTED")
FIELDS = dict.fromkeys(Sample.__struct_fields__, NO)


def gpu(index, *compute, utilisation=70, **fields) -> Sample:
    processes = tuple(GpuProcess(pid=pid, memory=memory) for pid, memory in compute)
    told = {"index": index, "uuid": f"GPU-{index}", "address": f"0000:00:0{4 + index}.0", "compute": processes}
    return msgspec.convert({**FIELDS, **told, "utilisation": utilisation, **fields}, Sample, from_attributes=True)


def work(pid, *minors, **fields) -> Workload:
    held = tuple(HeldGpu(minor=each, address=f"0000:00:0{4 + each}.0", uuid=f"GPU-{each}") for each in minors)
    return Workload(pid=pid, started=1, uid=0, gpus=held, **fields)


def test_memory_is_that_of_each_gpu_and_the_load_that_of_who_is_alone():
    gpus = GpuSamples(samples=(gpu(0, (7, 100), (8, 200)), gpu(1, (7, 300))))
    seen = with_usage(Workloads(workloads=(work(7, 0, 1), work(8, 0, 1), work(9, 0))), gpus)
    seven, eight, nine = seen.workloads
    assert [(each.memory, each.utilisation) for each in seven.gpus] == [(100, None), (300, 70)]
    assert [(each.memory, each.utilisation) for each in eight.gpus] == [(200, None), (None, None)]
    assert nine.gpus[0].memory is None
    assert seen.hidden == ()


def test_what_nvml_refuses_is_not_zero():
    gpus = GpuSamples(samples=(gpu(0, (7, None), utilisation=NO), gpu(1, compute=NO)))
    (seven,) = with_usage(Workloads(workloads=(work(7, 0, 1),)), gpus).workloads
    assert [(each.memory, each.utilisation) for each in seven.gpus] == [(None, None), (None, None)]


def test_a_gpu_that_only_nvml_tells_of_is_added():
    (seven,) = with_usage(Workloads(workloads=(work(7),)), GpuSamples(samples=(gpu(1, (7, 5)),))).workloads
    assert seven.gpus == (HeldGpu(minor=None, address="0000:00:05.0", uuid="GPU-1", memory=5, utilisation=70),)


def test_a_client_of_mps_is_told():
    gpus = GpuSamples(samples=(gpu(0, (6, 30), mps=(GpuProcess(pid=7, memory=50),)),))
    server, client = with_usage(Workloads(workloads=(work(6, 0, mps="server"), work(7, 0))), gpus).workloads
    assert (server.mps, client.mps, client.gpus[0].memory) == ("server", "client", 50)


def test_only_what_nvml_shows_before_and_after_is_hidden():
    before, after = (
        GpuSamples(samples=(gpu(0, (7, 1), (66, 1), (9, 1)),)),
        GpuSamples(samples=(gpu(0, (7, 1), (66, 1), (8, 1)),)),
    )
    looked = Workloads(workloads=(work(7, 0),))
    assert with_usage(looked, after).hidden == (), "it may have ended, or begun"
    assert with_usage(looked, after, before).hidden == (66,)
    assert hidden(looked, before, after) == (66,)


def test_a_process_that_waits_for_its_parent_is_not_hidden():
    told = GpuSamples(samples=(gpu(0, (66, 1)),))
    assert hidden(Workloads(ending=(66,)), told, told) == ()


def test_where_not_all_could_be_looked_into_nothing_is_called_hidden():
    told = GpuSamples(samples=(gpu(0, (66, 1)),))
    assert hidden(Workloads(complete=False, gaps=(Unknown(reason="x"),)), told, told) == ()


def test_answers_from_before_the_last_start_say_nothing():
    before, after = (GpuSamples(samples=(gpu(0, (66, 1)),), boot=boot) for boot in ("a", "b"))
    assert hidden(Workloads(), before, after) == ()


def test_the_load_of_a_process_and_its_part_of_a_gpu_are_told():
    process = GpuProcess(pid=7, memory=1, utilisation=30, gpu_instance=2, compute_instance=0)
    (seven,) = with_usage(
        Workloads(workloads=(work(7, 0),)), GpuSamples(samples=(gpu(0, compute=(process,)),))
    ).workloads
    assert (seven.gpus[0].utilisation, seven.gpus[0].parts) == (30, (GpuPart(gpu_instance=2, compute_instance=0),))
