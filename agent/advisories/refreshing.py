"""Fetching a newer advisory database: asked for once, believed only if signed, in force only when it is complete."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedError
from typing import TypeVar

from agent import knowledge
from agent.advisories import installed, installing
from agent.advisories.bucket import Bucket, address, token
from agent.advisories.installed import Installed, NotTakenError
from agent.advisories.installing import Offer
from agent.advisories.manifest import LIMIT, MANIFEST, SIGNATURE, SIGNATURE_LIMIT
from agent.config import AdvisoriesSection, ConfigError
from agent.knowledge import AdvisoryKeys
from agent.state import State

T = TypeVar("T")

SECONDS = 900.0
"""What a refresh may take in all; the timer tries again."""


def keys(settings: AdvisoriesSection) -> tuple[str, ...]:
    """The public keys that may sign a database.

    Raises:
        ConfigError: there is none, so that none could be believed.
    """
    found = (*settings.public_keys, *knowledge.load(AdvisoryKeys).keys)
    if not found:
        raise ConfigError(
            "advisories.public_keys: expected a key, for no database is believed without a signature; "
            "`dlvmguard advisories publish` prints the one that it signed with"
        )
    return found


def refresh(
    state: State, settings: AdvisoriesSection, *, ecosystems: tuple[str, ...], now: dt.datetime
) -> tuple[Installed, bool]:
    """Bring the database up to date: what is in force then, and whether it is another one than before.

    Raises:
        ConfigError: there is no key, or the address or the credentials cannot be used.
        NotTakenError: there is none that could be taken; what was in force stays so.
        StateError: it could not be written; what was in force stays so.
    """
    known = keys(settings)
    url = address(settings.url)
    with state.alone(installed.directory(state)):
        before = installing.in_force(state)
        # A version is worth asking for only if all of it is still here, and was fetched for the same needs.
        same = (before.source, before.ecosystems) == (url, ecosystems)
        whole = same and all(installing.is_whole(state, shard.sha256) for shard in before.shards)
        with Bucket(url, token=token(settings.credentials, url)) as bucket:
            answer = bucket.read_unless(before.etag if whole else "", MANIFEST, limit=LIMIT)
            if answer is None:
                installing.refuse_expired(before.expires, now)
                return before, False
            content, etag = answer
            signature = bucket.read(SIGNATURE, limit=SIGNATURE_LIMIT)
            manifest, digest = installing.accepted(content, signature, keys=known, before=before, now=now)
            after = installing.install(
                state,
                before,
                Offer(manifest=manifest, digest=digest, origin="refreshed", source=url, etag=etag),
                ecosystems=ecosystems,
                pieces=lambda shard: bucket.stream(shard.file, limit=shard.compressed),
            )
            return after, after.shards != before.shards


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a refresh, or NotTakenError once the time is up.

    The timeouts of requests are those of single reads: a server that drips bytes could hold us for days. So it has a
    thread of its own, which ends with the program; like a kill, that leaves what was in force as it was.
    """
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 -- it is raised again, where it is waited for
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name="refresh").start()
    try:
        return result.result(seconds)
    except WaitedError:  # another class than the builtin before Python 3.11
        raise NotTakenError(f"it was not there in full within {seconds:g} s") from None
