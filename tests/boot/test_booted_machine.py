"""The machine that the tests of this folder run on: it boots, forgets nothing, and sees nothing of ours."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.boot.installation import ROOT
from tests.fakes.metadata import MetadataServer

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]


def test_systemd_is_process_one_and_all_that_starts_at_boot_has_started(machine):
    assert machine.run("readlink /proc/1/exe").stdout == "/usr/lib/systemd/systemd\n"
    assert machine.run("systemctl is-system-running").stdout == "running\n"


def test_a_restart_keeps_the_disk_and_a_power_cut_does_too(machine):
    machine.run("echo kept > /var/lib/kept; touch /run/gone; sync")
    machine.reboot()
    assert machine.run("cat /var/lib/kept; ls /run/gone", check=False).stdout == "kept\n"
    machine.pull_the_plug()
    machine.boot()
    assert machine.run("cat /var/lib/kept").stdout == "kept\n"


def test_servers_of_the_tests_are_on_its_loopback_and_nothing_else_is(machine, network):
    with network.entered():
        server = MetadataServer()
    ask = (
        "import sys, urllib.request as u; "
        "print(u.urlopen(u.Request(sys.argv[1], headers={'Metadata-Flavor': 'Google'})).read())"
    )
    with server:
        url = f"{server.url}/computeMetadata/v1/instance/name"
        assert machine.run(f'python3 -c "{ask}" {url}').stdout == "b'gpu-1'\n"
        assert machine.run("ss --no-header --tcp --listening --numeric").stdout.count("LISTEN") == 1
    assert machine.run("ip -brief link").stdout.split()[0] == "lo"


def test_nothing_of_it_runs_on_when_whoever_booted_it_is_killed(release, tmp_path):
    program = (
        "import pathlib, sys; from tests.boot.machine import Machine, Network\n"
        "lower, place = map(pathlib.Path, sys.argv[1:])\n"
        "with Network() as network, Machine(lower, place, network) as machine:\n"
        "    machine.boot(); print(machine.root, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, release, tmp_path / "disk"]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        root = Path(process.stdout.readline().strip())
        assert (root / "etc").is_dir()
        process.kill()
    deadline = time.monotonic() + 30
    while root.parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
