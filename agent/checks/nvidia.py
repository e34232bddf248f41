"""NVIDIA's software besides the driver: whether a version of it has known flaws, as it is configured here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agent.advisories.nvidia import counted, numbers, open_flaws
from agent.facts.containers import Containers
from agent.facts.nvidia_container_toolkit import CONFIGURATION, SUBJECT, ToolkitConfiguration
from agent.facts.nvidia_software import NvidiaSoftware
from agent.knowledge import NvidiaBulletin, NvidiaBulletins, NvidiaFlaw
from agent.model import Duty, Finding, Scalar, Severity, Unknown, check

Missing = dict[NvidiaBulletin, tuple[NvidiaFlaw, ...]]

_TRITON = re.compile(r"(?:.*/)?tritonserver:(\d{2}\.\d{2})(?:-.*)?")
_REOPENED = "CVE-2025-23359"
"""What the setting allow-cuda-compat-libs-from-container opens again: see bulletin 5616."""


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Update it: sudo apt-get update && "
    "sudo apt-get install --only-upgrade nvidia-container-toolkit nvidia-container-toolkit-base",
)
def nvidia_container_toolkit_vulnerable(
    software: NvidiaSoftware, bulletins: NvidiaBulletins
) -> Iterator[Finding | Unknown]:
    """NVIDIA's container toolkit has known flaws.

    It works as root while a container starts, on what the image contains: through such a flaw whoever brings an image
    gets at the files of the host, or becomes root there. Flaws that do not apply as the toolkit is configured are
    left out, and named in the evidence; where the configuration cannot be read, all are raised.
    """
    for each in software.components:
        if each.name != "container-toolkit":
            continue
        missing = _missing(bulletins, each.name, each.version, scope=SUBJECT)
        if isinstance(missing, Unknown):
            yield missing
            continue
        settings = software.toolkit
        spared = {
            flaw.id
            for flaws in missing.values()
            for flaw in flaws
            if settings and not _applies(flaw, each.version, settings)
        }
        if missing := _without(missing, spared):
            yield _finding(
                SUBJECT,
                f"NVIDIA container toolkit {each.version}",
                missing,
                {
                    "version": each.version,
                    "path": each.path,
                    "configuration": "known" if settings else f"unknown: {software.toolkit_unseen}",
                    "not_applicable": " ".join(sorted(spared)),
                },
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix=f"Remove allow-cuda-compat-libs-from-container from [features] in {CONFIGURATION}.",
)
def nvidia_container_toolkit_trusts_image(software: NvidiaSoftware) -> Iterator[Finding]:
    """NVIDIA's container toolkit is told to take libraries from the image.

    With allow-cuda-compat-libs-from-container the toolkit, which is root, works again on files that an image chose:
    what the update for CVE-2025-23359 stopped, through which an image gets at the files of the host. NVIDIA advises
    against it.
    """
    if software.toolkit and software.toolkit.container_cuda:
        yield Finding(
            subject=SUBJECT,
            detail=f"allow-cuda-compat-libs-from-container is true in {CONFIGURATION}, which reopens {_REOPENED}",
            evidence={"allow-cuda-compat-libs-from-container": True},
        )


@check(
    severity=Severity.LOW,
    duty=Duty.APPLICATIONS,
    fix="Install a newer CUDA toolkit beside it and remove this one, or leave hostile binaries to another machine.",
)
def nvidia_cuda_toolkit_vulnerable(software: NvidiaSoftware, bulletins: NvidiaBulletins) -> Iterator[Finding | Unknown]:
    """A CUDA toolkit has known flaws.

    Most of them are in tools such as cuobjdump and nvdisasm, and need somebody to look at a hostile file with
    them; programs that run on CUDA do not get them. The version is that of the whole toolkit: bulletins do not tell
    reliably which library has which flaw, so libraries that came without a toolkit are not judged.
    """
    yield from _judged(software, bulletins, {"cuda-toolkit": "CUDA toolkit"})


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Update it by the package manager that installed it.",
)
def nvidia_software_vulnerable(software: NvidiaSoftware, bulletins: NvidiaBulletins) -> Iterator[Finding | Unknown]:
    """NVIDIA's software on this machine has known flaws: DCGM, its exporter, or TensorRT.

    DCGM and its exporter answer on the network if they are told to; TensorRT reads models. It rests on NVIDIA's
    bulletins; of cuDNN, NCCL and the fabric manager there is none.
    """
    called = {"dcgm": "DCGM", "dcgm-exporter": "DCGM exporter", "tensorrt": "TensorRT"}
    yield from _judged(software, bulletins, called)


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Run the newest release of the image nvcr.io/nvidia/tritonserver, and let nobody but its clients reach it.",
)
def nvidia_triton_vulnerable(containers: Containers, bulletins: NvidiaBulletins) -> Iterator[Finding]:
    """A Triton Inference Server with known flaws is running.

    Triton answers requests from the network without asking who they are from, and several of its flaws let such a
    request run code (https://nvidia.custhelp.com/app/answers/detail/a_id/5687). It is known by the release in the
    image's name; an image with a name of one's own is not judged.
    """
    for container in containers.containers:
        release = _TRITON.fullmatch(container.image)
        if release and (missing := open_flaws(bulletins, "triton", release[1])):
            evidence = {"version": release[1], "image": container.image}
            yield _finding(container.place, f"Triton {release[1]}", missing, evidence)


def _judged(
    software: NvidiaSoftware, bulletins: NvidiaBulletins, called: dict[str, str]
) -> Iterator[Finding | Unknown]:
    for each in software.components:
        if each.name not in called or not each.version:
            continue
        missing = _missing(bulletins, each.name, each.version, scope=each.path)
        if isinstance(missing, Unknown):
            yield missing
        elif missing:
            evidence = {"version": each.version, "owner": each.owner}
            yield _finding(each.path, f"{called[each.name]} {each.version}", missing, evidence)


def _missing(bulletins: NvidiaBulletins, name: str, version: str, *, scope: str) -> Missing | Unknown:
    """What the version lacks. One that is unknown, or a pre-release, cannot be compared."""
    try:
        return open_flaws(bulletins, name, version)
    except ValueError:
        said = f"the version {version} cannot be compared" if version else "no file tells which version this is"
        return Unknown(reason=f"{name} at {scope}: {said}", scope=scope)


def _applies(flaw: NvidiaFlaw, version: str, settings: ToolkitConfiguration) -> bool:
    """Whether the toolkit has a flaw as it is configured: every condition of the bulletin must hold."""
    cdi_alone = settings.mode in {"cdi", "jit-cdi"} and not settings.hook_in_any_mode
    no_cdi = settings.mode in {"legacy", "csv"} and not settings.cdi_specifications
    holding = {
        "not-cdi": not cdi_alone,
        "cdi-before-1.17.5": numbers(version) >= numbers("1.17.5") or not no_cdi,
        "not-crun": not settings.crun_only,
        "container-ldconfig": settings.container_ldconfig,
    }
    return all(holding[condition] for condition in flaw.only_if)


def _without(missing: Missing, spared: set[str]) -> Missing:
    left = {bulletin: tuple(flaw for flaw in flaws if flaw.id not in spared) for bulletin, flaws in missing.items()}
    return {bulletin: flaws for bulletin, flaws in left.items() if flaws}


def _finding(subject: str, what: str, missing: Missing, evidence: Mapping[str, Scalar]) -> Finding:
    """One finding for all that a version lacks: how many flaws, how bad, and what fixes them all."""
    flaws = [flaw for each in missing.values() for flaw in each]
    scores = {flaw.id: flaw.score for flaw in flaws}
    fixed = max((flaw.fixed for flaw in flaws), key=numbers)
    newest = max(missing, key=lambda bulletin: bulletin.published)
    return Finding(
        subject=subject,
        detail=f"{what}: {counted(scores)}, fixed in {fixed} by {newest}",
        evidence={
            **evidence,
            "fixed": fixed,
            "bulletin": newest.url,
            "flaws": len(scores),
            "worst_score": max(scores.values()),
        },
    )
