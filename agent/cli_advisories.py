"""The commands of the advisory database: what it holds, how old it is, how it is made, and how it is kept fresh."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from agent.session import Session, Suggesting, form_option, pass_session
from agent.state import StateError

if TYPE_CHECKING:
    from agent.advisories.installed import Installed


@click.group(cls=Suggesting)
def advisories() -> None:
    """The advisory database: what it holds, how it is made, and kept fresh."""


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
@click.option("--nvidia", default="", metavar="FILE", help="NVIDIA's bulletins as a table [the program's own].")
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
    nvidia: str,
    directory: str,
    date: dt.datetime | None,
    shards: tuple[str, ...],
    previous: str,
    fresh_within: int | None,
) -> None:
    """Make the database from EXPORTS of OSV records: .zip, .jsonl, .jsonl.gz or .jsonl.xz."""
    from agent.advisories import building
    from agent.state import save

    paths = [os.path.abspath(each) if each else "" for each in (kev, epss, directory, previous, nvidia)]
    gates = building.Gates(previous=paths[3], fresh_within=fresh_within)
    day = (date or dt.datetime.now(dt.timezone.utc)).date()
    try:
        inputs = building.Inputs(
            records=tuple(map(os.path.abspath, exports)),
            exploited=paths[0],
            probabilities=paths[1],
            ready=(building.of_nvidia(building.bulletins(paths[4])),),
        )
        made = building.build(inputs, date=day, names=shards, gates=gates)
    except building.BuildError as error:
        raise click.ClickException(str(error)) from error
    for each in made.built:
        save(f"{paths[2]}/{each.shard.name}.sqlite", each.content)
        click.echo(f"{each.shard.name}: {each.shard.records} advisories, {len(each.content)} bytes")
    click.echo(
        f"{made.read} records read: {made.withdrawn} withdrawn, {made.repaired} repaired, {made.unclear} unclear"
    )


@advisories.command(epilog="Example: dlvmguard advisories refresh   (what the timer runs; harmless at any time)")
@click.option("--url", default="", help="Fetch from here [advisories.url].")
@pass_session
def refresh(session: Session, url: str) -> None:
    """Fetch a newer database, if it is signed by a known key. Exit 1: none was taken, the one in use stays."""
    import msgspec

    settings = session.config().advisories
    if not (url or settings.url):
        click.echo("no source is configured (advisories.url), so the database stays as it is")
        return
    from agent.advisories import refreshing

    chosen = msgspec.structs.replace(settings, url=url or settings.url)
    wanted = _ecosystems(session)
    state = session.ledger(writing=True)
    with _or_stays():
        after, is_new = refreshing.within(
            refreshing.SECONDS,
            lambda: refreshing.refresh(state, chosen, ecosystems=wanted, now=_now()),
        )
    click.echo(f"{'taken' if is_new else 'nothing new'}: {_summed_up(after)}")


@advisories.command(
    "import",
    epilog="Examples: dlvmguard advisories import advisories.tar;  dlvmguard advisories import --trust pypi.sqlite",
)
@click.argument("file")
@click.option("--trust", is_flag=True, help="Take a single shard, as `advisories build` makes it, without a signature.")
@pass_session
def take(session: Session, file: str, *, trust: bool) -> None:
    """Take a database from FILE, a tar archive or a directory of what `advisories publish` wrote."""
    from agent.advisories import importing, refreshing

    host, path = session.host(), os.path.abspath(file)
    wanted = _ecosystems(session)
    with importing.opened(host, path) as parcel:  # before root is given up, as it may lie in somebody's home
        if trust != parcel.is_shard:
            raise click.UsageError(
                f"{file} is no single shard; --trust is for one"
                if trust
                else f"{file} is a single shard, which nobody signed; to take it all the same: --trust"
            )
        state = session.ledger(writing=True)
        with _or_stays():
            if trust:
                after = importing.trust(state, parcel)
            else:
                keys = refreshing.keys(session.config().advisories)
                after = importing.take(state, parcel, keys=keys, ecosystems=wanted, now=_now())
    click.echo(f"taken: {_summed_up(after)}")


@advisories.command(epilog="Example: dlvmguard advisories publish shards/ --key key.pem --to bucket/")
@click.argument("shards", metavar="DIRECTORY")
@click.option("--key", required=True, help="Ed25519 key: openssl genpkey -algorithm ed25519 -out key.pem")
@click.option(
    "--to", "bucket", default="", metavar="DIR", help="Where the bucket's layout is written [DIRECTORY/bucket]."
)
@click.option("--serial", type=click.IntRange(1, 2**53), help="Higher than the last one [the time in seconds].")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Not taken any more after.")
@pass_session
def publish(session: Session, shards: str, key: str, bucket: str, serial: int | None, days: int) -> None:
    """Pack and sign the shards in DIRECTORY, to be fetched or imported by others."""
    from agent.advisories import publishing
    from agent.advisories.installed import NotTakenError
    from agent.advisories.manifest import KeyFileError

    target = os.path.abspath(bucket or f"{shards}/bucket")
    # https://reproducible-builds.org/specs/source-date-epoch/
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    built = dt.datetime.fromtimestamp(int(epoch), dt.timezone.utc) if epoch.isdecimal() else _now()
    try:
        done = publishing.publish(
            session.host(),
            os.path.abspath(shards),
            target,
            key=os.path.abspath(key),
            serial=serial,
            built=built.replace(microsecond=0),
            lasts=dt.timedelta(days=days),
        )
    except (KeyFileError, NotTakenError, publishing.NothingToPublishError) as error:
        raise click.ClickException(str(error)) from error
    for shard in done.manifest.shards:
        click.echo(f"{shard.name}: {shard.records} records, {shard.compressed} bytes")
    click.echo(f"serial {done.manifest.serial}, until {done.manifest.expires:%Y-%m-%d}, in {target}")
    click.echo(f'Readers need:  [advisories] public_keys = ["{done.public_key}"]')
    click.echo(f"To a bucket:   gcloud storage cp --recursive --cache-control=no-cache {target}/* gs://BUCKET/PREFIX/")
    click.echo(f"To a file:     tar -cf advisories.tar -C {target} manifest.json manifest.json.sig shards")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _ecosystems(session: Session) -> tuple[str, ...]:
    """What the database must answer for here; a machine that does not say what it is has no distribution."""
    from agent.advisories import choosing
    from agent.model import AbsentError

    try:
        release = session.host().text("/etc/os-release")
    except AbsentError:
        release = ""
    return choosing.ecosystems(release, session.config().advisories.ecosystems)


@contextlib.contextmanager
def _or_stays() -> Iterator[None]:
    """End with 1 where no other database was taken, which leaves the one that is in use."""
    from agent.advisories.installed import NotTakenError

    try:
        yield
    except (NotTakenError, StateError) as error:
        click.echo(f"dlvmguard: no advisory database was taken: {error}; the one in use stays", err=True)
        sys.exit(1)


def _summed_up(known: Installed) -> str:
    """What is in force, in a line."""
    names = ", ".join(shard.name for shard in known.shards)
    return f"{names}" + (f" (serial {known.serial}, of {known.built:%Y-%m-%d %H:%M})" if known.built else "")
