"""kill -9 at any point of a refresh, a disk that takes no more, readers all the while: there is always a whole set."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.advisories import installed, refreshing
from agent.config import AdvisoriesSection
from agent.state import State
from tests.fakes.bucket import NOW, PUBLIC_KEY, BucketServer, Fault, publication

KILLS = 8
"""In one round; there are four."""


def begun(state, server, *words):
    command = [sys.executable, "-m", "tests.fakes.refresher", state.directory, server.url, *words]
    here = Path(__file__).parents[1]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here)


def refreshed(state, server):
    settings = AdvisoriesSection(url=server.url, public_keys=(PUBLIC_KEY,))
    return refreshing.refresh(state, settings, ecosystems=("*",), now=NOW)


def serial(state):
    """The serial of the set in force, after every file of it was read as a reader reads it; 0 where there is none."""
    known = installed.read(state)
    for shard in known.shards if known else ():
        assert hashlib.sha256(Path(installed.path(state, shard)).read_bytes()).hexdigest() == shard.sha256
    assert known is None or len(known.shards) == 4
    return known.serial if known else 0


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_leaves_the_old_set_or_the_new_one_and_the_next_run_succeeds(tmp_path, seed):
    state, chance = State(str(tmp_path / "state")), random.Random(seed)
    with BucketServer(publication(tmp_path, serial=1, count=300), fault=Fault("slow")) as server:
        for turn in range(1, KILLS + 1):
            before = serial(state)
            with begun(state, server) as process:
                assert process.stdout.readline() == "begin\n"
                time.sleep(chance.uniform(0, 0.8))
                process.send_signal(signal.SIGKILL)
            assert serial(state) in {before, turn}
            if turn % 3 == 0:
                server.fault = None
                assert refreshed(state, server)[0].serial == serial(state) == turn
                server.fault = Fault("slow")
            # Half of the shards are other ones than those that were killed on their way.
            editions = {"pypi": turn + 1, "nvidia": turn // 2, "debian-12": turn + 1, "ubuntu-22.04": 1}
            server.place = publication(tmp_path, serial=turn + 1, editions=editions, count=300)
        server.fault = None
        known, _ = refreshed(state, server)
    assert known.serial == serial(state) == KILLS + 1
    refreshed_files = {shard.file for shard in known.shards}
    assert not [path for path in Path(installed.directory(state)).iterdir() if path.name.startswith(".new-")]
    assert refreshed_files <= {path.name for path in Path(installed.directory(state)).iterdir()}


@pytest.mark.parametrize("most", [0, 1000, 8192, 30_000])
def test_a_disk_that_takes_no_more_leaves_the_old_set(tmp_path, most):
    state = State(str(tmp_path / "state"))
    with BucketServer(publication(tmp_path, serial=1)) as server:
        refreshed(state, server)
        server.place = publication(tmp_path, serial=2, count=1000)
        with begun(state, server, str(most)) as process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "file too large" in said
        assert serial(state) == 1
        refreshed(state, server)
        assert serial(state) == 2


def test_readers_see_a_whole_set_at_any_time(tmp_path):
    state, done, read = State(str(tmp_path / "state")), threading.Event(), []
    failures: list[Exception] = []

    def follow():
        try:
            while not done.is_set():
                read.append(serial(state))
        except (AssertionError, OSError) as error:
            failures.append(error)

    with BucketServer(publication(tmp_path, serial=1)) as server:
        refreshed(state, server)
        readers = [threading.Thread(target=follow) for _ in range(3)]
        for reader in readers:
            reader.start()
        for turn in range(2, 12):
            server.place = publication(tmp_path, serial=turn)
            refreshed(state, server)
        done.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert read[0] <= read[-1]
    assert len(set(read)) > 1
