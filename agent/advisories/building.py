"""Making the advisory database from what publishers offer, and refusing to make a bad one.

It is made in one place for many machines, never on them. The same inputs and date give the same files.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from agent import knowledge
from agent.advisories import exports, nvidia
from agent.advisories.advisory import Advisory, Shard, Source
from agent.advisories.exports import ExportError
from agent.advisories.gathering import NEVER, Gathered, source
from agent.advisories.naming import link
from agent.advisories.normalising import Statement, advisory
from agent.advisories.records import Aliases, preference
from agent.advisories.shards import OpenShard, Rows, ShardError, packed
from agent.host import MEBIBYTE, Host
from agent.knowledge import AdvisoryRepairs, AdvisorySources, NvidiaBulletins
from agent.model import CannotLookError, Value
from agent.state import save

_TABLE_LIMIT = 64 * MEBIBYTE
_FALL = 0.02
"""Exports were incomplete at times: https://github.com/google/osv.dev/issues/2708."""


class BuildError(Exception):
    """The database was not made; the text says why, one reason a line."""


class Ready(Value, frozen=True, kw_only=True):
    """Advisories of one ecosystem that are made elsewhere, from a source that has no records, by package.

    ``tables`` go along with them, as a shard has them.
    """

    ecosystem: str
    source: Source
    packages: Mapping[str, tuple[Advisory, ...]]
    tables: Mapping[str, str] = {}


def bulletins(path: str) -> NvidiaBulletins:
    """NVIDIA's bulletins from a TOML file of the form of the program's own table, which is taken where none is named.

    Raises:
        BuildError: the file cannot be read, or is of another form.
    """
    if not path:
        own: NvidiaBulletins = knowledge.load(NvidiaBulletins)
        return own
    try:
        return msgspec.toml.decode(Host().read(path, limit=_TABLE_LIMIT), type=NvidiaBulletins)
    except (CannotLookError, msgspec.MsgspecError, ValueError) as error:
        raise BuildError(f"{path}: expected a table as knowledge/nvidia_bulletins.toml: {error}") from error


def of_nvidia(table: NvidiaBulletins) -> Ready:
    """NVIDIA's bulletins: as advisories, and as the table itself, since branches say more than ranges."""
    packages: dict[str, list[Advisory]] = {}
    for product, known in nvidia.advisories(table):
        packages.setdefault(product, []).append(known)
    return Ready(
        ecosystem=nvidia.ECOSYSTEM,
        source=Source(
            name="NVIDIA security bulletins",
            url="https://www.nvidia.com/en-us/security/",
            licence="facts, restated",
            attribution="NVIDIA Corporation, https://www.nvidia.com/en-us/security/",
            date=table.updated,
            records=sum(map(len, packages.values())),
        ),
        packages={product: tuple(found) for product, found in packages.items()},
        tables={table.file: msgspec.json.encode(table).decode()},
    )


class Inputs(Value, frozen=True, kw_only=True):
    """What the database is made from: paths of OSV exports, of CISA's catalogue and of EPSS, and what is ready."""

    records: tuple[str, ...]
    exploited: str = ""
    probabilities: str = ""
    ready: tuple[Ready, ...] = ()


class Gates(Value, frozen=True, kw_only=True):
    """What the new database must hold to.

    ``previous`` is a directory of shards, of which none may be missing or shrink by more than a fiftieth;
    ``fresh_within`` the days within which a record must have been changed; ``known`` whether flaws that everybody
    knows must be there.
    """

    previous: str = ""
    fresh_within: int | None = None
    known: bool = True


class Built(Value, frozen=True, kw_only=True):
    """One file of the database."""

    shard: Shard
    content: bytes


class Made(Value, frozen=True, kw_only=True):
    """The whole database, and what became of the records that were read.

    ``repaired`` and ``unclear`` count what they say of a package: where a table said what it means, and where nobody
    knows.
    """

    built: tuple[Built, ...]
    read: int
    withdrawn: int
    repaired: int
    unclear: int


def build(inputs: Inputs, *, date: dt.date, names: Sequence[str] = (), gates: Gates | None = None) -> Made:
    """The shards of these names, or of everything that the inputs are about, as of the beginning of a day.

    Raises:
        BuildError: an input cannot be used, or the result does not hold to the gates.
    """
    table, gates = knowledge.load(AdvisorySources), gates or Gates()
    unknown = [name for name in names if name not in table.shards]
    if unknown:
        raise BuildError(f"no shard {unknown[0]!r}; expected one of {', '.join(table.shards)}")
    wanted = {name: table.shards[name] for name in names or table.shards}
    ecosystems = {each for some in wanted.values() for each in some}
    repairs = knowledge.load(AdvisoryRepairs)
    with contextlib.closing(Gathered(ecosystems, repairs, table.publishers, until=_begin(date))) as gathered:
        try:
            for path in inputs.records:
                gathered.add_all(path)
            weights = _Weights(inputs, table)
        except (ExportError, CannotLookError) as error:
            raise BuildError(str(error)) from error
        present = gathered.ecosystems() | {each.ecosystem for each in inputs.ready}
        built = tuple(
            _built(name, wanted[name], inputs, gathered, weights, date)
            for name in wanted
            if names or present & set(wanted[name])
        )
        made = Made(
            built=built,
            read=gathered.read,
            withdrawn=gathered.withdrawn,
            repaired=gathered.repaired,
            unclear=gathered.unclear,
        )
    problems = [problem for each in built for problem in _violations(each, table, gates)]
    problems += _gone(built, wanted, gates)
    if not built:
        problems.append("no record is about anything that the database is made for")
    if problems:
        raise BuildError("\n".join(problems))
    return made


class _Weights:
    """What is known about flaws beside the records: which are exploited, and how probably they will be."""

    def __init__(self, inputs: Inputs, table: AdvisorySources) -> None:
        publishers = {prefix: each for each in table.publishers for prefix in each.prefixes}
        self.sources: list[Source] = []
        self._exploited: Mapping[str, bool] = {}
        self._probabilities: Mapping[str, float] = {}
        if inputs.exploited:
            catalogue = exports.exploited(inputs.exploited)
            self._exploited = catalogue.flaws
            self.sources.append(source(publishers["KEV"], date=catalogue.date, records=len(catalogue.flaws)))
        if inputs.probabilities:
            scores = exports.probabilities(inputs.probabilities)
            self._probabilities = scores.flaws
            self.sources.append(source(publishers["EPSS"], date=scores.date, records=len(scores.flaws)))

    def laid_on(self, advisory: Advisory) -> Advisory:
        """The advisory with what is known about any of its ids."""
        ransomware = [self._exploited[each] for each in advisory.ids if each in self._exploited]
        probable = [self._probabilities[each] for each in advisory.ids if each in self._probabilities]
        if not ransomware and not probable:
            return advisory
        return msgspec.structs.replace(
            advisory,
            known_exploited=bool(ransomware) or advisory.known_exploited,
            ransomware=any(ransomware) or advisory.ransomware,
            exploit_probability=max(probable, default=advisory.exploit_probability),
        )


def _built(
    name: str, ecosystems: tuple[str, ...], inputs: Inputs, gathered: Gathered, weights: _Weights, date: dt.date
) -> Built:
    ready = [each for each in inputs.ready if each.ecosystem in ecosystems]
    newest = [_begin(each.source.date) for each in ready]
    shard = Shard(
        name=name,
        ecosystems=ecosystems,
        built=_begin(date),
        newest=max((*newest, *gathered.newest(ecosystems)), default=NEVER),
        records=0,
        sources=(*gathered.sources(ecosystems), *(each.source for each in ready), *weights.sources),
        tables={name: text for each in ready for name, text in each.tables.items()},
    )
    shard, content = packed(shard, _rows(ecosystems, ready, gathered, weights))
    return Built(shard=shard, content=content)


def _begin(date: dt.date) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(), dt.timezone.utc)


def _rows(ecosystems: Iterable[str], ready: Sequence[Ready], gathered: Gathered, weights: _Weights) -> Rows:
    for ecosystem in ecosystems:
        for name, said in gathered.packages(ecosystem):
            yield ecosystem, name, _ordered(map(weights.laid_on, _advisories(ecosystem, gathered.aliases, said)))
    for each in ready:
        for name, advisories in sorted(each.packages.items()):
            yield each.ecosystem, name, _ordered(map(weights.laid_on, advisories))


def _advisories(ecosystem: str, aliases: Aliases, said: Iterable[Statement]) -> Iterator[Advisory]:
    """What the statements about one package come to, flaw by flaw."""
    flaws: dict[str, list[Statement]] = {}
    for statement in said:
        flaws.setdefault(aliases.name(statement.flaw), []).append(statement)
    for name, about in flaws.items():
        found = advisory(name, about)
        yield msgspec.structs.replace(found, url=link(ecosystem, found.ids))


def _ordered(advisories: Iterable[Advisory]) -> tuple[Advisory, ...]:
    return tuple(sorted(advisories, key=lambda each: preference(each.id)))


def _violations(built: Built, table: AdvisorySources, gates: Gates) -> Iterator[str]:
    """What is wrong with a shard, as whoever uses it would find it."""
    name, date = built.shard.name, built.shard.built
    with tempfile.TemporaryDirectory(prefix="dlvmguard-") as scratch, _opened(scratch, built) as file:
        if not file.shard.records:
            yield f"{name}: no record is about {' or '.join(built.shard.ecosystems)}"
        for flaw in table.known if gates.known else ():
            found = file.about(flaw.ecosystem, flaw.package) if flaw.ecosystem in built.shard.ecosystems else None
            if found is not None and not any(flaw.id in each.ids for each in found):
                yield f"{name}: {flaw.id} of {flaw.package} is missing"
        if gates.fresh_within is not None and date - file.shard.newest > dt.timedelta(days=gates.fresh_within):
            yield f"{name}: no record was changed since {file.shard.newest:%Y-%m-%d}"
        before = _records(f"{gates.previous}/{name}.sqlite") if gates.previous else 0
        if file.shard.records < before * (1 - _FALL):
            yield f"{name}: {file.shard.records} records, where there were {before}"


def _gone(built: Iterable[Built], wanted: Iterable[str], gates: Gates) -> Iterator[str]:
    """Which shards there were before and are no more."""
    there = {each.shard.name for each in built}
    for name in wanted:
        if gates.previous and name not in there and (before := _records(f"{gates.previous}/{name}.sqlite")):
            yield f"{name}: no records, where there were {before}"


def _records(path: str) -> int:
    """How many records a previous shard has; none where there is none."""
    if not Host().exists(path):
        return 0
    try:
        with contextlib.closing(OpenShard(path)) as file:
            return file.shard.records
    except ShardError as error:
        raise BuildError(f"{path}, which is to be compared with: {error}") from error


def _opened(directory: str, built: Built) -> contextlib.closing[OpenShard]:
    path = f"{directory}/{built.shard.name}.sqlite"
    save(path, built.content)
    return contextlib.closing(OpenShard(path))
