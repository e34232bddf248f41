"""The NVIDIA driver and its GPUs as the kernel shows them, without waking anything."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.facts.gpu import DeviceNode, Driver, Gpus, Library, Module, PciGpu, driver, gpus, parse_fields, parse_module
from agent.model import CannotLookError
from tests.fakes import nvml
from tests.fakes.nvml import T4, address, kernel, machine, uuid
from tests.fakes.trees import plant


def test_a_machine_without_gpu_is_a_plain_answer_and_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent")
    host = plant(tmp_path, {"/sys/bus/pci/devices/0000:00:03.0/vendor": "0x8086\n"})
    assert driver(host, Config()) == Driver()
    assert gpus(host, Config()) == Gpus()


def test_a_kernel_without_pci_is_a_machine_without_gpu(tmp_path):
    assert driver(plant(tmp_path, {"/etc/": ""}), Config()) == Driver()


def test_a_graphics_card_of_another_maker_and_the_sound_of_an_nvidia_card_are_no_nvidia_gpu(tmp_path):
    devices = "/sys/bus/pci/devices"
    tree = {
        f"{devices}/0000:00:01.0/vendor": "0x1002\n",
        f"{devices}/0000:00:01.0/class": "0x030000\n",
        f"{devices}/0000:00:02.1/vendor": "0x10de\n",
        f"{devices}/0000:00:02.1/class": "0x040300\n",
    }
    assert driver(plant(tmp_path, tree), Config()).gpus == ()


def test_gpus_that_another_driver_holds_are_seen_and_nvml_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent")
    tree = {name: text for name, text in kernel(1, driver="nouveau").items() if name.startswith("/sys")}
    host = plant(tmp_path, tree)
    assert driver(host, Config()).gpus == (PciGpu(address=address(0), driver="nouveau"),)
    assert gpus(host, Config()) == Gpus()


def test_the_driver_is_read_without_asking_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent")
    seen = driver(machine(tmp_path, [T4]), Config())
    assert seen.module == Module(version=nvml.VERSION, flavour="open")
    assert seen.libraries == (Library(path=nvml.LIBRARY, version=nvml.VERSION),)
    assert seen.gpus == (PciGpu(address=address(0), driver="nvidia", uuid=uuid(0)),)
    assert seen.parameters == {"DeviceFileMode": "438", "RmProfilingAdminOnly": "1"}
    assert [node.path for node in seen.nodes] == ["/dev/nvidia0", "/dev/nvidiactl"]
    assert seen.gaps == ()


def test_device_nodes_come_with_owner_and_mode(tmp_path):
    host = plant(tmp_path, {"/dev/nvidia0": "", "/dev/nvidia-caps/nvidia-cap1": "", "/dev/null": ""})
    (tmp_path / "dev/nvidia0").chmod(0o666)
    (tmp_path / "dev/nvidia-caps/nvidia-cap1").chmod(0o400)
    owner, group = os.getuid(), (tmp_path / "dev/nvidia0").stat().st_gid
    assert driver(host, Config()).nodes == (
        DeviceNode(path="/dev/nvidia0", owner=owner, group=group, mode=0o666),
        DeviceNode(path="/dev/nvidia-caps/nvidia-cap1", owner=owner, group=group, mode=0o400),
    )


@pytest.mark.parametrize(
    ("line", "module"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12",
            Module(version="535.183.01", flavour="proprietary"),
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build  (dvs@host)",
            Module(version="580.95.05", flavour="open"),
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  390.157  Wed Oct 12",
            Module(version="390.157", flavour="proprietary"),
        ),
        ("GCC version:  gcc version 12.2.0", None),
        ("", None),
    ],
)
def test_both_flavours_of_the_module_say_their_version(line, module):
    assert parse_module(line) == module


def test_without_proc_the_version_comes_from_sysfs(tmp_path):
    host = plant(tmp_path, {"/sys/module/nvidia/version": "580.95.05\n"})
    assert driver(host, Config()).module == Module(version="580.95.05", flavour="unknown")


@pytest.mark.parametrize("path", ["/proc/driver/nvidia/version", "/sys/module/nvidia/version"])
def test_a_module_that_says_no_version_is_not_a_machine_without_module(tmp_path, path):
    with pytest.raises(CannotLookError, match="no version"):
        driver(plant(tmp_path, {path: "\x1b[31mgarbage\n"}), Config())


def test_the_library_is_followed_through_links_that_packagers_make(tmp_path):
    host = plant(
        tmp_path,
        {
            "/usr/lib64/libnvidia-ml.so.1": "-> nvidia/libnvidia-ml.so.1",
            "/usr/lib64/nvidia/libnvidia-ml.so.1": "-> ../real/libnvidia-ml.so.570.211.01",
        },
    )
    assert driver(host, Config()).libraries == (Library(path="/usr/lib64/libnvidia-ml.so.1", version="570.211.01"),)


@pytest.mark.parametrize("content", ["ELF", "-> libnvidia-ml.so.1", "-> nowhere"])
def test_a_library_without_version_in_its_name_is_a_gap(tmp_path, content):
    seen = driver(plant(tmp_path, {"/usr/lib64/libnvidia-ml.so.1": content}), Config())
    assert seen.libraries == ()
    assert [gap.scope for gap in seen.gaps] == ["nvidia-driver"]


def test_unreadable_parameters_are_a_gap_and_not_empty(tmp_path):
    tree = {name: text for name, text in kernel(0).items() if not name.endswith("params")}
    seen = driver(plant(tmp_path, {**tree, "/proc/driver/nvidia/params/": ""}), Config())
    assert ["params" in gap.reason for gap in seen.gaps] == [True]


@settings(max_examples=50)
@given(st.text())
def test_any_text_parses_without_an_error(text):
    assert all(isinstance(value, str) for value in parse_fields(text).values())
    module = parse_module(text)
    assert module is None or module.version


@settings(max_examples=50)
@given(st.from_regex(r"[0-9]{3}\.[0-9]{2,3}(\.[0-9]{2})?", fullmatch=True), st.booleans())
def test_any_version_is_found_in_its_line(version, is_open):
    name = "Open Kernel Module for x86_64" if is_open else "x86_64 Kernel Module"
    module = parse_module(f"NVRM version: NVIDIA UNIX {name}  {version}  Release\n")
    assert module == Module(version=version, flavour="open" if is_open else "proprietary")
