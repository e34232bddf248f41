"""NVIDIA GPUs: whether their driver is there, whole and kept up to date, and whether the cards are well."""

from __future__ import annotations

from collections.abc import Iterator

from agent.advisories.nvidia import branch, counted, open_flaws, rating
from agent.facts.gpu import DRIVER_SUBJECT, Driver, Gpus
from agent.facts.gpu_samples import GpuSamples
from agent.facts.nvml import Gpu, Sample, called
from agent.knowledge import DriverBranches, NvidiaBulletin, NvidiaBulletins
from agent.model import Duty, Finding, Instance, Moment, Severity, check

_RESTART = "Restart the VM to load the driver that is installed: sudo reboot"


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Install the driver for the running kernel; on a Deep Learning VM: sudo /opt/deeplearning/install-driver.sh",
)
def nvidia_driver_not_loaded(driver: Driver) -> Iterator[Finding]:
    """A GPU is attached, but no NVIDIA driver is loaded.

    The GPU is paid for and cannot be used, and none of its health can be seen. It is typical after a kernel update
    that the driver was not built for. GPUs that another driver holds (nouveau, vfio-pci) are left alone.
    """
    idle = [gpu for gpu in driver.gpus if not gpu.driver]
    if idle and not driver.module:
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail=f"no driver is loaded for {', '.join(gpu.address for gpu in idle)}",
            evidence={"gpus": len(idle)},
        )


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Move to a supported branch, best by creating the VM anew from a current image family.",
)
def nvidia_driver_end_of_life(driver: Driver, branches: DriverBranches, moment: Moment) -> Iterator[Finding]:
    """The branch of the loaded NVIDIA driver gets no more fixes.

    The driver runs in the kernel and is open to every user who may use a GPU. After the end of its branch new flaws
    in it stay open for good. The dates are NVIDIA's; new feature branches without a published end are not judged.
    """
    if not driver.module:
        return
    name = branch(driver.module.version)
    for each in branches.branches:
        if each.name == name and each.end and each.end < moment.now.date():
            yield Finding(
                subject=DRIVER_SUBJECT,
                detail=f"driver {driver.module.version}: support of branch R{name} ended on {each.end:%Y-%m-%d}",
                evidence={"version": driver.module.version, "branch": name, "end": each.end.isoformat()},
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.LATEST_IMAGES,
    fix="Update the driver, best by creating the VM anew from a current image family.",
)
def nvidia_driver_vulnerable(driver: Driver, bulletins: NvidiaBulletins) -> Iterator[Finding]:
    """The loaded NVIDIA driver has known flaws.

    Flaws of the driver let a user of the machine, or a container with a GPU, become root or read what is not theirs.
    Each branch is judged by the fixed version that NVIDIA's bulletins name for it. A branch that the newest bulletin
    does not list is not safe but abandoned: NVIDIA sends its users to a listed one. Branches newer than a bulletin
    began after its fixes. It is the loaded version that counts, whatever is on disk.
    """
    if not driver.module:
        return
    version, name = driver.module.version, branch(driver.module.version)
    missing = open_flaws(bulletins, "driver", version)
    if not missing:
        return
    scores = {flaw.id: flaw.score for flaws in missing.values() for flaw in flaws}
    newest = max(missing, key=lambda bulletin: bulletin.published)
    fixed = _fixed(newest, name)
    installed = driver.libraries[0].version if driver.libraries else version
    said, fix = f"driver {version}: {counted(scores)}", ""
    if not fixed:
        said += f"; branch R{name} gets no fixes, {newest} does not list it"
    elif branch(installed) == name and not open_flaws(bulletins, "driver", installed):
        said, fix = f"driver {version} is still loaded, the fixes of {newest} are installed", _RESTART
    else:
        said += f", fixed in {fixed} by {newest}"
    yield Finding(
        subject=DRIVER_SUBJECT,
        detail=said,
        evidence={
            "version": version,
            "fixed": fixed,
            "bulletin": newest.url,
            "flaws": len(scores),
            "worst_score": max(scores.values()),
        },
        instances=tuple(
            Instance(place=f"bulletin:{each.id}", version=version, fix=_fixed(each, name)) for each in missing
        ),
        severity=None if rating(max(scores.values())).at_least(Severity.HIGH) else Severity.MEDIUM,
        fix=fix,
    )


def _fixed(bulletin: NvidiaBulletin, name: str) -> str:
    """The version that a bulletin names for a branch; empty where it leaves the branch out."""
    return next((version for version in bulletin.fixed if branch(version) == name), "")


@check(severity=Severity.MEDIUM, duty=Duty.LATEST_IMAGES, fix=_RESTART)
def nvidia_driver_restart_needed(driver: Driver) -> Iterator[Finding]:
    """The NVIDIA driver on disk is not the one that the kernel runs.

    After an update the old module stays loaded until a restart: fixes are not in force, and programs that start now
    fail with a version mismatch while those that run go on.
    """
    if not driver.module or not driver.libraries:
        return
    loaded, installed = driver.module.version, driver.libraries[0].version
    if loaded != installed:
        yield Finding(
            subject=DRIVER_SUBJECT,
            detail=f"driver {loaded} is loaded, {installed} is installed",
            evidence={"loaded": loaded, "installed": installed},
        )


@check(
    severity=Severity.LOW,
    duty=Duty.ACCESS,
    fix='Put "options nvidia NVreg_RestrictProfilingToAdminUsers=1" into /etc/modprobe.d/nvidia.conf, then sudo reboot',
)
def gpu_profiling_open_to_users(driver: Driver) -> Iterator[Finding]:
    """Every user may read the GPUs' performance counters.

    The counters are a side channel: they tell one user what another one computes on the same GPU (CVE-2018-6260).
    On a machine with one user this may be wanted for profiling; how-tos for Nsight switch it on and leave it so.
    """
    if driver.parameters.get("RmProfilingAdminOnly") == "0":
        yield Finding(subject=DRIVER_SUBJECT, detail="the nvidia module runs with RmProfilingAdminOnly 0")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Look for Xid errors with sudo dmesg, then stop and start the VM; if it stays away, ask Google Cloud support.",
)
def gpu_missing(driver: Driver, gpus: Gpus) -> Iterator[Finding]:
    """A GPU is on the PCI bus, but the driver does not show it.

    The driver gave it up at start or lost it since, so that jobs run on fewer GPUs than are paid for, or fail. GPUs
    that are excluded on purpose, or given to another driver, are not counted.
    """
    seen = {gpu.address for gpu in gpus.gpus}
    unseen = [gpu for gpu in driver.gpus if gpu.is_for_nvidia and gpu.address not in seen]
    # A GPU that the driver shows without its address is one of these, though not known which.
    nameless = sum(not isinstance(gpu.address, str) for gpu in gpus.gpus)
    for gpu in unseen[nameless:]:
        yield Finding(subject=gpu.uuid or gpu.address, detail=f"the GPU at {gpu.address} is not shown by the driver")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Save what you can, then stop and start the VM; if it happens again, ask Google Cloud support.",
)
def gpu_lost(gpus: Gpus) -> Iterator[Finding]:
    """A GPU is lost: it no longer answers the driver.

    It has fallen off the bus or is in a state from which only a restart brings it back; whatever ran on it is gone.
    """
    for gpu in gpus.gpus:
        if "GPU_IS_LOST" in gpu.refusals().values():
            yield Finding(subject=gpu.key, detail=f"{called(gpu)} does not answer the driver")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Stop what uses the GPU, then restart the VM: sudo reboot",
)
def gpu_reset_required(gpus: Gpus) -> Iterator[Finding]:
    """A GPU needs a reset before it can be used again.

    After certain errors the driver takes no new work for the GPU; jobs that start now fail.
    """
    for gpu in gpus.gpus:
        if "RESET_REQUIRED" in gpu.refusals().values():
            yield Finding(subject=gpu.key, detail=f"{called(gpu)} waits for a reset")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Run the affected job again from its last checkpoint after sudo reboot; if errors return, replace the VM.",
)
def gpu_uncorrected_ecc_errors(gpus: Gpus) -> Iterator[Finding]:
    """GPU memory gave wrong data that could not be corrected.

    What was computed since may be wrong, and models trained on it may be damaged without a sign. Errors are counted
    since the driver was loaded; those over the life of the card are not judged, as retired memory stays in them. Many
    errors on one card may also mean that someone hammers its memory (https://gpuhammer.com).
    """
    for gpu in gpus.gpus:
        errors = gpu.uncorrected_volatile
        if isinstance(errors, int) and errors > 0:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: {errors} uncorrected memory errors since the driver was loaded",
                evidence={"errors": errors},
            )


@check(severity=Severity.MEDIUM, duty=Duty.MONITORING, fix="Switch it on with sudo nvidia-smi -e 1 and restart the VM.")
def gpu_ecc_disabled(gpus: Gpus) -> Iterator[Finding]:
    """Error correction of GPU memory is off on a card that has it.

    Flipped bits go unnoticed into results, and GDDR6 memory can be hammered from another user's process
    (https://gpuhammer.com); correction costs some memory and speed. Cards without it are not judged.
    """
    for gpu in gpus.gpus:
        if gpu.ecc_enabled is False:
            waiting = gpu.ecc_pending is True
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: ECC is off" + (" until the next restart" if waiting else ""),
                fix="Restart the VM, ECC is already ordered: sudo reboot" if waiting else "",
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Find what loads the GPU with nvidia-smi; if the load is as expected, stop and start the VM on another host.",
)
def gpu_too_hot(gpus: Gpus, samples: GpuSamples) -> Iterator[Finding]:
    """A GPU is so hot that it slows itself down.

    At its slowdown temperature a card lowers its clocks, and a little above switches itself off. In a data centre this
    means failing cooling or a load that nobody expects. It rests on the card's own limit, not on a number of ours, and
    is over once the card is seen below it, or nobody uses it any more.
    """
    now = {sample.key: sample for sample in samples.samples}
    for gpu in gpus.gpus:
        if gpu.key in now and _is_too_hot(gpu, now[gpu.key]):
            limit = f" of {gpu.slowdown_temperature} °C" if isinstance(gpu.slowdown_temperature, int) else ""
            yield Finding(subject=gpu.key, detail=f"{called(gpu)} has reached its slowdown temperature{limit}")


def _is_too_hot(gpu: Gpu, sample: Sample) -> bool:
    """By the absolute limit where the card has one, else by the margin to it, which shrinks as it heats."""
    if isinstance(sample.temperature, int) and isinstance(gpu.slowdown_temperature, int):
        return sample.temperature >= gpu.slowdown_temperature > 0
    if isinstance(sample.margin, int) and isinstance(gpu.slowdown_margin, int):
        return sample.margin <= gpu.slowdown_margin
    return False
