"""Out of the ledger, into the sinks: batch after batch until nothing waits or a sink will take no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from agent import __version__
from agent.config import Config
from agent.facts.instance import Instance
from agent.facts.machine import Machine
from agent.ledger import Ledger
from agent.model import Fact, Listed
from agent.outbox import Outbox, Progress
from agent.sinks.cloud_logging import CloudLogging
from agent.sinks.delivery import MAXIMUM_EVENTS, Delivery, Identity, Sink, batches
from agent.sinks.jsonl import JsonLines


def identity(facts: Iterable[Fact]) -> Identity | None:
    """Who speaks, from what was seen of the machine and the instance; None if one of the two was not seen."""
    seen = {type(fact): fact for fact in facts}
    machine, instance = seen.get(Machine), seen.get(Instance)
    if not isinstance(machine, Machine) or not isinstance(instance, Instance):
        return None
    return Identity(
        project_id=instance.project_id,
        instance_id=instance.instance_id or machine.identity,
        zone=instance.zone,
        instance_name=instance.name,
        machine_type=instance.machine_type,
        image=instance.image,
        hostname=machine.hostname,
        agent_version=__version__,
    )


def remembered(ledger: Ledger) -> Identity | None:
    """Who speaks, as the ledger remembers it."""
    if not ledger.identity:
        return None
    known = msgspec.json.decode(ledger.identity, type=Identity)
    return msgspec.structs.replace(known, epoch=ledger.epoch, agent_version=__version__)


def sinks(config: Config, speaker: Identity | None, checks: Mapping[str, Listed]) -> tuple[Sink, ...]:
    """Where events go: Cloud Logging on a Google machine or where it is asked for, and a file if one is named."""
    chosen: list[Sink] = []
    cloud = config.sinks.cloud_logging
    on_google_cloud = speaker is not None and bool(speaker.zone)
    if cloud.enabled == "always" or (cloud.enabled == "auto" and on_google_cloud):
        chosen.append(CloudLogging(cloud, checks))
    if config.sinks.jsonl.path:
        chosen.append(JsonLines(config.sinks.jsonl.path, checks))
    return tuple(chosen)


def ship(ledger: Ledger, targets: Iterable[Sink], speaker: Identity) -> tuple[Progress, ...]:
    """Offer each sink what waits for it; how far each one got."""
    done = []
    for sink in targets:
        outbox = Outbox(ledger, sink.name)
        while _offered(outbox, sink, speaker):
            pass
        done.append(outbox.progress())
    return tuple(done)


def _offered(outbox: Outbox, sink: Sink, speaker: Identity) -> bool:
    """Offer what fits into memory; whether there may be more to do."""
    waiting = outbox.waiting(MAXIMUM_EVENTS)
    for batch in batches(waiting):
        delivery = sink.send(batch, speaker)
        problem = delivery.problem or _shortfall(batch_size=len(batch), delivery=delivery)
        outbox.settle(delivery.accepted, delivery.rejected, problem=problem, advice=delivery.advice)
        if problem:
            return False
    return bool(waiting)


def _shortfall(*, batch_size: int, delivery: Delivery) -> str:
    """A sink that neither takes an event nor says why would be asked for ever."""
    left = batch_size - len(delivery.accepted) - len(delivery.rejected)
    return f"{left} events were neither taken nor refused" if left else ""
