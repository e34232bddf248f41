"""`dlvmguard report`: the real process and the real client against a strict server, counted."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from agent.ledger import Look
from agent.ledger_file import reading, writing
from agent.sinks.delivery import Identity
from agent.state import State
from tests.fakes.cloud_logging import Fault, LoggingServer
from tests.fakes.metadata import VALUES, MetadataServer
from tests.fakes.outcomes import TAKEN, outcome

MACHINE = Identity(
    project_id="fake-project",
    instance_id="1234567890123456789",
    zone="us-central1-a",
    instance_name="gpu-1",
    hostname="gpu-1",
)
CHECK = "machine-under-test"


class Site:
    """A state directory with a ledger, a configuration, and the server that it ships to."""

    def __init__(self, path, server, *, jsonl=""):
        self.state = State(str(path / "state"))
        self.server = server
        self.config = path / "config.toml"
        self.config.write_text(
            f"[sinks.cloud_logging]\nenabled = 'always'\nproject = 'fake-project'\nendpoint = '{server.endpoint}'\n"
            f"credentials = 'none'\ntimeout_seconds = 5\n[sinks.jsonl]\npath = '{jsonl}'\n"
            "[instance]\ndetect = 'never'\n[models]\ndiscover = false\n"
        )
        self.steps = 0

    def record(self, *subjects):
        """Let these be what is found now, as a check that is in no catalogue but this ledger's."""
        self.steps += 1
        taken = TAKEN + dt.timedelta(seconds=self.steps)
        found, look = outcome(*subjects, check=CHECK, taken=taken), Look(topic="machine", taken=taken)
        name = msgspec.json.encode(MACHINE).decode()
        writing(self.state, lambda ledger: ledger.record([found], looks=[look], catalogue={CHECK}, identity=name))

    def ship(self):
        """The shipping part of a report in a process of its own, for ledgers that no probe filled."""
        return subprocess.Popen(
            [sys.executable, "-c", SHIP, self.state.directory, str(self.config)], start_new_session=True
        )

    def shipped(self, expected=None):
        status = self.ship().wait(90)
        assert expected is None or status == expected
        return status

    def events(self):
        with reading(self.state) as ledger:
            assert ledger is not None
            return list(ledger.events("ORDER BY sequence", ()))

    def is_told_exactly(self):
        """Whether the visible entries are the ledger's events: each once, none missing, each as it was recorded."""
        told = [(entry["insertId"], entry["jsonPayload"]["event_type"]) for entry in self.server.visible()]
        return sorted(told) == [(event.uid, event.change.kind.value) for event in self.events()]


SHIP = """
import sys
from agent import config, ship
from agent.ledger import Look
from agent.ledger_file import writing
from agent.state import State
settings = config.load(sys.argv[2])
def work(ledger):
    speaker = ship.remembered(ledger)
    return ship.ship(ledger, ship.sinks(settings, speaker, {}), speaker)
done, _ = writing(State(sys.argv[1]), work)
sys.exit(1 if any(each.waiting for each in done) else 0)
"""


@pytest.fixture
def site(tmp_path):
    with LoggingServer() as server:
        yield Site(tmp_path, server)


def program(site, *words, check=None):
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "--config",
        str(site.config),
        "--state-dir",
        site.state.directory,
        *words,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert check is None or said.returncode == check, said.stdout + said.stderr
    return said


def test_a_first_scan_ends_as_entries_in_cloud_logging(tmp_path):
    root = tmp_path / "root"
    for name, content in {
        "etc/os-release": "ID=debian\nVERSION_ID=10\nPRETTY_NAME='Debian 10'\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "proc/sys/kernel/hostname": "gpu-1\n",
        "proc/sys/kernel/osrelease": "4.19\n",
        "proc/sys/kernel/random/boot_id": "b\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    with LoggingServer() as server:
        site = Site(tmp_path, server)
        program(site, "--root", str(root), "scan", check=1)
        assert program(site, "--root", str(root), "report", check=0).stdout.count("nothing waiting") == 1
        (entry,) = [
            each for each in server.visible() if each["jsonPayload"]["finding"]["rule_id"].endswith("end-of-life")
        ]
        assert entry["severity"] == "ERROR"
        assert "Debian 10" in entry["jsonPayload"]["message"]
        assert site.is_told_exactly()
        assert "nothing waiting" in program(site, "status", check=0).stdout
        program(site, "--root", str(root), "report", check=0)
        assert len(server.arrivals) == len(site.events())


def test_on_a_google_machine_entries_are_those_of_the_instance(tmp_path):
    with MetadataServer(values=VALUES) as metadata, LoggingServer(projects={VALUES["project/project-id"]}) as server:
        site = Site(tmp_path, server)
        site.config.write_text(
            f"[instance]\nmetadata_url = '{metadata.url}'\ndetect = 'always'\n[models]\ndiscover = false\n"
            f"[sinks.cloud_logging]\nendpoint = '{server.endpoint}'\ncredentials = 'none'\n"
        )
        program(site, "scan", "--only", "instance,machine")
        program(site, "report", check=0)
        assert server.visible()
        for entry in server.visible():
            assert entry["resource"]["type"] == "gce_instance"
            assert entry["resource"]["labels"] == {
                "project_id": VALUES["project/project-id"],
                "instance_id": VALUES["instance/id"],
                "zone": VALUES["instance/zone"].rpartition("/")[2],
            }
        assert site.is_told_exactly()


def test_what_is_told_once_is_not_told_again(site):
    site.record("a", "b")
    site.shipped(0)
    site.shipped(0)
    assert len(site.server.arrivals) == 2
    site.record("b", "c")
    site.shipped(0)
    assert [entry["jsonPayload"]["event_type"] for entry in site.server.visible()] == [
        "opened",
        "opened",
        "opened",
        "resolved",
    ]
    assert site.is_told_exactly()


@pytest.mark.parametrize(
    "fault",
    [Fault.status(code) for code in (401, 403, 404, 408, 409, 429, 500, 503)]
    + [Fault.answer(502), Fault.drop(), Fault.accept_then_drop(), Fault.truncated()],
    ids=lambda fault: f"{fault.code}{' drops' * fault.drops}{' takes' * fault.takes}{' cuts' * fault.cuts}",
)
def test_a_fault_loses_nothing_doubles_nothing_and_is_told(site, fault):
    site.record("a", "b", "c")
    site.server.standing = fault
    site.shipped(1)
    document = json.loads(program(site, "status", "--format", "json", check=0).stdout)
    (delivery,) = document["deliveries"]
    assert (delivery["sink"], delivery["waiting"]) == ("cloud-logging", 3)
    assert delivery["problem"]
    site.server.standing = None
    site.shipped(0)
    assert site.is_told_exactly()


def test_a_server_that_is_away_costs_nothing_but_time(site):
    site.record("a")
    site.server.stop()
    site.shipped(1)
    site.record("a", "b")
    site.server.start()
    site.shipped(0)
    assert site.is_told_exactly()


def test_an_entry_that_is_refused_for_good_blocks_nobody_and_is_counted(site):
    site.record("a", "poison", "c")
    site.server.refuse(lambda entry: "poison" in json.dumps(entry))
    site.shipped(0)
    (delivery,) = json.loads(program(site, "status", "--format", "json", check=0).stdout)["deliveries"]
    assert (delivery["waiting"], delivery["rejected"]) == (0, 1)
    assert len(site.server.visible()) == 2


def test_more_than_a_batch_arrives_whole(site):
    site.record(*(f"room{number}" for number in range(2345)))
    site.shipped(0)
    assert site.is_told_exactly()
    assert len(site.server.calls) == 3


def test_both_sinks_get_everything_and_one_does_not_hold_up_the_other(tmp_path):
    path = tmp_path / "events.jsonl"
    with LoggingServer() as server:
        site = Site(tmp_path, server, jsonl=path)
        site.record("a", "b")
        server.standing = Fault.status(503)
        site.shipped(1)
        assert len(path.read_text().splitlines()) == 2
        server.standing = None
        site.shipped(0)
        assert site.is_told_exactly()
        assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("seed", range(3))
def test_faults_and_kills_at_random_and_at_the_end_all_is_told_exactly_once(tmp_path, seed):
    chance = random.Random(seed)
    faults = [
        Fault.status(503),
        Fault.status(429),
        Fault.answer(502),
        Fault.drop(),
        Fault.accept_then_drop(),
        Fault.truncated(),
    ]
    with LoggingServer() as server:
        site = Site(tmp_path, server)
        for _ in range(8):
            site.record(*chance.sample([f"room{number}" for number in range(1500)], chance.randrange(1, 1500)))
            server.faults.extend(chance.choices([*faults, Fault.slow(0.05)], k=chance.randrange(3)))
            process = site.ship()
            if chance.random() < 0.6:
                time.sleep(chance.uniform(0.1, 1.2))
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(90)
        server.faults.clear()
        site.shipped(0)
        assert site.is_told_exactly()


def test_a_machine_that_cannot_say_who_it_is_ships_nothing_yet_and_says_so(tmp_path):
    with LoggingServer() as server:
        site = Site(tmp_path, server)
        (tmp_path / "empty").mkdir()
        said = program(site, "--root", str(tmp_path / "empty"), "report", check=1)
        assert "Nothing was shipped" in said.stdout
        assert not server.arrivals
