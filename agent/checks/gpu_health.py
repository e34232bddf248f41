"""NVIDIA GPUs: what wears out, waits for a reset, or runs below what it could."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.facts import nvml
from agent.facts.gpu import DRIVER_SUBJECT, Driver, Gpus
from agent.facts.nvml import Gpu, NvLink, called
from agent.model import Duty, Finding, Severity, Unknown, check

_RESET = "Stop what uses the GPU, then restart the VM: sudo reboot"
_REPLACE = "Stop and start the VM, which may bring it to another host; if it stays, ask Google Cloud support."


def _each(gpus: Gpus, is_so: Callable[[Gpu], bool], said: str) -> Iterator[Finding]:
    """A finding of the same words for each GPU that is so."""
    for gpu in gpus.gpus:
        if is_so(gpu):
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: {said}")


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="Look for Xid errors with sudo dmesg, save what you can, then restart the VM: sudo reboot",
)
def nvidia_driver_hung(driver: Driver, gpus: Gpus | Unknown) -> Iterator[Finding | Unknown]:
    """The NVIDIA driver does not answer.

    A call into it did not come back within gpu.deadline_seconds. Jobs on the GPUs hang with it, and new ones do not
    start. It is over once the driver answers; as long as it cannot be asked for another reason, nobody knows.
    """
    if not driver.module or not isinstance(gpus, Unknown):
        return
    if gpus.reason.startswith(f"{nvml.DRIVER} gave no answer"):
        yield Finding(subject=DRIVER_SUBJECT, detail=gpus.reason)
    else:
        yield Unknown(reason=gpus.reason, hint=gpus.hint, scope=DRIVER_SUBJECT)


@check(severity=Severity.MEDIUM, duty=Duty.MONITORING, fix="Restart the VM when no job needs the GPU: sudo reboot")
def gpu_memory_repair_pending(gpus: Gpus) -> Iterator[Finding]:
    """Bad GPU memory waits for a reset to be taken out of use.

    The card has found cells that fail and will not use them any more (row remapping on Ampere and later, page
    retirement on a T4), but does so only when the driver is loaded anew. Until then the same cells may fail again.
    It is over when the card says that nothing is pending, after a reset or restart.
    """
    yield from _each(
        gpus,
        lambda gpu: gpu.remap_pending is True or gpu.retirement_pending is True,
        "memory that fails is taken out of use at the next reset",
    )


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REPLACE)
def gpu_memory_repair_failed(gpus: Gpus) -> Iterator[Finding]:
    """Bad GPU memory could not be taken out of use.

    The card has no spare rows left where it needs one, or could not put one in. NVIDIA replaces cards for this. The
    failure stays with the card, so it is over when the machine has another one.
    """
    yield from _each(gpus, lambda gpu: gpu.remap_failed is True, "the remapping of a row of memory failed")


_SPENT_PAGES = 63
"""At which NVIDIA's own health check fails a card: DCGM_LIMIT_MAX_RETIRED_PAGES of https://github.com/NVIDIA/DCGM"""


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REPLACE)
def gpu_memory_worn_out(gpus: Gpus) -> Iterator[Finding]:
    """A GPU has retired so many memory pages that it should be replaced.

    Before Ampere, as on a T4, a card takes pages that fail out of use one by one, and has room to note 64 of them. The
    count stays with the card, so it is over when the machine has another one.
    """
    for gpu in gpus.gpus:
        counts = [each for each in (gpu.pages_retired, gpu.pages_retired_uncorrected) if isinstance(each, int)]
        if sum(counts) >= _SPENT_PAGES:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: {sum(counts)} memory pages are retired",
                evidence={"pages": sum(counts)},
            )


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_RESET)
def gpu_recovery_needed(gpus: Gpus) -> Iterator[Finding]:
    """The driver asks that something be done to bring a GPU back.

    After errors that it cannot get over by itself the driver says what will help: a reset of the GPU, a restart, or
    that traffic between GPUs be stopped first. It is over when the driver asks for nothing any more.
    """
    for gpu in gpus.gpus:
        if isinstance(gpu.recovery_action, str) and gpu.recovery_action != "none":
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: the driver asks to {gpu.recovery_action}",
                evidence={"action": gpu.recovery_action},
            )


@check(severity=Severity.LOW, duty=Duty.MONITORING, fix=_RESET)
def gpu_ecc_change_pending(gpus: Gpus) -> Iterator[Finding]:
    """Error correction of GPU memory is to be switched off at the next restart.

    Somebody ordered it; it takes effect when the driver is loaded anew, and from then on flipped bits go unnoticed.
    Whether it is off already is another check's matter. It is over when the two agree, after a restart or a change
    of mind (sudo nvidia-smi -e 1).
    """
    for gpu in gpus.gpus:
        if gpu.ecc_enabled is True and gpu.ecc_pending is False:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: ECC is off from the next restart on",
                fix="If nobody meant it: sudo nvidia-smi -e 1",
            )


@check(severity=Severity.LOW, duty=Duty.MONITORING, fix=_RESET)
def gpu_mig_change_pending(gpus: Gpus) -> Iterator[Finding]:
    """MIG was switched on or off, and the GPU waits for a reset to do so.

    Until then jobs see the old layout. It is over when the mode in force and the one that is ordered are the same.
    """
    for gpu in gpus.gpus:
        modes = (gpu.mig_enabled, gpu.mig_pending)
        if modes in {(True, False), (False, True)}:
            mode = "on" if gpu.mig_pending else "off"
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: MIG is {mode} after the next reset")


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REPLACE)
def gpu_inforom_corrupt(gpus: Gpus) -> Iterator[Finding]:
    """The InfoROM of a GPU is damaged.

    The card keeps its own settings and the counts of its errors there; what it says of its memory's health cannot be
    relied on. The card checks it once a day, and it is over when a check finds it in order.
    """
    yield from _each(gpus, lambda gpu: gpu.inforom_valid is False, "its InfoROM is damaged")


@check(severity=Severity.HIGH, duty=Duty.MONITORING, fix=_REPLACE)
def gpu_nvlink_down(gpus: Gpus) -> Iterator[Finding]:
    """Some NVLinks of a GPU are down while others are up.

    GPUs exchange data over them; jobs over several GPUs get slow or stop. A GPU of which no link is up, as on a
    machine with a single one, is not judged. It is over when all links are up, or none is meant to be.
    """
    for gpu in gpus.gpus:
        links = gpu.nvlinks if isinstance(gpu.nvlinks, tuple) else ()
        down = [number for number, link in enumerate(links) if link.active is False]
        if down and any(link.active is True for link in links):
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: {len(down)} of {len(links)} NVLinks are down: {', '.join(map(str, down))}",
                evidence={"down": len(down), "links": len(links)},
            )


@check(severity=Severity.MEDIUM, duty=Duty.MONITORING, fix=_REPLACE)
def gpu_nvlink_errors(gpus: Gpus) -> Iterator[Finding]:
    """NVLinks of a GPU had to be brought up again after errors.

    Packets that are sent again are part of a link's life and are not judged; a link that went down and had to recover
    held up the jobs on it. The driver counts from when it was loaded, so it is over after a reset or restart.
    """
    for gpu in gpus.gpus:
        links = gpu.nvlinks if isinstance(gpu.nvlinks, tuple) else ()
        failing = [number for number, link in enumerate(links) if _recovered(link)]
        if failing:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: NVLinks that had to recover: {', '.join(map(str, failing))}",
                evidence={"links": len(failing)},
            )


def _recovered(link: NvLink) -> bool:
    return any(isinstance(count, int) and count > 0 for count in (link.recoveries, link.failed_recoveries))


@check(
    severity=Severity.HIGH,
    duty=Duty.MONITORING,
    fix="See what keeps it from joining: systemctl status nvidia-fabricmanager; journalctl -u nvidia-fabricmanager",
)
def gpu_fabric_unhealthy(gpus: Gpus) -> Iterator[Finding]:
    """A GPU has not joined its NVLink fabric, or is not well in it.

    On machines with NVSwitch no CUDA program starts before the fabric manager has brought every GPU in. GPUs without
    a fabric are not judged. It is over when the driver says that joining is completed and finds no fault.
    """
    for gpu in gpus.gpus:
        fabric = gpu.fabric
        if not isinstance(fabric, nvml.Fabric) or fabric.state == "not supported":
            continue
        said = list(fabric.troubles)
        if fabric.state != "completed":
            said.insert(0, f"joining it is {fabric.state}")
        elif fabric.status != "SUCCESS":
            said.insert(0, f"joining it ended with {fabric.status}")
        if said:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}, NVLink fabric: {'; '.join(said)}",
                evidence={"state": fabric.state},
            )
