"""`dlvmguard watch`, the real process: it notices, keeps, says how it is, reloads, stops, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.fakes.watcher import STANZA, Watching

HUNG = """
import datetime as dt, time
from agent.config import Config
from agent.host import Host
from agent.model import Fact, probe

class Hung(Fact, frozen=True, kw_only=True):
    pass

@probe(every=dt.timedelta(seconds=1))
def hung(host: Host, _config: Config) -> Hung:
    '''Something that never ends.'''
    time.sleep(3600)
    return Hung()
"""


@pytest.fixture
def site(tmp_path):
    watching = Watching(tmp_path)
    yield watching
    watching.close()


@pytest.fixture
def large_models(site):
    """A directory that takes a while to hash, in files without content."""
    directory = site.root / "models"
    directory.mkdir()
    for number in range(8):
        with (directory / f"{number}.bin").open("wb") as file:
            file.truncate((1 << 30) - 1)
    site.configure(directories=["/models"])
    return site


def test_it_looks_keeps_what_it_saw_and_says_that_it_is_there(site):
    site.start()
    site.until(site.is_settled)
    site.until(lambda: site.fact("packages"))
    assert [each["name"] for each in site.fact("packages")["packages"]] == ["bash"]
    document = json.loads(site.program("status", "--format", "json").stdout)
    assert document["watcher"]["running"]
    assert {each["topic"] for each in document["watcher"]["probes"]} >= {"packages", "ports", "models"}
    assert "since" in site.program("status").stdout


def test_what_it_saw_is_what_a_report_judges(site):
    (site.root / "etc/os-release").write_text("ID=debian\nVERSION_ID=10\nPRETTY_NAME='Debian 10'\n")
    site.start()
    site.until(lambda: site.fact("machine"))
    site.program("report")
    found = json.loads(site.program("status", "--format", "json").stdout)["findings"]
    assert "operating-system-end-of-life" in {each["check"] for each in found}


def test_an_installed_package_is_noticed(site):
    site.start()
    site.until(site.is_settled)
    (site.root / "var/lib/dpkg/status").write_text(STANZA.format("bash") + STANZA.format("telnetd"))
    site.until(lambda: "telnetd" in json.dumps(site.fact("packages")))


def test_a_new_listener_is_noticed(site):
    site.start(live=True)
    site.until(lambda: site.beat("listeners").last)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        site.until(lambda: any(each["port"] == port for each in (site.fact("listeners") or {}).get("listeners", ())))


def test_an_error_of_a_gpu_in_the_kernel_log_is_followed_by_a_look(site):
    site.start()
    site.until(site.is_settled)
    before = site.beat("driver").last
    with (site.root / "dev/kmsg").open("a") as log:
        log.write("4,2,2,-;NVRM: Xid (PCI:0000:00:04): 79, GPU has fallen off the bus.\n")
    site.until(lambda: site.beat("driver").last != before)


def test_a_look_that_saw_the_same_writes_nothing(site):
    site.start()
    site.until(site.is_settled)
    site.until(lambda: site.fact("packages"))
    before, looked = site.state.signature(site.state.snapshot), site.beat("packages").last
    os.utime(site.root / "var/lib/dpkg/status")
    site.until(lambda: site.beat("packages").last != looked)
    assert site.state.signature(site.state.snapshot) == before


def test_a_second_watcher_is_refused(site):
    site.start()
    said = site.program("watch")
    assert (said.returncode, "running already" in said.stderr) == (2, True)


def test_a_configuration_that_cannot_be_used_is_refused_and_said_and_the_next_good_one_is_taken(site):
    directory = site.root / "models"
    directory.mkdir()
    (directory / "weights.bin").write_bytes(b"weights")
    site.start()
    site.until(site.is_settled)
    site.config.write_text("[modles]\n")
    site.process.send_signal(signal.SIGHUP)
    site.until(lambda: site.pulse().refused)
    assert "did you mean models?" in site.pulse().refused
    site.until(lambda: site.heard.count("READY=1") == 2)
    reloading = site.heard.index("RELOADING=1")
    assert site.heard[reloading + 1].startswith("MONOTONIC_USEC=")
    site.configure(directories=["/models"])
    site.process.send_signal(signal.SIGHUP)
    site.until(lambda: "/models" in json.dumps(site.fact("models")))
    assert not site.pulse().refused


def test_a_changed_configuration_is_taken_without_being_told(site):
    (site.root / "models").mkdir()
    (site.root / "models/weights.bin").write_bytes(b"weights")
    site.start()
    site.until(site.is_settled)
    site.configure(directories=["/models"])
    site.until(lambda: "/models" in json.dumps(site.fact("models")))


def test_a_configuration_that_cannot_be_used_at_the_start_ends_it(site):
    site.config.write_text("[modles]\n")
    said = site.program("watch")
    assert (said.returncode, "did you mean models?" in said.stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_and_leaves_nothing_behind(site, number):
    site.start()
    site.until(site.is_settled)
    took, _ = site.end(number)
    assert took < 2
    assert site.process.returncode == 0
    assert site.heard[-1] == "STOPPING=1"
    assert site.pulse() is None


def test_it_stops_at_once_while_it_hashes_and_nothing_is_half_written(large_models):
    site = large_models.start()
    site.until(lambda: any(line.startswith("STATUS=hashing") for line in site.heard))
    took, _ = site.end()
    assert took < 2
    assert site.process.returncode == 0
    assert not list(site.path.rglob(".new-*"))
    assert site.fact("packages")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_everything_in_order(tmp_path, abstract):
    site = Watching(tmp_path, abstract=abstract)
    site.environment["WATCHDOG_USEC"] = "4000000"
    site.start()
    site.until(lambda: site.heard.count("WATCHDOG=1") > 3)
    site.end()
    kinds = [line.partition("=")[0] for line in site.heard]
    assert kinds[0] in {"READY", "WATCHDOG"}
    assert kinds.index("READY") < kinds.index("STOPPING") == len(kinds) - 1
    site.close()


def test_the_watchdog_hears_us_while_a_large_file_is_hashed(large_models):
    large_models.environment["WATCHDOG_USEC"] = "8000000"
    site = large_models.start()
    site.until(lambda: sum(line.startswith("STATUS=hashing") for line in site.heard) > 2)
    first = next(place for place, line in enumerate(site.heard) if line.startswith("STATUS=hashing"))
    assert "WATCHDOG=1" in site.heard[first:]


def test_a_probe_that_makes_no_progress_is_interrupted_backs_off_and_holds_nobody_up(site):
    folder = site.path / "probes"
    folder.mkdir()
    (folder / "hung.py").write_text(HUNG)
    site.environment["WATCHDOG_USEC"] = "3000000"
    site.start(probes=folder)
    beat = site.until(lambda: (beat := site.beat("hung")) and beat.failures and beat)
    assert "no progress" in beat.reason
    assert (beat.next - beat.last).total_seconds() >= 59
    site.until(lambda: site.beat("python_environments").last)
    site.until(lambda: "no progress" in json.dumps(site.fact("hung")))
    said = site.program("status")
    assert "hung failed 1 times" in " ".join(said.stdout.split()), said.stdout


def test_after_a_kill_what_was_running_backs_off_first_and_is_unknown(large_models):
    site = large_models.start()
    site.until(lambda: site.beat("models").running)
    site.end(signal.SIGKILL)
    assert "stopped without a word" in site.program("status").stdout
    document = json.loads(site.program("status", "--format", "json").stdout)
    assert not document["watcher"]["running"]
    site.heard.clear()
    site.start()
    site.until(lambda: site.beat("listeners").last)
    beat = site.beat("models")
    assert (beat.running, beat.failures) == (False, 1)
    assert "was ended while" in beat.reason
    site.until(lambda: "was ended while" in json.dumps(site.fact("models")))


def test_a_process_that_has_the_number_of_a_dead_watcher_is_not_taken_for_it(site):
    site.start()
    site.end(signal.SIGKILL)
    said = json.loads((site.path / "state/watch.json").read_bytes())
    said["pid"] = os.getpid()
    (site.path / "state/watch.json").write_text(json.dumps(said))
    assert not json.loads(site.program("status", "--format", "json").stdout)["watcher"]["running"]
    site.heard.clear()
    site.start()


def test_what_a_kill_left_half_written_is_removed_once_it_is_old(site):
    collected = site.path / "state/collected"
    collected.mkdir(parents=True)
    for name, age in ((".new-old", 7200), (".new-fresh", 0)):
        (collected / name).write_text("half")
        moved = (collected / name).stat().st_mtime - age
        os.utime(collected / name, (moved, moved))
    site.start()
    assert {path.name for path in collected.iterdir() if path.name.startswith(".")} == {".new-fresh"}


def test_the_watcher_loads_nothing_that_it_does_not_need():
    heavy = {"rich", "requests", "google", "sqlite3", "ssl", "pynvml"}
    script = (
        "import agent.cli, agent.watch, agent.discovery, sys; agent.discovery.probes(); "
        f"print(sorted(name for name in {heavy} if name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
