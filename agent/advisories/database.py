"""The advisory database as it is on this machine: what was fetched or imported, else what came with the program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import msgspec

from agent.advisories import installed
from agent.advisories.advisory import Advisories, Advisory, Shard
from agent.advisories.shards import OpenShard, ShardError
from agent.host import Host
from agent.model import AbsentError
from agent.state import State, StateError

EMBEDDED = os.path.join(os.path.dirname(__file__), "snapshot")
"""The shards that came with the program."""


@contextlib.contextmanager
def opened(state: State | None, *, embedded: str = EMBEDDED) -> Iterator[Advisories]:
    """The database, open for questions within the block.

    Of each shard the newest counts that can be used; what cannot be used is one of the problems. A ``state`` of None
    means what came with the program alone.
    """
    problems: list[str] = []
    with contextlib.ExitStack() as files:
        found = [*_installed(state, problems, files), *_embedded(embedded, problems, files)]
        best: dict[str, tuple[Shard, OpenShard]] = {}
        for shard, file in found:
            if shard.name not in best or best[shard.name][0].built < shard.built:
                best[shard.name] = (shard, file)
        by_ecosystem = {ecosystem: file for shard, file in best.values() for ecosystem in shard.ecosystems}

        def about(ecosystem: str, name: str) -> tuple[Advisory, ...]:
            file = by_ecosystem.get(ecosystem)
            return file.about(ecosystem, name) if file else ()

        shards = sorted((shard for shard, _ in best.values()), key=lambda each: each.name)
        yield Advisories(shards, about, problems=tuple(problems))


def _installed(
    state: State | None, problems: list[str], files: contextlib.ExitStack
) -> Iterator[tuple[Shard, OpenShard]]:
    """What was fetched or imported."""
    try:
        known = installed.read(state) if state else None
    except StateError as error:
        problems.append(str(error))
        return
    if state is None or known is None:
        return
    for each in known.shards:
        path = installed.path(state, each)
        try:
            state.keep_out(path)
        except StateError as error:
            problems.append(str(error))
            continue
        for file in _open([path], problems, files):
            # The signed manifest says as of when the data is current, also where a file did not change.
            built = max(file.shard.built, known.built or file.shard.built) if each.serial else file.shard.built
            shard = msgspec.structs.replace(file.shard, origin=each.origin, serial=each.serial, built=built)
            yield shard, file


def _embedded(directory: str, problems: list[str], files: contextlib.ExitStack) -> Iterator[tuple[Shard, OpenShard]]:
    """What came with the program."""
    try:
        paths = [entry.path for entry in Host().entries(directory) if entry.name.endswith(".sqlite")]
    except AbsentError:
        paths = []
    for file in _open(paths, problems, files):
        yield msgspec.structs.replace(file.shard, origin="embedded", serial=0), file


def _open(paths: Iterable[str], problems: list[str], files: contextlib.ExitStack) -> Iterator[OpenShard]:
    for path in paths:
        try:
            file = OpenShard(path)
        except ShardError as error:
            problems.append(f"{path}: {error}")
            continue
        files.callback(file.close)
        yield file
