"""A process that records outcome after outcome, to be killed at any point.

Usage: python recorder.py STATE_DIRECTORY SEED. Each step flips some of the subjects of two checks; the step and
its seed alone decide which, so that whoever killed us can compute what must be in the ledger.
"""

from __future__ import annotations

import datetime as dt
import random
import sys

from agent.ledger import read_time
from agent.ledger_file import reading, writing
from agent.state import State
from tests.fakes.outcomes import TAKEN, outcome

CHECKS = ("door-open", "window-open")
SUBJECTS = [f"room{number}" for number in range(40)]


def standing(seed: int, step: int) -> dict[str, list[str]]:
    """What is true at a step."""
    chance = random.Random(f"{seed} {step}")
    return {check: sorted(chance.sample(SUBJECTS, chance.randrange(len(SUBJECTS)))) for check in CHECKS}


def reached(state: State) -> int:
    """The last step in the ledger, or -1."""
    with reading(state) as ledger:
        ((taken,),) = ledger.rows("SELECT max(taken) FROM judgements") if ledger else ((None,),)
    return round((read_time(taken) - TAKEN).total_seconds()) if taken else -1


def recorded(state: State, seed: int, step: int) -> str:
    """Record what is true at a step; the notice, if any."""
    taken = TAKEN + dt.timedelta(seconds=step)
    outcomes = [outcome(*found, check=check, taken=taken) for check, found in standing(seed, step).items()]
    return writing(state, lambda ledger: ledger.record(outcomes, looks=(), catalogue=CHECKS))[1]


def main() -> None:
    state, seed = State(sys.argv[1]), int(sys.argv[2])
    # A writer first: it rolls back what the last one left half done.
    writing(state, lambda ledger: ledger.record((), looks=(), catalogue=CHECKS))
    for step in range(reached(state) + 1, 1_000_000):
        notice = recorded(state, seed, step)
        sys.stdout.write(f"{step} {notice}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
