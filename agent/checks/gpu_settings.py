"""NVIDIA GPUs: how they are set up, where that costs speed, safety or time."""

from __future__ import annotations

from collections.abc import Iterator

from agent.facts.gpu import Driver, Gpus
from agent.facts.gpu_samples import GpuSamples, Loaded
from agent.facts.nvml import Confidential, Gpu, called
from agent.model import Duty, Finding, Severity, check

_LOOKS = 2
"""A single look may fall into the moment in which a job begins; two in a row do not."""


@check(
    severity=Severity.MEDIUM,
    duty=Duty.MONITORING,
    fix="Stop and start the VM on another host if jobs are slow; if it stays, ask Google Cloud support.",
)
def gpu_slowed_down(gpus: Gpus, samples: GpuSamples) -> Iterator[Finding]:
    """A GPU at work is held back by heat or by its power supply.

    Its clocks are lowered to protect it, at two looks in a row at which it worked. A limit on power by software is
    how busy cards are meant to run, and is not judged. It is over when a look finds it at work and not held back, or
    after a restart; idle time proves nothing.
    """
    for gpu, looks in _at_work(gpus, samples):
        if all(look.slowed_by for look in looks):
            reasons = ", ".join(sorted({reason for look in looks for reason in look.slowed_by}))
            yield Finding(subject=gpu.key, detail=f"{called(gpu)} is slowed down under load: {reasons}")


@check(
    severity=Severity.LOW,
    duty=Duty.MONITORING,
    fix="Stop and start the VM on another host if loading data is slow; if it stays, ask Google Cloud support.",
)
def gpu_pcie_link_reduced(gpus: Gpus, samples: GpuSamples) -> Iterator[Finding]:
    """The PCIe link of a GPU at work is narrower or slower than it could be.

    Data gets to the card more slowly, which a bad contact or the host's settings cause. Idle cards slow their link
    down to save power, so it is judged by two looks in a row at which the card worked. It is over when a look finds it
    at work with its full link, or after a restart.
    """
    for gpu, looks in _at_work(gpus, samples):
        widest = max((look.pcie_width for look in looks if isinstance(look.pcie_width, int)), default=0)
        fastest = max((look.pcie_generation for look in looks if isinstance(look.pcie_generation, int)), default=0)
        short = []
        if isinstance(gpu.pcie_width_max, int) and 0 < widest < gpu.pcie_width_max:
            short.append(f"x{widest} instead of x{gpu.pcie_width_max}")
        if isinstance(gpu.pcie_generation_max, int) and 0 < fastest < gpu.pcie_generation_max:
            short.append(f"generation {fastest} instead of {gpu.pcie_generation_max}")
        if short:
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: PCIe link under load is {', '.join(short)}")


def _at_work(gpus: Gpus, samples: GpuSamples) -> Iterator[tuple[Gpu, tuple[Loaded, ...]]]:
    for gpu in gpus.gpus:
        looks = samples.under_load.get(gpu.key, ())
        if len(looks) >= _LOOKS:
            yield gpu, looks


_REPLAYS_PER_MINUTE = 8.0
"""Above which NVIDIA's own health check warns: DCGM_LIMIT_MAX_PCIREPLAY_RATE of https://github.com/NVIDIA/DCGM"""


@check(
    severity=Severity.LOW,
    duty=Duty.MONITORING,
    fix="Stop and start the VM on another host if it goes on; if it stays, ask Google Cloud support.",
)
def gpu_pcie_replays(gpus: Gpus, samples: GpuSamples) -> Iterator[Finding]:
    """The PCIe link of a GPU sends packets again all the time.

    A bad contact or a failing part garbles them; data is right in the end, but late. A few are normal, so the rate
    between two looks is judged. It is over when a later look finds fewer.
    """
    for gpu in gpus.gpus:
        if samples.replay_rates.get(gpu.key, 0.0) > _REPLAYS_PER_MINUTE:
            yield Finding(
                subject=gpu.key, detail=f"{called(gpu)}: more than {_REPLAYS_PER_MINUTE:g} PCIe replays a minute"
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="Remove NVreg_EnableGpuFirmware=0 from /etc/modprobe.d and the kernel's command line, then sudo reboot",
)
def gpu_firmware_off(driver: Driver, gpus: Gpus) -> Iterator[Finding]:
    """The open kernel module runs a GPU without its system processor's firmware.

    NVIDIA's open module is made to work with the firmware (GSP) alone. Without it the card runs in a way that nobody
    tests. The proprietary module may run either way and is not judged. It is over once the firmware is in use.
    """
    if not driver.module or driver.module.flavour != "open":
        return
    for gpu in gpus.gpus:
        if gpu.gsp is False:
            yield Finding(subject=gpu.key, detail=f"{called(gpu)} runs without GSP firmware")


@check(
    severity=Severity.INFO,
    duty=Duty.MONITORING,
    fix="Start NVIDIA's daemon for it: sudo systemctl enable --now nvidia-persistenced",
)
def gpu_persistence_off(gpus: Gpus) -> Iterator[Finding]:
    """A GPU forgets its state whenever nobody uses it.

    With persistence mode off the driver shuts an idle card down: each program starts seconds later, error counts since
    the driver was loaded are lost, and this agent looks at idle cards but once an hour, as looking would wake them. It
    is over once persistence mode is on.
    """
    for gpu in gpus.gpus:
        if gpu.persistence is False:
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: persistence mode is off")


@check(
    severity=Severity.LOW,
    duty=Duty.MONITORING,
    fix="See who meant it; back to the default: sudo nvidia-smi -pl WATTS, as nvidia-smi -q -d POWER shows them",
)
def gpu_power_limit_lowered(gpus: Gpus) -> Iterator[Finding]:
    """A GPU may draw less power than it is made for.

    Somebody lowered its limit, so that it computes more slowly than what is paid for; some do so to save energy. It
    is over once the limit is the default again.
    """
    for gpu in gpus.gpus:
        limit, default = gpu.power_limit, gpu.power_default
        if isinstance(limit, int) and isinstance(default, int) and 0 < limit < default:
            yield Finding(
                subject=gpu.key,
                detail=f"{called(gpu)}: the power limit is {limit // 1000} W, by default it is {default // 1000} W",
                evidence={"limit": limit, "default": default},
            )


@check(
    severity=Severity.LOW,
    duty=Duty.ACCESS,
    fix="Find which program draws on it with nvidia-smi, and stop it if nobody meant it.",
)
def gpu_display_active(gpus: Gpus) -> Iterator[Finding]:
    """A display is drawn on a GPU of a virtual machine.

    A Deep Learning VM has no screen: a desktop or a remote-access program runs on the card, shows what users do, and
    takes memory and time from jobs. Cards that are not passed through to a VM are not judged. It is over once nothing
    is drawn any more.
    """
    for gpu in gpus.gpus:
        if gpu.display_active is True and gpu.virtualisation == "pass-through":
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: a display is active")


@check(severity=Severity.LOW, duty=Duty.MONITORING, fix="If nobody meant it: sudo nvidia-smi -c DEFAULT")
def gpu_compute_prohibited(gpus: Gpus) -> Iterator[Finding]:
    """A GPU is closed to CUDA programs.

    Its compute mode is "prohibited", so that every job on it fails. It is over once the mode is another one.
    """
    for gpu in gpus.gpus:
        if gpu.compute_mode == "prohibited":
            yield Finding(subject=gpu.key, detail=f"{called(gpu)}: its compute mode is prohibited")


@check(
    severity=Severity.HIGH,
    duty=Duty.ACCESS,
    fix="Switch developers' tools off for confidential computing (nvidia-smi conf-compute), then start the VM anew.",
)
def gpu_confidential_computing_open(gpus: Gpus) -> Iterator[Finding]:
    """Confidential computing is on, but open to developers' tools or not the real thing.

    With developers' tools allowed the GPU's memory can be looked into, and in the simulation nothing is protected,
    while jobs believe that it is. Machines without confidential computing are not judged. It is over once both are as
    in production.
    """
    said = gpus.confidential
    if not isinstance(said, Confidential) or not said.enabled:
        return
    wrong = ["developers' tools are allowed"] if said.developer_tools else []
    if said.environment != "production":
        wrong.append(f"the environment is {said.environment}")
    if wrong:
        yield Finding(
            subject="confidential-computing", detail=f"confidential computing is on, but {' and '.join(wrong)}"
        )
