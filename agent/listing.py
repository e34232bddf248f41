"""What is installed and what is known of it, looked at now: what ``packages`` and ``sbom`` tell."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from agent import collect, discovery
from agent.advisories import database
from agent.advisories.advisory import Advisories
from agent.advisories.matching import match
from agent.config import Config
from agent.evaluate import evaluate
from agent.facts.machine import Machine
from agent.host import Host
from agent.inventory import INSTALLED, everything
from agent.model import Check, Moment, Probe, Unknown
from agent.state import State
from agent.views.packages import Listing

TOPIC = "vulnerabilities"
"""The checks that judge what is installed."""


def listing(host: Host, config: Config, state: State, *, show: Callable[[str], None]) -> Listing:
    """Look at everything that packages are judged by, and judge it; whoever looks as root judges as another."""
    checks = tuple(check for check in discovery.checks() if check.topic == TOPIC)
    asked = {kind for check in checks for kind in (*check.needs.values(), *check.wants.values())} | INSTALLED

    def before(probe: Probe[Any]) -> None:
        show(f"looking at {probe.topic} ...")

    probes = (probe for probe in discovery.probes() if probe.fact in asked)
    looks = collect.collect(probes, host, config, before=before)
    state.give_up_root()
    show("comparing with the advisories ...")
    with database.opened(state) as advisories:
        return _judged(config, looks, checks, advisories)


def _judged(config: Config, looks: Sequence[collect.Look], checks: Sequence[Check], advisories: Advisories) -> Listing:
    facts = {look.probe.fact: look.fact for look in looks}
    machine = facts.get(Machine)
    release, kernel = (machine.release, machine.kernel) if isinstance(machine, Machine) else ("", "")
    components = tuple(everything(facts.values(), release, kernel))
    moment = Moment(now=dt.datetime.now(dt.timezone.utc))
    return Listing(
        machine=machine.hostname if isinstance(machine, Machine) else "",
        taken=moment.now,
        components=components,
        matched=match(components, advisories),
        outcomes=evaluate(checks, collect.facts(looks), config, moment, advisories),
        shards=advisories.shards,
        unknowns=tuple(_unseen(looks)),
    )


def _unseen(looks: Iterable[collect.Look]) -> Iterator[Unknown]:
    """What of the installed things could not be looked at."""
    for look in looks:
        if look.probe.fact in INSTALLED:
            yield from look.unknowns
