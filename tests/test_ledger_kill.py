"""kill -9 at any point: the ledger opens, and the history is complete, in order, and without doubles."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.ledger_file import reading, writing
from agent.model import EventKind
from agent.state import State
from tests.fakes import recorder

ROUNDS = 25
KILLS = 8
"""Kills in one round; ROUNDS x KILLS is 200."""
LONG = 0.03
"""Seconds; a kill sooner than this happens among the steps, a later one is timed from the start of the program."""


def killed_after(state: State, seed: int, seconds: float) -> int:
    """Let the recorder run, kill it after its first step and some time; the last step that it said, or -1."""
    command = [sys.executable, "-m", "tests.fakes.recorder", state.directory, str(seed)]
    here = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here, start_new_session=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline() if seconds < LONG else ""
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        lines = [first, *process.stdout]
    whole = [line.split() for line in lines if line.endswith("\n")]
    assert all(len(words) == 1 for words in whole), f"a notice: {whole}"
    return int(whole[-1][0]) if whole else -1


def replayed(events):
    """What stands after the events, checking on the way that each one fits what stood before."""
    standing: set[tuple[str, str]] = set()
    for event in events:
        key = event.change.finding.key
        assert (key in standing) == (event.change.kind is not EventKind.OPENED), f"{event} does not fit"
        standing.discard(key) if event.change.kind is EventKind.RESOLVED else standing.add(key)
    return standing


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_two_hundred_kills_lose_nothing_and_double_nothing(tmp_path, seed):
    state = State(str(tmp_path / "state"))
    chance = random.Random(seed)
    for _ in range(KILLS):
        # Mostly among the steps, sometimes while the program starts and the tables are being made.
        said = killed_after(state, seed, chance.choice([chance.uniform(0, LONG), chance.uniform(LONG, 0.3)]))
        # The next run opens the ledger as a writer, which rolls back what was half done.
        writing(state, lambda ledger: ledger.record((), looks=(), catalogue=recorder.CHECKS))
        with reading(state) as ledger:
            assert ledger is not None
            events = tuple(ledger.events("ORDER BY sequence", ()))
            standing = {each.finding.key for each in ledger.open()}
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert replayed(events) == standing
        step = recorder.reached(state)
        assert step >= said, "a step that was said to be recorded is gone"
        assert standing == expected(seed, step)
    last = recorder.reached(state) + 1
    assert recorder.recorded(state, seed, last) == ""
    with reading(state) as ledger:
        assert ledger is not None
        assert replayed(ledger.events("ORDER BY sequence", ())) == expected(seed, last)


def expected(seed, step):
    found = recorder.standing(seed, step) if step >= 0 else {}
    return {(check, subject) for check, subjects in found.items() for subject in subjects}
