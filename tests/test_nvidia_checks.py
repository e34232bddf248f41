"""What is judged about NVIDIA's software besides the driver."""

from __future__ import annotations

import datetime as dt

import pytest

from agent import knowledge
from agent.checks.nvidia import (
    nvidia_container_toolkit_trusts_image,
    nvidia_container_toolkit_vulnerable,
    nvidia_cuda_toolkit_vulnerable,
    nvidia_software_vulnerable,
    nvidia_triton_vulnerable,
)
from agent.config import Config
from agent.evaluate import Facts, evaluate
from agent.facts.containers import Container, Containers
from agent.facts.nvidia_container_toolkit import ToolkitConfiguration
from agent.facts.nvidia_software import NvidiaComponent, NvidiaSoftware
from agent.knowledge import NvidiaBulletins
from agent.model import Finding, Seen, Severity, Unknown
from tests.fakes.trees import NOW

TABLE = knowledge.load(NvidiaBulletins)
DEFAULT = ToolkitConfiguration()


def software(name: str, version: str, *, path: str = "/usr/bin/it", **fields) -> NvidiaSoftware:
    return NvidiaSoftware(components=(NvidiaComponent(name=name, version=version, path=path),), **fields)


def toolkit(version: str, **settings) -> NvidiaSoftware:
    return software("container-toolkit", version, toolkit=ToolkitConfiguration(**settings))


def container(image: str) -> Containers:
    return Containers(containers=(Container(place=f"container:{image}", id="0" * 12, image=image),))


def judged(seen: NvidiaSoftware) -> Finding:
    (finding,) = nvidia_container_toolkit_vulnerable(seen, TABLE)
    assert isinstance(finding, Finding)
    return finding


@pytest.mark.parametrize(
    "check", [nvidia_container_toolkit_vulnerable, nvidia_cuda_toolkit_vulnerable, nvidia_software_vulnerable]
)
@pytest.mark.parametrize(
    "seen",
    [
        NvidiaSoftware(),
        software("cudnn", "1.0"),
        software("driver", "1.0"),
        software("cublas", "12.1"),
        software("cuda-runtime", "12"),
        software("mps", ""),
        toolkit("1.19.1"),
        software("cuda-toolkit", "13.1.0"),
        software("dcgm", "4.2.3"),
        software("tensorrt", "11.0.0"),
    ],
    ids=lambda seen: f"{seen.components[0].name} {seen.components[0].version}" if seen.components else "nothing",
)
def test_nothing_fixed_versions_and_libraries_without_bulletins_are_quiet(check, seen):
    assert list(check(seen, TABLE)) == []


def test_an_old_container_toolkit_is_one_finding_with_all_that_it_lacks():
    finding = judged(toolkit("1.17.0"))
    assert finding.subject == "nvidia-container-toolkit"
    assert finding.detail == (
        "NVIDIA container toolkit 1.17.0: 5 known flaws, the worst scored 9, "
        "fixed in 1.19.1 by bulletin 5850 of 2026-06-30"
    )
    assert finding.evidence["not_applicable"] == "CVE-2024-0136 CVE-2024-0137"
    assert finding.evidence["configuration"] == "known"


@pytest.mark.parametrize(
    ("version", "settings", "spared"),
    [
        ("1.16.1", {}, {"CVE-2024-0136", "CVE-2024-0137"}),
        ("1.16.1", {"container_ldconfig": True}, set()),
        ("1.16.1", {"container_ldconfig": True, "mode": "cdi"}, {"CVE-2024-0132", "CVE-2024-0133", "CVE-2025-23359"}),
        ("1.17.3", {"mode": "cdi"}, {"CVE-2025-23359"}),
        ("1.17.3", {"mode": "cdi", "hook_in_any_mode": True}, set()),
        ("1.17.4", {"mode": "legacy"}, {"CVE-2025-23266", "CVE-2025-23267"}),
        ("1.17.4", {"mode": "legacy", "cdi_specifications": True}, set()),
        ("1.17.4", {"mode": "auto"}, set()),
        ("1.17.5", {"mode": "legacy"}, set()),
        ("1.17.7", {"crun_only": True}, {"CVE-2025-23266"}),
        ("1.17.7", {}, set()),
    ],
)
def test_a_flaw_that_does_not_apply_as_configured_is_left_out_and_named(version, settings, spared):
    finding = judged(toolkit(version, **settings))
    assert set(str(finding.evidence["not_applicable"]).split()) == spared
    everything = judged(software("container-toolkit", version, toolkit_unseen="it is unreadable"))
    assert finding.evidence["flaws"] == int(everything.evidence["flaws"]) - len(spared)


def test_where_the_configuration_is_unknown_everything_is_raised_and_said():
    finding = judged(software("container-toolkit", "1.17.0", toolkit_unseen="/etc/x: permission denied"))
    assert finding.evidence["flaws"] == 7
    assert finding.evidence["configuration"] == "unknown: /etc/x: permission denied"


@pytest.mark.parametrize("version", ["", "1.18.0~rc.1"])
def test_a_toolkit_version_that_cannot_be_compared_is_unknown_and_not_clean(version):
    (unknown,) = nvidia_container_toolkit_vulnerable(software("container-toolkit", version, toolkit=DEFAULT), TABLE)
    assert isinstance(unknown, Unknown)
    assert unknown.scope == "nvidia-container-toolkit"


def test_the_engine_shows_it_as_unknown():
    facts: Facts = {NvidiaSoftware: Seen(fact=software("container-toolkit", "", toolkit=DEFAULT), taken=NOW.now)}
    (outcome,) = evaluate([nvidia_container_toolkit_vulnerable], facts, Config(), NOW)
    assert (outcome.findings, len(outcome.unknowns)) == ((), 1)


def test_a_toolkit_that_trusts_the_image_is_a_finding_whatever_its_version():
    assert list(nvidia_container_toolkit_trusts_image(toolkit("1.19.1"))) == []
    assert list(nvidia_container_toolkit_trusts_image(NvidiaSoftware())) == []
    (finding,) = nvidia_container_toolkit_trusts_image(toolkit("1.19.1", container_cuda=True))
    assert "CVE-2025-23359" in finding.detail


def test_a_cuda_toolkit_is_judged_as_a_whole_and_weighs_little():
    assert nvidia_cuda_toolkit_vulnerable.severity is Severity.LOW
    (finding,) = nvidia_cuda_toolkit_vulnerable(software("cuda-toolkit", "12.9.1", path="/usr/local/cuda-12.9"), TABLE)
    assert isinstance(finding, Finding)
    assert finding.subject == "/usr/local/cuda-12.9"
    assert finding.severity is None
    assert "fixed in 13.1 by bulletin 5755" in finding.detail


@pytest.mark.parametrize(("name", "version", "fixed"), [("dcgm", "3.1.6", "3.1.7"), ("tensorrt", "10.3.0", "11.0")])
def test_other_software_is_judged_where_a_bulletin_speaks_of_it(name, version, fixed):
    (finding,) = nvidia_software_vulnerable(software(name, version, path="/opt/it"), TABLE)
    assert isinstance(finding, Finding)
    assert (finding.subject, finding.evidence["fixed"]) == ("/opt/it", fixed)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "python:3.12",
        "nvcr.io/nvidia/tritonserver:26.06-py3",
        "mine/tritonserver:latest",
        "x/nottritonserver:24.01-py3",
    ],
)
def test_other_images_and_a_current_triton_are_quiet(image):
    assert list(nvidia_triton_vulnerable(container(image), TABLE)) == []


@pytest.mark.parametrize("image", ["nvcr.io/nvidia/tritonserver:24.12-py3", "tritonserver:25.01"])
def test_an_old_triton_is_a_finding(image):
    (finding,) = nvidia_triton_vulnerable(container(image), TABLE)
    assert finding.subject == f"container:{image}"
    assert finding.evidence["fixed"] == "26.06"
    assert finding.evidence["worst_score"] == 9.8


def test_the_table_is_dated():
    assert dt.date(2026, 11, 1) <= TABLE.updated
