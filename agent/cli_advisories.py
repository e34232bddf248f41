"""The commands of the advisory database: what it holds, how old it is, and how it is made."""

from __future__ import annotations

import datetime as dt

import click

from agent.session import Session, Suggesting, form_option, pass_session


@click.group(cls=Suggesting)
def advisories() -> None:
    """The advisory database: what it holds, and how it is made."""


@advisories.command(epilog="Example: dlvmguard advisories info --format json | jq .freshness")
@form_option
@pass_session
def info(session: Session, form: str) -> None:
    """What the database holds, how old it is, from where, and under which licence."""
    from agent.advisories import database
    from agent.views import advisories as view
    from agent.views import data, text

    now = dt.datetime.now(dt.timezone.utc)
    with database.opened(session.ledger(writing=False)) as known:
        if form == "json":
            click.echo(data.encoded(view.as_data(known, now)))
        else:
            view.draw(text.console(), known, now)


_DATE = click.DateTime(["%Y-%m-%d"])


@advisories.command(epilog="Example: dlvmguard advisories build PyPI/all.zip Debian/all.zip --kev kev.json --to shards")
@click.argument("exports", nargs=-1, required=True)
@click.option("--kev", default="", metavar="FILE", help="CISA's catalogue of exploited flaws: .json, .jsonl or .csv.")
@click.option("--epss", default="", metavar="FILE", help="Probabilities of exploitation: .csv or .csv.gz.")
@click.option("--to", "directory", required=True, metavar="DIR", help="Where the files are put.")
@click.option("--date", type=_DATE, help="The day that it is made for [today]; it decides nothing else.")
@click.option("--shard", "shards", multiple=True, metavar="NAME", help="Make this one; may be repeated.")
@click.option("--previous", default="", metavar="DIR", help="Refuse what is smaller than the shards there by 2 %.")
@click.option("--fresh-within", type=int, metavar="DAYS", help="Refuse what has no record changed within these days.")
def build(  # noqa: PLR0913 -- one parameter an option
    exports: tuple[str, ...],
    kev: str,
    epss: str,
    *,
    directory: str,
    date: dt.datetime | None,
    shards: tuple[str, ...],
    previous: str,
    fresh_within: int | None,
) -> None:
    """Make the database from EXPORTS of OSV records: .zip, .jsonl, .jsonl.gz or .jsonl.xz."""
    import os

    from agent.advisories import building
    from agent.state import save

    paths = [os.path.abspath(each) if each else "" for each in (kev, epss, directory, previous)]
    inputs = building.Inputs(records=tuple(map(os.path.abspath, exports)), exploited=paths[0], probabilities=paths[1])
    gates = building.Gates(previous=paths[3], fresh_within=fresh_within)
    day = (date or dt.datetime.now(dt.timezone.utc)).date()
    try:
        made = building.build(inputs, date=day, names=shards, gates=gates)
    except building.BuildError as error:
        raise click.ClickException(str(error)) from error
    for each in made.built:
        save(f"{paths[2]}/{each.shard.name}.sqlite", each.content)
        click.echo(f"{each.shard.name}: {each.shard.records} advisories, {len(each.content)} bytes")
    click.echo(
        f"{made.read} records read: {made.withdrawn} withdrawn, {made.repaired} repaired, {made.unclear} unclear"
    )
