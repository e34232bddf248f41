"""From facts to memory: judge what was seen, record what changed, and answer from what is recorded."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from agent import __version__, collect, discovery, outbox, pulse, ship
from agent.advisories import database
from agent.config import Config
from agent.evaluate import evaluate
from agent.facts.machine import Machine
from agent.host import Host
from agent.ledger import Ledger, Look
from agent.ledger_file import reading, writing
from agent.model import Event, Fact, Judged, Listed, Moment, Outcome, Probe, Unknown, Value, short_id
from agent.state import State, StateError, locate
from agent.views.status import Status
from agent.views.summary import Summary, Topic

_SPEAKER = {"machine", "instance"}
"""The probes that say which machine this is."""
_ROUNDS = 10
"""A machine on which something changes without end must not keep a report going without end."""
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

    earlier = collect.remembered(_readable(state))

    def look(chosen: Iterable[Probe[Any]]) -> tuple[collect.Look, ...]:
        def before(probe: Probe[Any]) -> None:
            show(f"looking at {probe.topic} ...")

        return collect.collect(chosen, host, config, before=before, earlier=earlier)

    local = look(probe for probe in probes if not probe.network)
    notices = _attempted(lambda: _handed_over(state, local)) if state else []
    looks = local + look(probe for probe in probes if probe.network)
    outcomes = judge(looks, config, state or _standing(config), is_whole=set(topics) == set(discovery.topics()))
    if state and not notices:
        notices = _attempted(lambda: _recorded(state, looks, outcomes))
    return Summary(
        agent_version=__version__,
        machine=_machine(host, config, looks),
        taken=dt.datetime.now(dt.timezone.utc),
        seconds=time.monotonic() - start,
        topics=tuple(_topic(name, looks) for name in topics),
        checks=discovery.catalogue(),
        outcomes=outcomes,
        notices=tuple(filter(None, notices)),
    )


def judge(looks: Iterable[collect.Look], config: Config, state: State, *, is_whole: bool = True) -> tuple[Outcome, ...]:
    """The outcome of every check whose facts were looked at; in a partial look, of those alone that need any."""
    moment = Moment(now=dt.datetime.now(dt.timezone.utc))
    checks = [check for check in discovery.checks() if is_whole or check.asks_for_facts]
    with database.opened(state) as advisories:
        return evaluate(checks, collect.facts(looks), config, moment, advisories)


def _standing(config: Config) -> State:
    """The state of this machine, for reading what was fetched of the advisories, as whoever may write it."""
    state = locate(config.state_directory, writing=False)
    state.give_up_root()
    return state


def _readable(state: State | None) -> bytes | None:
    """What was seen last, for the probes that remember; a snapshot that cannot be read is nobody's memory."""
    with contextlib.suppress(StateError):
        return state.read(state.snapshot) if state else None
    return None


def _attempted(work: Callable[[], str]) -> list[str]:
    """The notice that work on the state ends with, if any."""
    try:
        return [notice] if (notice := work()) else []
    except StateError as error:
        return [f"Not recorded: {error}"]


def _handed_over(state: State, looks: Sequence[collect.Look]) -> str:
    """Keep what was seen as root, and from here on be root no more where the ledger is another user's."""
    if looks:
        save(state, state.snapshot, looks)
    state.hand_over()
    state.give_up_root()
    return ""


def _recorded(state: State, looks: Sequence[collect.Look], outcomes: Sequence[Outcome]) -> str:
    through_network = [look for look in looks if look.probe.network]
    if through_network:
        save(state, state.network, through_network)
    return record(state, looks, outcomes)


def save(state: State, path: str, looks: Sequence[collect.Look]) -> None:
    """Keep what was seen; of a probe that did not run now, what it saw last stays."""
    state.write(path, collect.merged(state.read(path), map(collect.saved, looks)))


def load(state: State, path: str) -> tuple[collect.Look, ...]:
    """What was seen last; nothing where there was no scan."""
    text = state.read(path)
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
    listed = msgspec.json.encode(_Catalogue(version=__version__, checks=[each.entry for each in discovery.checks()]))
    _, notice = writing(
        state,
        lambda ledger: ledger.record(outcomes, looks=noted, catalogue=catalogue, identity=name, listed=listed.decode()),
    )
    return notice


class _Catalogue(Value, frozen=True, kw_only=True):
    """The checks of a version, as the ledger keeps them: ``status`` has no time to import them all."""

    version: str
    checks: Sequence[Listed]


def _listed(ledger: Ledger) -> Mapping[str, Listed]:
    """The checks as they were when something was recorded, or as they are where that was another version."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        known = msgspec.json.decode(ledger.listed, type=_Catalogue)
        if known.version == __version__:
            return {each.id: each for each in known.checks}
    return discovery.catalogue()


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
    notices = [_brought_up_to_date(host, state, config)]
    checks = discovery.catalogue()

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


def _brought_up_to_date(host: Host, state: State, config: Config) -> str:
    """Record what was seen, again if something else was seen meanwhile: the path unit does not tell while we run."""
    notice = ""
    for _ in range(_ROUNDS):
        signature = state.signature(state.snapshot)
        looks = _merged(host, state, config)
        notice = record(state, looks, judge(looks, config, state)) or notice
        if signature == state.signature(state.snapshot):
            break
    return notice


def _merged(host: Host, state: State, config: Config) -> tuple[collect.Look, ...]:
    """What the other side saw last, and what is seen through the network, looked at anew where it is due."""
    local = tuple(look for look in load(state, state.snapshot) if not look.probe.network)
    kept = {look.probe.name: look for look in _through_network(state) if not _is_due(look)}
    due = [each for each in discovery.probes() if each.network and each.name not in kept]
    fresh = collect.collect(due, host, config)
    if fresh:
        save(state, state.network, fresh)
    # A scan of chosen topics alone may not have asked which machine this is, and no event is sent without a sender.
    missing = _SPEAKER - {look.probe.name for look in (*local, *kept.values(), *fresh)}
    speaker = collect.collect((each for each in discovery.probes() if each.name in missing), host, config)
    return (*local, *kept.values(), *fresh, *speaker)


def _through_network(state: State) -> tuple[collect.Look, ...]:
    """What was seen through the network last; what is damaged is looked at anew and replaced."""
    try:
        return load(state, state.network)
    except StateError:
        return ()


def _is_due(look: collect.Look) -> bool:
    """Whether to look again: after its time, after a failure, or when its time lies in the future."""
    age = dt.datetime.now(dt.timezone.utc) - look.taken
    return isinstance(look.fact, Unknown) or not dt.timedelta(0) <= age < look.probe.every


def status(state: State, config: Config) -> Status | None:
    """How things stand, from the ledger and the watcher; None before the first scan where nothing watches."""
    watcher = pulse.watcher(state)
    with reading(state) as ledger:
        if ledger is None or ledger.last_taken() is None:  # a ledger in which nothing was recorded says nothing
            return _beginning(state, config, watcher) if watcher.pulse else None
        checks = _listed(ledger)
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
            watcher=watcher,
        )


def _beginning(state: State, config: Config, watcher: pulse.Watcher) -> Status:
    """How things stand before anything was recorded."""
    return Status(
        agent_version=__version__,
        ledger=state.ledger,
        now=dt.datetime.now(dt.timezone.utc),
        stale_after=dt.timedelta(hours=config.stale_after_hours),
        checks=discovery.catalogue(),
        watcher=watcher,
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
    looks: tuple[collect.Look, ...] = load(state, state.snapshot) if state else ()
    if state and looks:
        state.give_up_root()
        looks += load(state, state.network)
    else:
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
