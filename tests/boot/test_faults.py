"""Killed processes, a full disk, a cloud that stays away: all comes back by itself, and the counts are exact."""

from __future__ import annotations

import pytest

from tests.boot.installation import REPORT, WATCH
from tests.fakes.cloud_logging import Fault

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("release", ["bookworm"], indirect=True),
]

STATE = "/var/lib/dlvmguard"
SECONDS = 150
"""After several changes in a row, or a full disk, the watcher waits for a minute before it writes again."""
PORTS = iter(range(9001, 9100))


@pytest.fixture(scope="module")
def watched(installation):
    """A machine whose state has a small disk of its own."""
    installation.machine.run(f"mkdir {STATE} && mount -t tmpfs -o size=4m tmpfs {STATE}")
    installation.install()
    installation.wait_for_first_finding()
    yield installation
    installation.assert_all_arrived_once()


def opened_port(machine):
    """A new port that anybody may reach."""
    port = next(PORTS)
    machine.run(f"systemd-run --unit=port{port} python3 -m http.server {port}")
    return port


def noticed(machine, port):
    """The watcher has seen the port."""
    machine.wait_for(
        lambda: f'"port":{port}' in machine.run(f"cat {STATE}/collected/facts.json").stdout,
        seconds=SECONDS,
        what=str(port),
    )


def arrives(installation, port):
    installation.machine.wait_for(
        lambda: any(subject.startswith(f"tcp/{port}") for _, subject in installation.cloud.standing()),
        seconds=SECONDS,
        what=f"tcp/{port} in Cloud Logging",
    )


@pytest.mark.parametrize("turn", range(2))
def test_a_watcher_that_is_killed_comes_back_and_sees_what_it_missed(watched, turn):
    machine = watched.machine
    killed = machine.show(WATCH, "MainPID")
    machine.run(f"kill -9 {killed}")
    port = opened_port(machine)
    machine.wait_for(lambda: machine.show(WATCH, "MainPID") not in {killed, "0"}, seconds=60, what="another watcher")
    arrives(watched, port)


@pytest.mark.parametrize("turn", range(2))
def test_a_report_that_is_killed_while_it_ships_is_made_up_for(watched, turn):
    machine, logging = watched.machine, watched.cloud.logging
    calls = len(logging.calls)
    logging.standing = Fault.slow(5)
    port = opened_port(machine)
    machine.wait_for(lambda: len(logging.calls) > calls, seconds=SECONDS, what="request to Cloud Logging")
    machine.run(f"systemctl kill --signal=KILL {REPORT}")
    logging.standing = None
    machine.run(f"systemctl reset-failed {REPORT}; systemctl start {REPORT}")
    arrives(watched, port)


def test_what_is_seen_while_the_cloud_is_away_arrives_when_it_is_back(watched):
    machine, logging = watched.machine, watched.cloud.logging
    logging.standing = Fault.status(503)
    ports = [opened_port(machine) for _ in range(3)]
    noticed(machine, ports[-1])
    machine.wait_for(lambda: machine.show(REPORT, "ActiveState") == "inactive", seconds=120, what="end of the report")
    logging.standing = None
    machine.run(f"systemctl start {REPORT}")
    for port in ports:
        arrives(watched, port)


def test_a_full_disk_ends_nothing_and_is_forgotten_when_there_is_room(watched):
    machine = watched.machine
    process, restarts = machine.show(WATCH, "MainPID"), machine.show(WATCH, "NRestarts")
    machine.run(f"dd if=/dev/zero of={STATE}/full bs=4k", check=False)
    port = opened_port(machine)
    machine.wait_for(
        lambda: "no space left" in machine.run("cat /run/dlvmguard/watch.json").stdout, seconds=60, what="a word of it"
    )
    machine.run(f"systemctl start {REPORT}", check=False)
    assert (machine.show(WATCH, "MainPID"), machine.show(WATCH, "NRestarts")) == (process, restarts)
    machine.run(f"rm {STATE}/full")
    noticed(machine, port)
    machine.run(f"systemctl start {REPORT}")
    arrives(watched, port)
