"""What the GPUs rest on: who may change it, how the kernel module is set, and the ways past the driver."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from agent.facts.gpu import DRIVER_SUBJECT, Driver
from agent.facts.gpu_access import DOCKER, GpuAccess
from agent.facts.gpu_libraries import GpuLibraries
from agent.facts.gpu_module import GpuModule
from agent.facts.nvidia_container_toolkit import CONFIGURATION, SUBJECT
from agent.facts.nvidia_software import NvidiaSoftware
from agent.model import Duty, Finding, Scalar, Severity, check

_OTHERS_READ, _OTHERS_WRITE = 0o004, 0o002
_SEVERAL = 3
"""Accounts with a shell from which on a machine counts as shared: an image brings one, its owner makes one."""


@check(severity=Severity.HIGH, duty=Duty.ACCESS, fix="Give it back to root, and find out what was done with it.")
def gpu_stack_writable(module: GpuModule, libraries: GpuLibraries, access: GpuAccess) -> Iterator[Finding]:
    """A part of the GPU stack can be changed by others than root.

    The driver's module, its settings and libraries, the tools that put GPUs into containers and the device
    specifications they follow all run as root or inside every GPU program. Who may write one of them is root as soon
    as it is used. Only owner and permissions are looked at; the group staff, to which Debian gives /usr/local, is left
    out.
    """
    for each in (*module.trusted, *libraries.trusted, *access.trusted):
        if each.writers:
            path = shlex.quote(each.path)
            yield Finding(
                subject=each.path,
                detail=f"{each.path} can be changed by {each.writers}",
                evidence={"owner": each.owner, "group": each.group, "mode": f"{each.mode:04o}"},
                fix=f"sudo chown root:root {path} && sudo chmod go-w {path}, and find out what was done with it.",
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Use a driver module that is signed, such as the distribution's, and switch validation on again: "
    "sudo mokutil --enable-validation, then sudo reboot",
)
def nvidia_module_unsigned(module: GpuModule) -> Iterator[Finding]:
    """Secure Boot is on, but the kernel took an NVIDIA module without a valid signature.

    With Secure Boot the kernel should refuse such a module. That it did not means that validation is switched off
    behind the firmware's back, so that a rootkit's module gets in the same way. Without Secure Boot an unsigned
    module is usual, and nothing is said.
    """
    if module.secure_boot and "E" in module.taint:
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail="the nvidia module is loaded without a valid signature, though Secure Boot is on",
            evidence={"taint": module.taint, "lockdown": module.lockdown or "unknown"},
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="Install a driver that is built for the running kernel, then sudo reboot",
)
def nvidia_module_forced(module: GpuModule) -> Iterator[Finding]:
    """The NVIDIA module was forced into a kernel for which it was not built.

    The kernel's check of versions was overridden. What the module then finds in memory may not be what it takes it
    for, and errors of that kind are flaws as well.
    """
    if "F" in module.taint:
        yield Finding(
            subject=DRIVER_SUBJECT, detail="the nvidia module was loaded by force", evidence={"taint": module.taint}
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.ACCESS,
    fix="Make a new key with sudo update-secureboot-policy --new-key, enrol it, and remove the old one with mokutil.",
)
def module_signing_key(module: GpuModule) -> Iterator[Finding]:
    """A private key with which kernel modules are signed lies on this machine.

    DKMS keeps one to sign the driver it builds. Where users besides root may read it they can sign modules that this
    machine, and any other on which the key is enrolled, takes for trusted. Readable to root alone it is told only
    while Secure Boot is on: then whoever becomes root can sign what Secure Boot should keep out.
    """
    for key in module.keys:
        evidence: dict[str, Scalar] = {"owner": key.owner, "group": key.group, "mode": f"{key.mode:04o}"}
        if not key.is_private:
            yield Finding(subject=key.path, detail=f"{key.path} can be read by others than root", evidence=evidence)
        elif module.secure_boot:
            yield Finding(
                subject=key.path,
                detail=f"{key.path} lies here while Secure Boot is on",
                evidence=evidence,
                severity=Severity.INFO,
                fix="Use the distribution's signed driver modules; then remove the key, with mokutil its enrolment.",
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.ACCESS,
    fix="Remove NVreg_InitializeSystemMemoryAllocations from where it is set, then sudo reboot",
)
def gpu_memory_not_cleared(module: GpuModule) -> Iterator[Finding]:
    """The NVIDIA driver gives out system memory without clearing it.

    Programs that use a GPU get memory in which other programs' data still is. It was switched off by hand: by
    default the driver clears it.
    """
    if module.parameters.get("InitializeSystemMemoryAllocations") == "0":
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail=f"InitializeSystemMemoryAllocations is 0{_set_in(module, 'InitializeSystemMemoryAllocations')}",
        )


@check(
    severity=Severity.INFO,
    duty=Duty.MONITORING,
    fix="If nobody knows what it is for, remove it from where it is set, then sudo reboot",
)
def nvidia_module_overrides(module: GpuModule) -> Iterator[Finding]:
    """The NVIDIA module runs with settings that are not meant for every day.

    RegistryDwords reaches switches of the driver that have no name of their own, EnableDbgBreakpoint stops the
    machine at errors for a debugger. They may be there for a reason; they also change limits of a card unseen.
    """
    for name in ("RegistryDwords", "RegistryDwordsPerDevice", "EnableDbgBreakpoint"):
        value = module.parameters.get(name, "")
        if value not in {"", "0"}:
            yield Finding(
                subject=f"{DRIVER_SUBJECT}:{name}",
                detail=f"{name} is {value}{_set_in(module, name)}",
                evidence={"value": value},
            )


def _set_in(module: GpuModule, name: str) -> str:
    places = sorted({each.place for each in module.settings if each.name == name})
    return f", set in {', '.join(places)}" if places else ""


@check(
    severity=Severity.MEDIUM,
    duty=Duty.ACCESS,
    fix="Remove NVreg_DeviceFileUID from the module's options, or sudo chown root the node; give access by a group.",
)
def gpu_node_of_a_user(driver: Driver) -> Iterator[Finding]:
    """A device node of a GPU belongs to a user.

    Its owner decides who may use the GPU, whatever the administrator set, and can open it to everybody or lock others
    out. The driver and nvidia-modprobe make these nodes as root's.
    """
    for node in driver.nodes:
        if node.owner:
            yield Finding(
                subject=node.path,
                detail=f"{node.path} belongs to the user {node.owner}",
                evidence={"owner": node.owner},
            )


@check(
    severity=Severity.INFO,
    duty=Duty.ACCESS,
    fix='Put "options nvidia NVreg_DeviceFileGID=<gid of a group> NVreg_DeviceFileMode=0660" into '
    "/etc/modprobe.d/nvidia.conf, add those who need GPUs to the group, then sudo reboot",
)
def gpu_nodes_open_to_all(driver: Driver, access: GpuAccess) -> Iterator[Finding]:
    """Every user of a shared machine may use its GPUs.

    That is the driver's default and right on a machine with one user. Where several people have accounts, any of
    them, and any service that is taken over, can use the GPUs and reach the flaws of the driver. Accounts of OS Login
    are not counted, as the machine itself does not know them.
    """
    nodes = [each for each in driver.nodes if re.fullmatch(r"/dev/nvidia\d+", each.path)]
    is_open = [each for each in nodes if each.mode & _OTHERS_WRITE]
    if is_open and access.people >= _SEVERAL:
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail=f"{len(is_open)} of {len(nodes)} GPUs are open to every user; {access.people} accounts have a shell",
            evidence={"gpus": len(is_open), "accounts": access.people},
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.ACCESS,
    fix="sudo chmod o-rwx the node; nvidia-modprobe makes it readable to root alone.",
)
def gpu_partitioning_open_to_all(driver: Driver, access: GpuAccess) -> Iterator[Finding]:
    """Every user may change how GPUs are cut up or joined.

    Who may open these nodes of /dev/nvidia-caps has the right to make and destroy MIG instances, or to manage the
    NVLink fabric, which ends the work of others and takes down walls between them. The driver gives it to root alone.
    """
    for node in driver.nodes:
        if node.path in access.managing and node.mode & _OTHERS_READ:
            yield Finding(
                subject=node.path,
                detail=f"{node.path} is open to every user",
                evidence={"mode": f"{node.mode:04o}"},
                fix=f"sudo chmod o-rwx {shlex.quote(node.path)}",
            )


@check(
    severity=Severity.LOW,
    duty=Duty.ACCESS,
    fix="Start nvidia-cuda-mps-control as root, or with a CUDA_MPS_PIPE_DIRECTORY that only its users' jobs are given.",
)
def gpu_mps_of_a_user(access: GpuAccess) -> Iterator[Finding]:
    """CUDA programs of all users hand their work to one user's Multi-Process Service.

    A CUDA program that finds a service in /tmp/nvidia-mps uses it unasked. There it belongs to a user and not to
    root, who can so stop or disturb what others run on the GPU. On a machine with one user that does no harm. It is
    worse where everybody may put another service in its place.
    """
    place = access.mps
    if not place or not (place.owner or place.mode & _OTHERS_WRITE):
        return
    whose = "can be replaced by every user" if place.mode & _OTHERS_WRITE else f"belongs to the user {place.owner}"
    yield Finding(
        subject=place.path,
        detail=f"the service in {place.path} {whose}",
        evidence={"owner": place.owner, "mode": f"{place.mode:04o}"},
    )


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix=f'Set ldconfig = "@/sbin/ldconfig" in {CONFIGURATION} (on Ubuntu @/sbin/ldconfig.real) and remove '
    "allow-ldconfig-from-container.",
)
def nvidia_container_toolkit_runs_image(software: NvidiaSoftware) -> Iterator[Finding]:
    """NVIDIA's container toolkit is told to run a program of the image as root.

    Without the @ before its path ldconfig is taken from the container, while the container is still being set up
    (CVE-2024-0136, CVE-2024-0137). Newer toolkits refuse to start containers so, unless they are told
    allow-ldconfig-from-container, which opens the door again.
    """
    if software.toolkit and software.toolkit.container_ldconfig:
        yield Finding(
            subject=SUBJECT,
            detail=f"ldconfig is taken from the image by {CONFIGURATION}",
            evidence={"allow-ldconfig-from-container": software.toolkit.allow_container_ldconfig},
        )


@check(
    severity=Severity.INFO,
    duty=Duty.ACCESS,
    fix=f"Set accept-nvidia-visible-devices-envvar-when-unprivileged = false in {CONFIGURATION}, or remove "
    f"default-runtime from {DOCKER} and give GPUs with --gpus or by CDI.",
)
def containers_take_gpus(software: NvidiaSoftware, access: GpuAccess) -> Iterator[Finding]:
    """Any image gets all GPUs without being given them.

    Docker starts every container by NVIDIA's runtime, which gives it the GPUs that a variable in the image asks for.
    So whoever made an image decides, and not who runs it: the flaws of the driver are within reach of containers that
    should have no GPU. It is often wanted on a machine for one purpose.
    """
    if access.default_runtime == "nvidia" and software.toolkit and software.toolkit.asked_by_environment:
        yield Finding(subject=SUBJECT, detail=f'default-runtime is "nvidia" in {DOCKER}, and images may ask for GPUs')
