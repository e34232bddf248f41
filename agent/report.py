"""From facts to memory: judge what was seen, record what changed, and answer from what is recorded."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from agent import __version__, collect, discovery, outbox, ship
from agent.config import Config
from agent.evaluate import evaluate
from agent.facts.machine import Machine
from agent.host import Host
from agent.ledger import Ledger, Look
from agent.ledger_file import reading, writing
from agent.model import Event, Fact, Judged, Moment, Outcome, Unknown, Value, short_id
from agent.state import State, StateError
from agent.views.status import Status
from agent.views.summary import Summary, Topic

_SPEAKER = {"machine", "instance"}
"""The probes that say which machine this is."""
_NEWEST = 10
"""Changes that ``status`` shows."""


def scan(
    host: Host,
    config: Config,
    *,
    topics: Sequence[str],
    state: State | None,
    show: Callable[[str], None] = lambda _text: None,
) -> Summary:
    """Look at these topics, judge, and record in ``state`` (none: remember nothing); the summary of it all.

    A state directory that cannot be written costs the memory, not the answer: it is said in the summary.
    """
    start = time.monotonic()
    probes = [probe for probe in discovery.probes() if probe.topic in topics]
    looks = collect.collect(probes, host, config, before=lambda probe: show(f"looking at {probe.topic} ..."))
    outcomes = judge(looks, config)
    notices = _kept(state, looks, outcomes) if state else ()
    return Summary(
        agent_version=__version__,
        machine=_machine(host, config, looks),
        taken=dt.datetime.now(dt.timezone.utc),
        seconds=time.monotonic() - start,
        topics=tuple(_topic(name, looks) for name in topics),
        checks={check.id: check for check in discovery.checks()},
        outcomes=outcomes,
        notices=notices,
    )


def judge(looks: Iterable[collect.Look], config: Config) -> tuple[Outcome, ...]:
    """The outcome of every check whose facts were looked at."""
    moment = Moment(now=dt.datetime.now(dt.timezone.utc))
    return evaluate(discovery.checks(), collect.facts(looks), config, moment)


def _kept(state: State, looks: Sequence[collect.Look], outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    try:
        save(state, looks)
        notice = record(state, looks, outcomes)
    except StateError as error:
        return (f"Not recorded: {error}",)
    return (notice,) if notice else ()


def save(state: State, looks: Sequence[collect.Look]) -> None:
    """Keep what was seen; of a probe that did not run now, what it saw last stays."""
    fresh = {look.probe.name for look in looks}
    try:
        kept = [look for look in load(state) if look.probe.name not in fresh]
    except StateError:  # a damaged snapshot has nothing worth keeping, and is replaced whole
        kept = []
    state.write(state.snapshot, collect.encode([*kept, *looks]))


def load(state: State) -> tuple[collect.Look, ...]:
    """What was seen last; nothing where there was no scan."""
    text = state.read(state.snapshot)
    return collect.decode(text, discovery.probes()) if text is not None else ()


def record(state: State, looks: Sequence[collect.Look], outcomes: Sequence[Outcome]) -> str:
    """Record what changed, and return a notice about the ledger, if any."""
    topics = sorted({look.probe.topic for look in looks})
    noted = [
        Look(topic=topic, taken=min(each.taken for each in of_topic), unknowns=_unknowns(of_topic))
        for topic in topics
        if (of_topic := [look for look in looks if look.probe.topic == topic])
    ]
    catalogue = {check.id for check in discovery.checks()}
    speaker = ship.identity(look.fact for look in looks if isinstance(look.fact, Fact))
    name = msgspec.json.encode(speaker).decode() if speaker else ""
    _, notice = writing(state, lambda ledger: ledger.record(outcomes, looks=noted, catalogue=catalogue, identity=name))
    return notice


class Report(Value, frozen=True, kw_only=True):
    """What became of a report: how far each sink has got, and what people should know."""

    deliveries: tuple[outbox.Progress, ...]
    notices: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits anywhere."""
        return bool(self.deliveries or not self.notices) and not any(each.waiting for each in self.deliveries)


def report(host: Host, state: State, config: Config) -> Report:
    """Record what was seen since the last time, and ship what waits.

    Raises:
        StateError: the ledger or the snapshot cannot be used; nothing was lost.
    """
    looks = load(state) or collect.collect(discovery.probes(), host, config)
    seen = {look.probe.name for look in looks}
    # A scan of chosen topics alone may not have asked who we are, and no event is sent without a sender.
    looks += collect.collect((each for each in discovery.probes() if each.name in _SPEAKER - seen), host, config)
    notices = [record(state, looks, judge(looks, config))]
    checks = {check.id: check for check in discovery.checks()}

    def work(ledger: Ledger) -> tuple[outbox.Progress, ...]:
        speaker = ship.remembered(ledger)
        if speaker is None:
            notices.append(
                "Nothing was shipped: which machine this is could not be found out yet; see: dlvmguard status"
            )
            return ()
        return ship.ship(ledger, ship.sinks(config, speaker, checks), speaker)

    deliveries, notice = writing(state, work)
    return Report(deliveries=deliveries, notices=tuple(filter(None, [*notices, notice])))


def status(state: State, config: Config) -> Status | None:
    """How things stand, from the ledger; None before the first scan."""
    checks = {check.id: check for check in discovery.checks()}
    with reading(state) as ledger:
        if ledger is None:
            return None
        names = [sink.name for sink in ship.sinks(config, ship.remembered(ledger), checks)]
        return Status(
            agent_version=__version__,
            ledger=state.ledger,
            now=dt.datetime.now(dt.timezone.utc),
            stale_after=dt.timedelta(hours=config.stale_after_hours),
            checks=checks,
            open=tuple(sorted(ledger.open(), key=lambda each: (each.finding.severity.rank, each.finding.key))),
            newest=ledger.newest(_NEWEST),
            looks=ledger.looks(),
            unknown=ledger.unknown(),
            deliveries=outbox.progress(ledger, names),
        )


class Known(Value, frozen=True, kw_only=True):
    """What the ledger knows of one finding."""

    finding: Judged
    since: dt.datetime | None
    history: tuple[Event, ...]


def finding(state: State, name: str) -> Known | None:
    """The finding with this id, open or resolved; None if there never was one."""
    with reading(state) as ledger:
        return _found(ledger, name) if ledger else None


def _found(ledger: Ledger, name: str) -> Known | None:
    keys = ledger.rows("SELECT DISTINCT check_id, subject FROM events")
    for check, subject in keys:
        if short_id((check, subject)) == name:
            history = ledger.history(check, subject)
            since = next((each.since for each in ledger.open() if each.finding.key == (check, subject)), None)
            return Known(finding=history[-1].change.finding, since=since, history=history)
    return None


def facts(host: Host, config: Config, *, topics: Sequence[str], state: State | None) -> str:
    """What was seen of these topics, as JSON: by the last scan, or now where there is none or no ``state``."""
    looks: Iterable[collect.Look] = load(state) if state else ()
    if not looks:
        looks = collect.collect((probe for probe in discovery.probes() if probe.topic in topics), host, config)
    return msgspec.json.format(collect.encode(look for look in looks if look.probe.topic in topics), indent=2).decode()


def _machine(host: Host, config: Config, looks: Iterable[collect.Look]) -> str:
    """The machine in a line, also when the scan was about something else."""
    seen = next((look.fact for look in looks if isinstance(look.fact, Machine)), None)
    if seen is None:
        (look,) = collect.collect((probe for probe in discovery.probes() if probe.fact is Machine), host, config)
        seen = look.fact if isinstance(look.fact, Machine) else None
    return (
        f"{seen.hostname}, {seen.pretty_name}, kernel {seen.kernel}"
        if seen
        else "a machine that says nothing of itself"
    )


def _topic(name: str, looks: Iterable[collect.Look]) -> Topic:
    mine = [look for look in looks if look.probe.topic == name]
    return Topic(name=name, seconds=sum(look.seconds for look in mine), unknowns=_unknowns(mine))


def _unknowns(looks: Iterable[collect.Look]) -> tuple[Unknown, ...]:
    return tuple(unknown for look in looks for unknown in look.unknowns)
