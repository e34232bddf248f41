"""What of NVIDIA's software is found on a disk, and what of the container toolkit's configuration."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.facts.nvidia_container_toolkit import CONFIGURATION, ToolkitConfiguration, parse
from agent.facts.nvidia_software import NvidiaComponent, NvidiaSoftware, nvidia_software, parse_version_file
from tests.fakes.trees import plant

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
SITE = "/opt/conda/lib/python3.12/site-packages"


def deb(name: str, version: str, *, status: str = "install ok installed", architecture: str = "amd64") -> str:
    return f"Package: {name}\nStatus: {status}\nArchitecture: {architecture}\nVersion: {version}\n\n"


STATUS = "".join(
    [
        deb("bash", "5.2-1"),
        deb("libnvidia-compute-580", "580.95.05-0ubuntu1"),
        deb("nvidia-container-toolkit", "1.17.8-1"),
        deb("nvidia-container-toolkit-base", "1.17.8-1"),
        deb("libnvidia-container1", "1.17.8-1"),
        deb("nvidia-fabricmanager-580", "580.95.05-1"),
        deb("datacenter-gpu-manager", "1:3.3.9", status="deinstall ok config-files"),
        deb("datacenter-gpu-manager-4-core", "1:4.2.3-2"),
        deb("datacenter-gpu-manager-exporter", "4.1.0-1"),
        deb("libcudnn9-cuda-12", "9.10.1.4-1"),
    ]
)
MACHINE = {
    "/sys/module/nvidia/version": "580.95.05\n",
    "/var/lib/dpkg/status": STATUS,
    "/var/lib/dpkg/info/libnvidia-compute-580:amd64.list": f"/.\n{LIBRARIES}\n{LIBRARIES}/libcuda.so.580.126.09\n",
    "/var/lib/dpkg/info/libcudnn9-cuda-12.list": f"/.\n{LIBRARIES}/libcudnn.so.9.10.1\n",
    f"{LIBRARIES}/libcuda.so.580.126.09": "",
    f"{LIBRARIES}/libcuda.so.1": "-> libcuda.so.580.126.09",
    f"{LIBRARIES}/libnvidia-ml.so.580.126.09": "",
    f"{LIBRARIES}/libnvidia-container.so.1.17.8": "",
    f"{LIBRARIES}/libcudnn.so.9.10.1": "",
    f"{LIBRARIES}/libnccl.so.2.27.3": "",
    f"{LIBRARIES}/libnvinfer.so.10.3.0": "",
    f"{LIBRARIES}/libc.so.6": "",
    "/usr/src/nvidia-580.126.09/": "",
    "/usr/local/cuda-12.9/version.json": json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.9.1"}, "x": [1]}),
    "/usr/local/cuda-12.9/targets/x86_64-linux/lib/libcudnn.so.8.9.7": "",
    "/usr/local/cuda-10.0/version.txt": "CUDA Version 10.0.130\n",
    "/usr/local/cuda": "-> cuda-12.9",
    "/usr/bin/nvidia-cuda-mps-control": "",
    "/usr/bin/nvidia-persistenced": "",
    f"{SITE}/nvidia_cudnn_cu12-9.1.0.70.dist-info/METADATA": "",
    f"{SITE}/nvidia_cublas-13.0.0.19.dist-info/METADATA": "",
    f"{SITE}/nvidia_ml_py-13.580.65.dist-info/METADATA": "",
    f"{SITE}/torch/lib/libcudart-9335f6a2.so.12": "",
    f"{SITE}/torch/lib/libtorch_cuda.so": "",
}


def looked(tmp_path, tree) -> NvidiaSoftware:
    return nvidia_software(plant(tmp_path, tree), Config())


def test_a_machine_without_nvidia_has_nothing_and_no_gap(tmp_path):
    tree = {"/var/lib/dpkg/status": deb("bash", "5.2-1"), "/usr/bin/bash": "", "/usr/local/": "", "/opt/": ""}
    assert looked(tmp_path, tree) == NvidiaSoftware()


def test_an_empty_root_has_nothing_and_no_gap(tmp_path):
    assert looked(tmp_path, {"/etc/": ""}) == NvidiaSoftware()


def test_everything_of_a_deep_learning_machine_is_found(tmp_path):
    fact = looked(tmp_path, MACHINE)
    assert fact.gaps == ()
    assert [(each.name, each.version, each.path, each.owner) for each in fact.components] == [
        ("container-toolkit", "1.17.8", "/usr/bin/nvidia-ctk", "deb:nvidia-container-toolkit-base:amd64"),
        ("cublas", "13.0.0.19", f"{SITE}/nvidia_cublas-13.0.0.19.dist-info", f"{SITE}#nvidia-cublas"),
        ("cuda-runtime", "12", f"{SITE}/torch/lib/libcudart-9335f6a2.so.12", f"{SITE}#torch"),
        ("cuda-toolkit", "10.0.130", "/usr/local/cuda-10.0", ""),
        ("cuda-toolkit", "12.9.1", "/usr/local/cuda-12.9", ""),
        ("cudnn", "9.1.0.70", f"{SITE}/nvidia_cudnn_cu12-9.1.0.70.dist-info", f"{SITE}#nvidia-cudnn-cu12"),
        ("cudnn", "9.10.1", f"{LIBRARIES}/libcudnn.so.9.10.1", "deb:libcudnn9-cuda-12:amd64"),
        ("cudnn", "8.9.7", "/usr/local/cuda-12.9/targets/x86_64-linux/lib/libcudnn.so.8.9.7", ""),
        ("dcgm", "4.2.3", "/usr/bin/nv-hostengine", "deb:datacenter-gpu-manager-4-core:amd64"),
        ("dcgm-exporter", "4.1.0", "/usr/bin/dcgm-exporter", "deb:datacenter-gpu-manager-exporter:amd64"),
        ("driver", "580.95.05", "/sys/module/nvidia/version", ""),
        ("driver", "580.126.09", f"{LIBRARIES}/libcuda.so.580.126.09", "deb:libnvidia-compute-580:amd64"),
        ("driver", "580.126.09", f"{LIBRARIES}/libnvidia-ml.so.580.126.09", ""),
        ("driver-source", "580.126.09", "/usr/src/nvidia-580.126.09", ""),
        ("fabric-manager", "580.95.05", "/usr/bin/nv-fabricmanager", "deb:nvidia-fabricmanager-580:amd64"),
        ("mps", "", "/usr/bin/nvidia-cuda-mps-control", ""),
        ("nccl", "2.27.3", f"{LIBRARIES}/libnccl.so.2.27.3", ""),
        ("persistenced", "", "/usr/bin/nvidia-persistenced", ""),
        ("tensorrt", "10.3.0", f"{LIBRARIES}/libnvinfer.so.10.3.0", ""),
    ]


def test_without_a_package_database_the_toolkit_is_known_by_its_library(tmp_path):
    tree = {"/usr/lib64/libnvidia-container.so.1.18.0": "", "/usr/bin/nvidia-ctk": ""}
    (toolkit,) = looked(tmp_path, tree).components
    assert toolkit == NvidiaComponent(
        name="container-toolkit", version="1.18.0", path="/usr/lib64/libnvidia-container.so.1.18.0"
    )


def test_a_toolkit_whose_version_nothing_tells_is_there_all_the_same(tmp_path):
    fact = looked(tmp_path, {"/usr/bin/nvidia-ctk": ""})
    assert [(each.name, each.version) for each in fact.components] == [("container-toolkit", "")]
    assert fact.toolkit == ToolkitConfiguration()


def test_two_versions_of_one_thing_are_both_kept(tmp_path):
    status = deb("datacenter-gpu-manager", "1:3.3.9") + deb("datacenter-gpu-manager-4-core", "1:4.2.3-2")
    fact = looked(tmp_path, {"/var/lib/dpkg/status": status})
    assert [each.version for each in fact.components] == ["3.3.9", "4.2.3"]


def test_names_that_a_user_could_write_are_shown_and_not_sent(tmp_path):
    site = "/opt/\x1b[2Jenv/lib/python3.11/site-packages"
    fact = looked(tmp_path, {f"{site}/nvidia_nccl_cu12-2.27.3.dist-info/METADATA": ""})
    (component,) = fact.components
    assert "\x1b" not in component.path + component.owner
    assert (component.name, component.version) == ("nccl", "2.27.3")


def test_traps_are_gaps_and_nothing_hangs(tmp_path):
    host = plant(tmp_path, {"/usr/local/cuda-12.9/": "", "/usr/local/cuda-11/version.txt": "CUDA of mine\n"})
    os.mkfifo(tmp_path / "usr/local/cuda-12.9/version.json")
    fact = nvidia_software(host, Config())
    assert fact.components == ()
    assert [gap.scope for gap in fact.gaps] == ["/usr/local/cuda-11", "/usr/local/cuda-12.9"]


def test_a_link_to_a_toolkit_is_not_a_second_one(tmp_path):
    tree = {"/usr/local/cuda-13.0/version.json": '{"cuda": {"version": "13.0.2"}}', "/usr/local/cuda": "-> cuda-13.0"}
    assert [each.path for each in looked(tmp_path, tree).components] == ["/usr/local/cuda-13.0"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every directory")
def test_a_directory_that_may_not_be_listed_is_a_gap(tmp_path):
    host = plant(tmp_path, {f"{LIBRARIES}/libcuda.so.580.95.05": ""})
    (tmp_path / LIBRARIES.lstrip("/")).chmod(0)
    assert LIBRARIES in [gap.scope for gap in nvidia_software(host, Config()).gaps]


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b'{"cuda": {"version": "11.8.20220929"}}', "11.8.20220929"),
        (b"CUDA Version 9.0.176\nCUDA Patch Version 9.0.176.1\n", "9.0.176"),
        (b'{"cuda": {"version": "\\u001b[2J"}}', ""),
        (b'{"cuda": []}', ""),
        (b'{"x": ' + b"[" * 60_000, ""),
        (b"", ""),
    ],
)
def test_the_version_of_a_toolkit_is_read(content, version):
    assert parse_version_file(content) == version


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_file_has_a_version_made_of_numbers_or_none(content):
    assert all(part.isdigit() for part in parse_version_file(content).split(".") if part)


def test_the_configuration_as_it_is_delivered_is_the_default():
    text = """
disable-require = false
supported-driver-capabilities = "compute,utility"
[nvidia-container-cli]
environment = []
ldconfig = "@/sbin/ldconfig.real"
load-kmods = true
[nvidia-container-runtime]
log-level = "info"
mode = "auto"
runtimes = ["runc", "crun"]
[nvidia-container-runtime.modes.cdi]
default-kind = "nvidia.com/gpu"
[nvidia-container-runtime-hook]
path = "nvidia-container-runtime-hook"
"""
    assert parse(text) == parse("") == ToolkitConfiguration()


def test_the_settings_that_matter_are_read():
    text = """
accept-nvidia-visible-devices-envvar-when-unprivileged = false
accept-nvidia-visible-devices-as-volume-mounts = true
[nvidia-container-cli]
ldconfig = "/sbin/ldconfig"
no-cgroups = true
[nvidia-container-runtime]
mode = "cdi"
runtimes = ["/usr/bin/crun"]
[nvidia-container-runtime-hook]
skip-mode-detection = true
[features]
allow-cuda-compat-libs-from-container = true
allow-ldconfig-from-container = true
"""
    assert parse(text) == ToolkitConfiguration(
        mode="cdi",
        hook_in_any_mode=True,
        crun_only=True,
        container_ldconfig=True,
        container_cuda=True,
        asked_by_environment=False,
        asked_by_mounts=True,
        no_cgroups=True,
        allow_container_ldconfig=True,
    )


def test_a_mode_that_nobody_knows_is_not_repeated():
    assert parse('[nvidia-container-runtime]\nmode = "my-secret"\n').mode == "another"


@pytest.mark.parametrize("directory", ["/etc/cdi", "/var/run/cdi"])
def test_a_specification_of_nvidia_devices_is_seen(tmp_path, directory):
    fact = looked(tmp_path, {"/usr/bin/nvidia-ctk": "", f"{directory}/nvidia.yaml": ""})
    assert fact.toolkit == ToolkitConfiguration(cdi_specifications=True)


@pytest.mark.parametrize(
    "content",
    [
        b"[features]\nallow-cuda-compat-libs-from-container = 'my-secret'",
        b"= my-secret",
        b"\xff",
        b"#" * 70_000,
        b"a = " + b"[" * 60_000,
    ],
)
def test_a_configuration_that_cannot_be_read_is_said_and_not_repeated(tmp_path, content):
    fact = looked(tmp_path, {"/usr/bin/nvidia-ctk": "", CONFIGURATION: content})
    assert fact.toolkit is None
    assert CONFIGURATION in fact.toolkit_unseen
    assert "my-secret" not in repr(fact)


def test_without_the_toolkit_its_configuration_is_not_looked_at(tmp_path):
    assert looked(tmp_path, {CONFIGURATION: b"= broken"}) == NvidiaSoftware()
