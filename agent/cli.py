"""The command line: what a person types. Each command gathers, hands on, and shows; it decides nothing itself.

Exit codes: 0 fine, 1 findings at or above the threshold (for ``report``: something could not be delivered; for
``advisories refresh`` and ``import``: none was taken, and the one in use stays), 2 wrong use or configuration, or state
that cannot be used, 3 interrupted, 70 a defect in dlvmguard.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Any, NoReturn

import click

from agent import __version__
from agent.cli_advisories import advisories
from agent.cli_gpu import gpu
from agent.cli_packages import packages, sbom
from agent.config import ConfigError
from agent.model import CannotLookError, Severity
from agent.session import Session, Suggesting, form_option, near, pass_session
from agent.state import StateError

_INTERRUPTED, _DEFECT = 3, 70


class Program(Suggesting):
    """The whole program; whoever reads us may go away, as ``| head`` does, and that is no failure of ours."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; click itself would turn a reader that is gone into exit code 1, which means findings."""
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # noqa: TID251 -- a file of nobody's
            return None
        return result


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: dlvmguard scan",
)
@click.version_option(__version__, prog_name="dlvmguard")
@click.option("--config", "config_path", default="", metavar="FILE", help="Configuration [/etc/dlvmguard/config.toml].")
@click.option("--state-dir", "state_directory", default="", metavar="DIR", help="Where the history is kept.")
@click.option("--root", default="/", hidden=True, help="Look at a tree of files as if it were a machine.")
@click.pass_context
def cli(context: click.Context, config_path: str, state_directory: str, root: str) -> None:
    """Look after your half of the security of a Google Cloud Deep Learning VM."""
    context.obj = Session(config_path=config_path, state_directory=state_directory, root=root)


@cli.command(
    epilog="Examples: dlvmguard scan --only gpu --only ports;  dlvmguard scan --format json --fail-on critical"
)
@click.option("--only", multiple=True, metavar="TOPIC", help="Look at this topic only; may be repeated.")
@form_option
@click.option("--fail-on", type=click.Choice([each.value for each in Severity]), help="Exit 1 from here on [high].")
@click.option("--no-ledger", is_flag=True, help="Remember nothing.")
@click.option("--all", "everything", is_flag=True, help="List every subject, however many.")
@pass_session
def scan(
    session: Session, only: tuple[str, ...], form: str, fail_on: str | None, *, no_ledger: bool, everything: bool
) -> None:
    """Look at this machine, judge it, and show what to fix."""
    from agent import discovery, report
    from agent.views import data, progress, text

    config = session.config()
    topics = _topics(only, list(discovery.topics()))
    state = None if no_ledger else session.state(writing=True)
    with progress.line() as show:
        summary = report.scan(session.host(show), config, topics=topics, state=state, show=show)
    if form == "json":
        click.echo(data.encoded(data.scan(summary)))
    else:
        text.draw_scan(text.console(), summary, everything=everything)
    threshold = Severity(fail_on) if fail_on else config.fail_on
    sys.exit(1 if summary.fails(threshold) else 0)


def _topics(only: tuple[str, ...], known: list[str]) -> tuple[str, ...]:
    chosen = [topic for each in only for topic in each.split(",") if topic]
    for topic in chosen:
        if topic not in known:
            raise click.UsageError(f"no topic {topic!r}; {near(topic, known)}")
    return tuple(chosen or known)


@cli.command(epilog="Example: dlvmguard status --format json | jq .open")
@form_option
@pass_session
def status(session: Session, form: str) -> None:
    """How things stand, from memory: nothing is looked at anew."""
    from agent import report
    from agent.views import data, text
    from agent.views import status as view

    state = session.ledger(writing=False)
    standing = report.status(state, session.config())
    if standing is None:
        raise StateError(f"no scan was recorded in {state.directory} yet; run: dlvmguard scan")
    if form == "json":
        click.echo(data.encoded(view.as_data(standing)))
    else:
        view.draw(text.console(), standing)


@cli.command(epilog="Examples: dlvmguard explain service-exposed;  dlvmguard explain 3f2a9c01de")
@click.argument("name", metavar="CHECK|FINDING")
@pass_session
def explain(session: Session, name: str) -> None:
    """What a check is for, or what is known about a finding."""
    from agent import discovery, report
    from agent.views import text

    checks = discovery.catalogue()
    if name in checks:
        text.draw_check(text.console(), checks[name])
        return
    known = report.finding(session.ledger(writing=False), name)
    if known is None:
        raise click.UsageError(f"no check or finding {name!r}; {near(name, sorted(checks))}")
    text.draw_finding(text.console(), known.finding, known.since, known.history)
    if check := checks.get(known.finding.check):
        click.echo()
        text.draw_check(text.console(), check)


@cli.command(epilog="Example: dlvmguard checks --format json")
@form_option
def checks(form: str) -> None:
    """The catalogue: everything that is judged."""
    from agent import discovery
    from agent.views import data, text

    if form == "json":
        click.echo(data.encoded([data.check(each) for each in discovery.checks()]))
    else:
        text.draw_catalogue(text.console(), discovery.checks())


@cli.command(epilog="Examples: dlvmguard facts gpu;  dlvmguard facts --now ports")
@click.argument("topic", nargs=-1)
@click.option("--now", "anew", is_flag=True, help="Look now instead of showing what the last scan saw.")
@pass_session
def facts(session: Session, topic: tuple[str, ...], *, anew: bool) -> None:
    """What was seen, as JSON; nothing in it is judged."""
    from agent import discovery, report

    topics = _topics(topic, list(discovery.topics()))
    state = None if anew else session.state(writing=False)
    click.echo(report.facts(session.host(), session.config(), topics=topics, state=state))


@cli.command(epilog="Example: dlvmguard report   (what the timer runs; harmless at any time)")
@pass_session
def report(session: Session) -> None:
    """Record what was seen last, and ship what waits."""
    from agent import report as reporting
    from agent.views import status as view
    from agent.views import text

    done = reporting.report(session.host(), session.ledger(writing=True), session.config())
    view.draw_report(text.console(), done.deliveries, done.notices)
    sys.exit(0 if done.is_settled else 1)


@cli.command(epilog="Example: dlvmguard watch   (what the service runs; stop it with Ctrl-C)")
@pass_session
def watch(session: Session) -> None:
    """Look whenever it is due or something happens, until stopped."""
    from agent import watch as watching

    watching.watch(session.host(), session.state(writing=True), session.load, config_path=session.config_path)


@cli.group(cls=Suggesting)
def models() -> None:
    """Model directories and what was approved in them."""


@models.command(epilog="Example: dlvmguard models approve /models/llama --note 'release 3'")
@click.argument("directory")
@click.option("--note", default="", help="Why this is approved; kept with the approval.")
@pass_session
def approve(session: Session, directory: str, note: str) -> None:
    """Take what is in DIRECTORY now as what it should be."""
    from agent.integrity import approval
    from agent.views import progress

    try:
        with progress.line() as show:
            done = approval.approve(
                directory,
                session.state(writing=True),
                note=note,
                progress=lambda read, path: show(f"reading {directory}: {read / 1e9:.1f} GB, {path}"),
                host=session.host(),
            )
    except approval.ApprovalError as error:
        raise click.ClickException(str(error)) from error
    count, size = len(done.manifest.files), sum(each.size for each in done.manifest.files)
    click.echo(f"approved {done.manifest.directory}: {count} files, {size} bytes, digest {done.digest}")


@models.command(epilog="Example: dlvmguard models revoke /models/retired")
@click.argument("directory")
@pass_session
def revoke(session: Session, directory: str) -> None:
    """Forget the approval of DIRECTORY, which may be gone; its findings are resolved by the next scan."""
    from agent.integrity import approval

    path = os.path.realpath(os.path.expanduser(directory))  # it may be gone, which is why it is revoked
    if not approval.revoke(path, session.state(writing=True)):
        raise click.ClickException(f"{path} has no approval")
    click.echo(f"revoked the approval of {path}")


@cli.group("config", cls=Suggesting)
def configuration() -> None:
    """The configuration: check it, or print all that can be set."""


@configuration.command("check", epilog="Example: dlvmguard --config new.toml config check")
@pass_session
def config_check(session: Session) -> None:
    """Validate the configuration and print what is in force, as JSON."""
    from agent.config import effective
    from agent.views import data

    click.echo(data.encoded(effective(session.config())))


@configuration.command("reference", epilog="Example: dlvmguard config reference > config.toml")
def config_reference() -> None:
    """Print every setting with its meaning and default, as a TOML file."""
    from agent.config import reference

    click.echo(reference(), nl=False)


cli.add_command(advisories)
cli.add_command(packages)
cli.add_command(sbom)
cli.add_command(gpu)


def main(words: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a character must not lose the whole page
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(words))


def _run(words: list[str] | None) -> Any:
    try:
        return cli.main(words, prog_name="dlvmguard", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (ConfigError, StateError, CannotLookError) as error:
        click.echo(f"dlvmguard: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("dlvmguard: interrupted; nothing half done was kept", err=True)
        return _INTERRUPTED
    except Exception:  # noqa: BLE001 -- the one boundary of the program: a defect must not look like exit code 1, findings
        traceback.print_exc()
        click.echo("dlvmguard: this is a defect; please report it with the lines above", err=True)
        return _DEFECT


if __name__ == "__main__":
    main()
