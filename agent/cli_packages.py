"""The commands about what is installed: the list, what is wrong with it, and the bill of materials."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.session import Session, form_option, pass_session

if TYPE_CHECKING:
    from agent.views.packages import Listing

INCOMPLETE = 4
"""Nothing as bad as asked for was found, but not everything could be judged."""


@click.command(epilog="Examples: dlvmguard packages --vulnerable;  dlvmguard packages --env /opt/conda")
@click.option("--vulnerable", is_flag=True, help="Only what has known flaws: exit 1 if as bad as fail_on, 4 if unsure.")
@click.option("--env", "environment", default="", metavar="PATH", help="Only what is installed there or below.")
@click.option("--all", "everything", is_flag=True, help="List every flaw and place, however many.")
@form_option
@pass_session
def packages(session: Session, form: str, environment: str, *, vulnerable: bool, everything: bool) -> None:
    """Everything that is installed, looked at now, and what is known to be wrong with it."""
    from agent import discovery
    from agent.views import data, text
    from agent.views import packages as view

    seen = _listing(session)
    components = [each for each in seen.components if _is_in(each.place, environment)]
    if environment and not components:
        raise click.UsageError(f"nothing is known to be installed in {environment}; see: dlvmguard packages")
    findings = [each for each in seen.findings if any(_is_in(place.place, environment) for place in each.instances)]
    if form == "json":
        checks = discovery.catalogue()
        affected = {place.place for each in findings for place in each.instances}
        chosen = [each for each in components if not vulnerable or each.key in affected]
        click.echo(data.encoded(view.as_data(seen, chosen, findings, checks)))
    elif vulnerable:
        view.draw_vulnerable(text.console(), seen, findings, everything=everything)
    else:
        view.draw_installed(text.console(), seen, components)
    if vulnerable:
        threshold = session.config().fail_on
        found = any(each.severity.at_least(threshold) for each in findings)
        sys.exit(1 if found else INCOMPLETE if seen.unjudged else 0)


@click.command(epilog="Example: dlvmguard sbom --format spdx > machine.spdx.json")
@click.option(
    "--format",
    "form",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    help="CycloneDX 1.6 or SPDX 2.3, both as JSON.",
)
@pass_session
def sbom(session: Session, form: str) -> None:
    """A bill of materials of this machine, looked at now."""
    from agent.formats import cyclonedx, spdx
    from agent.views import data

    bill = _listing(session).bill
    click.echo(data.encoded(cyclonedx.document(bill) if form == "cyclonedx" else spdx.document(bill)))


def _listing(session: Session) -> Listing:
    from agent.listing import listing
    from agent.views import progress

    with progress.line() as show:
        return listing(session.host(show), session.config(), session.state(writing=False), show=show)


def _is_in(place: str, environment: str) -> bool:
    """Whether a place is this one, or lies below it."""
    wanted = environment.rstrip("/")
    return not wanted or place == wanted or place.startswith((f"{wanted}/", f"{wanted}#", f"{wanted}:"))
