"""The commands that make the watcher leave the GPUs alone for a while, and end that."""

from __future__ import annotations

import datetime as dt

import click

from agent.session import Session, Suggesting, pass_session


@click.group(cls=Suggesting)
def gpu() -> None:
    """Let go of the GPUs while you work on them."""


@gpu.command(epilog="Example: sudo dlvmguard gpu release --for 60 && sudo nvidia-smi --gpu-reset")
@click.option(
    "--for", "minutes", type=click.IntRange(1, 24 * 60), default=30, show_default=True, metavar="MINUTES",
    help="For how long; it ends by itself, and with a restart.",
)  # fmt: skip
@pass_session
def release(session: Session, minutes: int) -> None:
    """Leave NVML alone: before a reset of a GPU, a change of MIG, or an update of the driver.

    The watcher keeps no GPU open. It asks NVML in a process of its own that ends after a second or so; one that is
    asking just now still does. What was found stays open meanwhile.
    """
    from agent import state
    from agent.facts import gpu_pause

    until = dt.datetime.now(dt.timezone.utc) + dt.timedelta(minutes=minutes)
    text = gpu_pause.release_text(gpu_pause.uptime() + minutes * 60, until)
    state.save(session.host().place(gpu_pause.RELEASE), text.encode())
    click.echo(f"GPUs are left alone until {gpu_pause.released(session.host())}; sooner: dlvmguard gpu resume")


@gpu.command(epilog="Example: sudo dlvmguard gpu resume")
@pass_session
def resume(session: Session) -> None:
    """Look after the GPUs again, from now on."""
    from agent import state
    from agent.facts import gpu_pause

    if not gpu_pause.released(session.host()):
        click.echo("GPUs are not released; nothing to do")
        return
    state.save(session.host().place(gpu_pause.RELEASE), b"over\n")
    click.echo("GPUs are looked after again")
