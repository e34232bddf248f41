"""install.sh killed on a running machine, again and again: the next run that is left alone makes all good."""

from __future__ import annotations

import random
import time

import pytest

from tests.boot.installation import WATCH

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("release", ["bookworm"], indirect=True),
]

ROUNDS, KILLS = 5, 4


def placed(machine):
    """What an installation puts in place, apart from what the services write."""
    return machine.run(
        "find /opt/dlvmguard /etc /usr/local -path '*/__pycache__*' -prune -o -printf '%p %y %m %U\n' | sort"
    ).stdout


def test_killed_at_twenty_points_and_run_again(installation):
    machine = installation.machine
    start = time.monotonic()
    installation.install()
    seconds, expected = time.monotonic() - start, placed(machine)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}, an installation takes {seconds:.1f} s")  # noqa: T201 -- shown when it fails
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        installation.uninstall("--purge")
        for _ in range(KILLS):
            killed_after(installation, chance.uniform(0, seconds), whole=chance.random() < 0.5)
        installation.install()
        assert placed(machine) == expected
        assert machine.run(f"systemctl is-active {WATCH}").stdout == "active\n"
        assert machine.run("dlvmguard checks").stdout


def killed_after(installation, seconds, *, whole):
    """Start an installation, and kill it then: with all that it started, or alone, as a guest agent does."""
    process = installation.machine.started(f"exec setsid {installation.command}")
    time.sleep(seconds)
    number = installation.machine.run("pgrep --oldest --full '^/bin/sh /shared/install.sh'", check=False).stdout.strip()
    if number:
        installation.machine.run(f"kill -9 -- {'-' if whole else ''}{number}", check=False)
    process.communicate(timeout=60)
