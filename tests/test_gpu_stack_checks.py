"""What must not be true of what the GPUs rest on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.checks.gpu_libraries import (
    gpu_library_changed,
    gpu_library_implausible,
    gpu_library_second,
    gpu_nvml_contradicts_kernel,
    gpu_preloaded_library,
)
from agent.checks.gpu_stack import (
    containers_take_gpus,
    gpu_memory_not_cleared,
    gpu_mps_of_a_user,
    gpu_node_of_a_user,
    gpu_nodes_open_to_all,
    gpu_partitioning_open_to_all,
    gpu_stack_writable,
    module_signing_key,
    nvidia_container_toolkit_runs_image,
    nvidia_module_forced,
    nvidia_module_overrides,
    nvidia_module_unsigned,
)
from agent.config import Config
from agent.discovery import checks
from agent.evaluate import evaluate
from agent.facts.gpu import DeviceNode, Driver, Gpus, Library, Module, PciGpu
from agent.facts.gpu_access import MPS, GpuAccess
from agent.facts.gpu_files import TrustedFile
from agent.facts.gpu_libraries import GpuLibraries, GpuLibrary
from agent.facts.gpu_module import GpuModule, Setting
from agent.facts.module_signature import ModuleFile
from agent.facts.nvidia_container_toolkit import ToolkitConfiguration
from agent.facts.nvidia_software import NvidiaSoftware
from agent.facts.nvml import Gpu, Refused
from agent.model import Fact, Seen, Severity, Unknown
from tests.fakes.trees import NOW

DIRECTORY = "/usr/lib/x86_64-linux-gnu"
VERSION = "580.178.04"
CONFIG = Config()
UUID = "GPU-00000000-0000-4000-8000-000000000000"
NOTHING_SAID: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Refused(error="NOT_SUPPORTED"))
GPU = Gpu(**{**NOTHING_SAID, "index": 0, "uuid": UUID, "address": "0000:00:04.0"})
KEY = "/var/lib/shim-signed/mok/MOK.priv"


def a_file(path: str, *, owner: int = 0, group: int = 0, mode: int = 0o644) -> TrustedFile:
    return TrustedFile(path=path, owner=owner, group=group, mode=mode)


def a_node(path: str, *, owner: int = 0, mode: int = 0o666) -> DeviceNode:
    return DeviceNode(path=path, owner=owner, group=0, mode=mode)


NVML = GpuLibrary(
    path=f"{DIRECTORY}/libnvidia-ml.so.{VERSION}",
    names=(f"{DIRECTORY}/libnvidia-ml.so.1",),
    version=VERSION,
    bits=64,
    size=2_200_000,
    digest="a" * 32,
    first="a" * 32,
    stamp=(1, 2, 3, 4),
)


def a_library(**fields: Any) -> GpuLibrary:
    return msgspec.structs.replace(NVML, **fields)


def these(*libraries: GpuLibrary) -> GpuLibraries:
    return GpuLibraries(libraries=libraries)


# A Deep Learning VM as it is installed. Google's driver comes from NVIDIA's own installer or is built by DKMS: out of
# tree and unsigned (OE), with the closed module also proprietary (P), while Secure Boot is off. Nodes are open to all,
# as the driver makes them; one account has a shell. Docker knows NVIDIA's runtime, and not as the one for all.
STOCK_MODULE = GpuModule(
    taint="POE",
    kernel_taint=12289,
    file=ModuleFile(path="/lib/modules/6.1.0-30-cloud-amd64/updates/dkms/nvidia.ko", signed=False),
    lockdown="none",
    secure_boot=False,
    setup_mode=True,
    keys=(a_file(KEY, mode=0o600),),
    parameters={
        "DeviceFileMode": "438", "EnableDbgBreakpoint": "0", "InitializeSystemMemoryAllocations": "1",
        "OpenRmEnableUnsupportedGpus": "1", "PreserveVideoMemoryAllocations": "1", "RegistryDwords": "",
        "TemporaryFilePath": "/var",
    },
    trusted=(a_file("/etc/modprobe.d/nvidia.conf"),),
)  # fmt: skip
STOCK_LIBRARIES = GpuLibraries(
    libraries=(NVML,),
    trusted=(a_file(NVML.path), a_file(DIRECTORY, mode=0o755), a_file("/usr/local/lib", group=50, mode=0o2775)),
)
STOCK_ACCESS = GpuAccess(
    trusted=(a_file("/usr/bin/nvidia-modprobe", mode=0o4755),), managing=("/dev/nvidia-caps/nvidia-cap1",), people=2
)
STOCK_DRIVER = Driver(
    gpus=(PciGpu(address="0000:00:04.0", driver="nvidia", uuid=UUID),),
    module=Module(version=VERSION, flavour="proprietary"),
    libraries=(Library(path=f"{DIRECTORY}/libnvidia-ml.so.1", version=VERSION),),
    nodes=(a_node("/dev/nvidia0"), a_node("/dev/nvidiactl"), a_node("/dev/nvidia-caps/nvidia-cap1", mode=0o400)),
)
STOCK_GPUS = Gpus(driver=VERSION, gpus=(GPU,))
STOCK_SOFTWARE = NvidiaSoftware(toolkit=ToolkitConfiguration())

STOCK: tuple[Fact, ...] = (
    STOCK_MODULE, STOCK_LIBRARIES, STOCK_ACCESS, STOCK_DRIVER, STOCK_GPUS, STOCK_SOFTWARE,
)  # fmt: skip
NOTHING = (GpuModule(), GpuLibraries(), GpuAccess(), Driver(), Gpus(), NvidiaSoftware())


def outcomes(facts):
    ours = [each for each in checks() if each.topic in {"gpu_stack", "gpu_libraries"}]
    assert len(ours) >= 17
    seen = {type(fact): Seen(fact=fact, taken=NOW.now) for fact in facts}
    return evaluate(ours, seen, CONFIG, NOW)


@pytest.mark.parametrize("facts", [NOTHING, STOCK], ids=["no GPU", "as it is installed"])
def test_nothing_is_said_of_a_machine_without_gpu_nor_of_one_as_it_is_installed(facts):
    said = outcomes(facts)
    assert [each.findings + each.unknowns for each in said] == [()] * len(said)


def test_a_fact_that_could_not_be_read_is_no_pass():
    facts = [Seen(fact=Unknown(reason="dark"), taken=NOW.now) for _ in STOCK]
    ours = [each for each in checks() if each.topic in {"gpu_stack", "gpu_libraries"}]
    said = evaluate(ours, dict(zip(map(type, STOCK), facts, strict=True)), CONFIG, NOW)
    assert all(each.unknowns for each in said)


@pytest.mark.parametrize(
    ("file", "who"),
    [
        (a_file("/etc/cdi", mode=0o777), "every user"),
        (a_file("/usr/bin/nvidia-modprobe", owner=1000, mode=0o4755), "the user 1000"),
        (a_file("/etc/modprobe.d/nvidia.conf", group=44, mode=0o664), "the group 44"),
    ],
)
def test_what_others_than_root_may_change_is_told(file, who):
    for facts in (
        (GpuModule(trusted=(file,)), GpuLibraries(), GpuAccess()),
        (GpuModule(), GpuLibraries(trusted=(file,)), GpuAccess()),
        (GpuModule(), GpuLibraries(), GpuAccess(trusted=(file,))),
    ):
        (finding,) = gpu_stack_writable(*facts)
        assert (finding.subject, finding.detail) == (file.path, f"{file.path} can be changed by {who}")


def test_a_path_in_the_command_that_fixes_is_quoted():
    (finding,) = gpu_stack_writable(
        GpuModule(), GpuLibraries(), GpuAccess(trusted=(a_file("/etc/cdi/$(x).json", owner=7),))
    )
    assert "'/etc/cdi/$(x).json'" in finding.fix


def test_a_library_that_is_not_its_packages_is_told():
    assert not list(gpu_library_changed(these(a_library(package="libnvidia-ml1", packaged="a" * 32, first="b" * 32))))
    (finding,) = gpu_library_changed(these(a_library(package="libnvidia-ml1", packaged="b" * 32)))
    assert finding.detail == f"{NVML.path} is not the one of package libnvidia-ml1"
    assert "dpkg --verify libnvidia-ml1" in finding.fix


def test_a_library_without_package_that_is_not_what_it_was_is_told():
    (finding,) = gpu_library_changed(these(a_library(first="b" * 32)))
    assert finding.detail == f"{NVML.path} is not the one that was first seen here"


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"size": 60_000}, "the file has 60000 bytes only"),
        ({"version": ""}, "the file has no driver version in its name"),
        ({"bits": 0, "size": 10}, "the file is no library"),
    ],
)
def test_what_does_not_look_like_nvidias_library_is_told(fields, detail):
    (finding,) = gpu_library_implausible(these(a_library(**fields)))
    assert (finding.detail, finding.severity) == (f"{NVML.names[0]}: {detail}", None)


# The stub is NVIDIA's own and harmless, but whoever finds it gets no GPU: not urgent, and not right either.
def test_a_stub_of_the_toolkit_where_the_loader_looks_is_less_severe():
    stub = "/usr/local/cuda-12.8/targets/x86_64-linux/lib/stubs/libcuda.so"
    (finding,) = gpu_library_implausible(these(a_library(path=stub, size=70_000, version="")))
    assert finding.severity is Severity.MEDIUM


OTHER = a_library(path="/usr/local/lib/libnvidia-ml.so.1", names=("/usr/local/lib/libnvidia-ml.so.1",))


@pytest.mark.parametrize(
    "second",
    [
        msgspec.structs.replace(OTHER, bits=32),
        # CUDA's forward compatibility brings a second libcuda, of a newer version, on purpose.
        a_library(path="/usr/local/cuda/compat/libcuda.so.590.48.01", names=("/usr/local/cuda/compat/libcuda.so.1",)),
    ],
    ids=["for 32-bit programs", "forward compatibility"],
)
def test_libraries_that_belong_beside_the_first_are_quiet(second):
    assert list(gpu_library_second(these(NVML, second))) == []


def test_a_second_library_for_nvml_is_told():
    (finding,) = gpu_library_second(these(NVML, OTHER))
    assert finding.subject == OTHER.path


def test_what_is_loaded_into_every_program_is_told():
    (finding,) = gpu_preloaded_library(GpuLibraries(preloaded=("/usr/lib/hook.so",)))
    assert finding.subject == "/usr/lib/hook.so"


@pytest.mark.parametrize(
    "gpus",
    [
        Gpus(),
        Gpus(driver=Refused(error="UNKNOWN")),
        msgspec.structs.replace(STOCK_GPUS, gpus=()),  # told by gpu-missing
        Gpus(driver=VERSION, gpus=(msgspec.structs.replace(GPU, address=Refused(error="GPU_IS_LOST")),)),
    ],
    ids=["none", "refused", "fewer", "lost"],
)
def test_nvml_that_says_less_does_not_contradict(gpus):
    assert list(gpu_nvml_contradicts_kernel(STOCK_DRIVER, gpus)) == []


def test_a_driver_that_waits_for_a_restart_does_not_contradict():
    waiting = msgspec.structs.replace(STOCK_DRIVER, module=Module(version="570.211.01"))
    assert list(gpu_nvml_contradicts_kernel(waiting, STOCK_GPUS)) == []


@pytest.mark.parametrize(
    ("gpus", "detail"),
    [
        (Gpus(driver="535.1.1"), f"NVML names driver 535.1.1, the kernel runs {VERSION}"),
        (
            Gpus(driver=VERSION, gpus=(msgspec.structs.replace(GPU, address="0000:00:09.0"),)),
            "NVML shows a GPU at 0000:00:09.0, where the bus has none",
        ),
        (
            Gpus(driver=VERSION, gpus=(msgspec.structs.replace(GPU, uuid="GPU-1"),)),
            f"NVML calls the GPU at 0000:00:04.0 GPU-1, the kernel {UUID}",
        ),
    ],
)
def test_nvml_that_says_what_the_kernel_does_not_know_is_told(gpus, detail):
    (finding,) = gpu_nvml_contradicts_kernel(STOCK_DRIVER, gpus)
    assert finding.detail == detail


# Unsigned is usual, and said only where Secure Boot promises that there is no such thing.
def test_an_unsigned_module_is_told_under_secure_boot_alone():
    assert not list(nvidia_module_unsigned(GpuModule(taint="POE")))
    assert not list(nvidia_module_unsigned(GpuModule(taint="PO", secure_boot=True)))
    assert list(nvidia_module_unsigned(GpuModule(taint="POE", secure_boot=True)))


def test_a_module_loaded_by_force_is_told():
    assert list(nvidia_module_forced(GpuModule(taint="OF")))


# Ubuntu and DKMS keep the key for root alone: a word about it under Secure Boot, which it weakens, and none without.
@pytest.mark.parametrize(
    ("mode", "secure_boot", "severities"),
    [
        (0o600, False, []),
        (0o600, None, []),
        (0o600, True, [Severity.INFO]),
        (0o644, False, [None]),
        (0o644, True, [None]),
    ],
)
def test_a_signing_key_is_judged_by_its_readers(mode, secure_boot, severities):
    found = list(module_signing_key(GpuModule(keys=(a_file(KEY, mode=mode),), secure_boot=secure_boot)))
    assert [each.severity for each in found] == severities


def test_memory_that_is_not_cleared_is_told_with_where_it_was_set():
    name = "InitializeSystemMemoryAllocations"
    place = Setting(name=name, value="0", place="/etc/modprobe.d/fast.conf")
    (finding,) = gpu_memory_not_cleared(GpuModule(parameters={name: "0"}, settings=(place,)))
    assert finding.detail == f"{name} is 0, set in /etc/modprobe.d/fast.conf"


# Somebody set them on purpose, and nobody else sees that they are set: a note and no alarm.
def test_overrides_are_noted():
    seen = GpuModule(parameters={"RegistryDwords": "RmX=1", "EnableDbgBreakpoint": "1"})
    assert [each.subject for each in nvidia_module_overrides(seen)] == [
        "nvidia-driver:RegistryDwords", "nvidia-driver:EnableDbgBreakpoint",
    ]  # fmt: skip


def test_a_device_node_of_a_user_is_told():
    (finding,) = gpu_node_of_a_user(Driver(nodes=(a_node("/dev/nvidia0", owner=1000),)))
    assert finding.subject == "/dev/nvidia0"


# Open nodes are the driver's default: worth a note where several people share the machine.
def test_open_nodes_are_noted_where_several_people_have_accounts():
    (finding,) = gpu_nodes_open_to_all(STOCK_DRIVER, GpuAccess(people=3))
    assert finding.detail == "1 of 1 GPUs are open to every user; 3 accounts have a shell"
    assert not list(gpu_nodes_open_to_all(Driver(nodes=(a_node("/dev/nvidia0", mode=0o660),)), GpuAccess(people=3)))


def test_partitioning_that_all_may_do_is_told():
    node = a_node("/dev/nvidia-caps/nvidia-cap1", mode=0o444)
    assert list(gpu_partitioning_open_to_all(Driver(nodes=(node,)), STOCK_ACCESS))
    monitor = a_node("/dev/nvidia-caps/nvidia-cap2", mode=0o444)  # meant for all, as the driver makes it
    assert not list(gpu_partitioning_open_to_all(Driver(nodes=(monitor,)), STOCK_ACCESS))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (a_file(MPS, mode=0o755), []),
        (a_file(MPS, owner=1000, mode=0o755), [f"the service in {MPS} belongs to the user 1000"]),
        (a_file(MPS, mode=0o777), [f"the service in {MPS} can be replaced by every user"]),
    ],
)
def test_mps_is_judged_by_whose_it_is(place, said):
    assert [each.detail for each in gpu_mps_of_a_user(GpuAccess(mps=place))] == said


def test_ldconfig_of_the_image_is_told():
    software = NvidiaSoftware(toolkit=ToolkitConfiguration(container_ldconfig=True))
    assert list(nvidia_container_toolkit_runs_image(software))


# One that is often wanted, so a note: the runtime for all containers, unless images may not ask.
def test_gpus_for_every_image_are_noted():
    access = GpuAccess(default_runtime="nvidia")
    (finding,) = containers_take_gpus(STOCK_SOFTWARE, access)
    assert finding.subject == "nvidia-container-toolkit"
    strict = NvidiaSoftware(toolkit=ToolkitConfiguration(asked_by_environment=False))
    assert not list(containers_take_gpus(strict, access))
