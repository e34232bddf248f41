"""install.sh with a bundle, in a box: installing, again, upgrade, back, away; killed, offered rubbish, offline.

Booting what was installed is for tests/boot.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import __version__
from tests.fakes.box import Box
from tests.fakes.bundles import NEXT, next_version, seal
from tests.fakes.metadata import Fault, MetadataServer

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "install.sh"
KILLS = 20
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install, and mount what keeps it from harm"),
]


@pytest.fixture(scope="module")
def bundle(room):
    """The bundle of this tree, unpacked."""
    made = subprocess.run(
        [sys.executable, "-c", f"import pathlib; from release import bundle; bundle.make(pathlib.Path('{room}'))"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    subprocess.run(["tar", "-xzf", room / f"dlvmguard-{__version__}-bundle.tar.gz", "-C", room], check=True)
    return room / f"dlvmguard-{__version__}-bundle"


@pytest.fixture(scope="module")
def newer(bundle, room):
    """A bundle of a later version, with one unit more."""
    return next_version(bundle, room / f"dlvmguard-{NEXT}-bundle")


@pytest.fixture(scope="module")
def installed(bundle, room):
    """A box with dlvmguard in it, and how it was before; tests take copies."""
    box = Box(room / "installed")
    before = box.files()
    done = box.run(bundle / "install.sh", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert done.returncode == 0, done.stderr
    return box, before


@pytest.fixture
def machine(installed, room, request):
    """A machine of one's own that has dlvmguard."""
    place = room / f"machine-{abs(hash(request.node.nodeid))}"
    box = Box(place)
    shutil.rmtree(place)
    subprocess.run(["cp", "-a", installed[0].place, place], check=True)
    yield box
    shutil.rmtree(place)


def in_use(box):
    return box.run("readlink", "/opt/dlvmguard/current").stdout.strip()


def added(box, before):
    return sorted(set(box.files()) - set(before))


class TestInstalled:
    """After a first installation from a bundle, without a network."""

    def test_the_command_runs_for_everybody(self, machine):
        done = machine.run(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/local/bin/dlvmguard", "checks"
        )
        assert done.returncode == 0, done.stderr

    def test_who_may_read_and_write_what(self, machine):
        done = machine.run(
            "stat", "-c", "%U:%G %a %n", "/etc/dlvmguard/config.toml", "/var/lib/dlvmguard",
            "/var/lib/dlvmguard/collected", "/var/lib/dlvmguard/ledger", "/var/lib/dlvmguard/advisories",
        )  # fmt: skip
        assert done.stdout.splitlines() == [
            "root:dlvmguard 640 /etc/dlvmguard/config.toml",
            "root:dlvmguard 750 /var/lib/dlvmguard",
            "root:dlvmguard 750 /var/lib/dlvmguard/collected",
            "dlvmguard:dlvmguard 750 /var/lib/dlvmguard/ledger",
            "dlvmguard:dlvmguard 750 /var/lib/dlvmguard/advisories",
        ]
        assert (
            machine.run(
                "find",
                "/opt/dlvmguard",
                "/etc/systemd/system",
                "-name",
                "dlvmguard*",
                "-perm",
                "/022",
                "!",
                "-type",
                "l",
            ).stdout
            == ""
        )

    def test_nothing_is_too_big(self, machine):
        kibibytes = int(machine.run("du", "-sk", "/opt/dlvmguard").stdout.split()[0])
        assert kibibytes <= 120 * 1024

    def test_again_nothing_is_said_or_changed(self, machine, bundle):
        before = machine.files()
        done = machine.run(bundle / "install.sh")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert machine.files() == before

    def test_as_a_startup_script_without_a_version_it_stays_as_it_is(self, machine, alone):
        before = machine.files()
        done = machine.run(alone, PIP_INDEX_URL="http://127.0.0.1:9/simple")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert machine.files() == before

    def test_what_is_missing_is_repaired(self, machine, bundle):
        before = machine.files()
        machine.run(
            "sh", "-c", "rm /usr/local/bin/dlvmguard /etc/systemd/system/dlvmguard-*; chmod 777 /var/lib/dlvmguard"
        )
        machine.run(
            "sh", "-c", "rm -r /opt/dlvmguard/*/lib/python*/site-packages/click; touch /opt/dlvmguard/.new-left"
        )
        assert machine.run(bundle / "install.sh").returncode == 0
        assert set(machine.files()) == set(before)

    def test_a_configuration_is_checked_before_it_replaces_another(self, machine, alone, tmp_path):
        mine, bad = tmp_path / "mine.toml", tmp_path / "bad.toml"
        mine.write_text("stale_after_hours = 48\n")
        bad.write_text("stale_after_hours = 'soon'\n")
        first = machine.run("cat", "/etc/dlvmguard/config.toml").stdout
        refused = machine.run(alone, "--config", bad)
        assert (refused.returncode, "stale_after_hours" in refused.stderr) == (8, True)
        assert machine.run("cat", "/etc/dlvmguard/config.toml").stdout == first
        assert machine.run(alone, "--config", mine).returncode == 0
        assert machine.run("cat", "/etc/dlvmguard/config.toml").stdout == mine.read_text()
        assert machine.run("cat", "/etc/dlvmguard/config.toml.previous").stdout == first
        assert machine.run(alone).returncode == 0
        assert machine.run("cat", "/etc/dlvmguard/config.toml").stdout == mine.read_text()

    def test_a_configuration_in_the_instance_attributes_is_put_in_force(self, machine, alone):
        for text, status in ("stale_after_hours = 47", 0), ("nonsense = 1", 8):
            with MetadataServer({"instance/attributes/dlvmguard-config": text}) as server:
                done = machine.run(alone, GCE_METADATA_HOST=server.host)
            assert done.returncode == status, done.stderr
            assert machine.run("cat", "/etc/dlvmguard/config.toml").stdout == "stale_after_hours = 47\n"

    @pytest.mark.parametrize("kind", ["reset", "hang", "no-flavor", "redirect", "huge"])
    def test_a_metadata_server_that_gives_no_answer_changes_nothing(self, machine, alone, kind):
        before = machine.files()
        with MetadataServer({"instance/attributes/dlvmguard-config": "x = 1"}, fault=Fault(kind)) as server:
            assert machine.run(alone, GCE_METADATA_HOST=server.host).returncode == 0
        assert machine.files() == before

    def test_upgrade_back_forth_and_old_ones_go(self, machine, newer):
        machine.run(
            "sh",
            "-c",
            "echo history >/var/lib/dlvmguard/ledger/ledger.sqlite; echo '# mine' >>/etc/dlvmguard/config.toml",
        )
        machine.run("cp", "-a", f"/opt/dlvmguard/{__version__}", "/opt/dlvmguard/0.0.1")
        assert machine.run(newer / "install.sh").returncode == 0
        assert in_use(machine) == NEXT
        assert machine.run("/usr/local/bin/dlvmguard", "--version").stdout.endswith(f"{NEXT}\n")
        assert machine.run("ls", "/opt/dlvmguard").stdout.split() == [__version__, NEXT, "current", "previous"]
        assert machine.run("cat", "/etc/systemd/system/dlvmguard-another.timer").returncode == 0
        for version, unit in (__version__, 2), (NEXT, 0), (__version__, 2):
            done = machine.run("/opt/dlvmguard/current/share/dlvmguard/install.sh", "--rollback")
            assert (done.returncode, in_use(machine)) == (0, version), done.stderr
            assert bool(machine.run("ls", "/etc/systemd/system/dlvmguard-another.timer").returncode) == bool(unit)
        assert machine.run("cat", "/var/lib/dlvmguard/ledger/ledger.sqlite").stdout == "history\n"
        assert "# mine" in machine.run("cat", "/etc/dlvmguard/config.toml").stdout

    def test_a_new_version_that_refuses_the_configuration_does_not_come_into_use(self, machine, newer):
        machine.run("sh", "-c", "echo 'of_an_older_version = 1' >/etc/dlvmguard/config.toml")
        done = machine.run(newer / "install.sh")
        assert (done.returncode, in_use(machine)) == (8, __version__)

    @pytest.mark.parametrize("options", [(), ("--purge",)])
    def test_uninstalled_nothing_is_left_but_what_was_asked_to_stay(self, machine, installed, options):
        done = machine.run("/opt/dlvmguard/current/share/dlvmguard/install.sh", "--uninstall", *options)
        assert done.returncode == 0, done.stderr
        stayed = [
            line
            for line in added(machine, installed[1])
            if not line.endswith(("/passwd-", "/group-", "/shadow-", "/gshadow-"))
        ]
        if options:
            assert stayed == []
            assert machine.run("getent", "passwd", "dlvmguard").returncode
            assert machine.run("getent", "group", "dlvmguard").returncode
        else:
            assert {line.partition(" /")[2].split("/")[0] for line in stayed} <= {"etc", "var"}
            assert all("dlvmguard" in line for line in stayed)

    def test_a_second_copy_waits_for_the_first(self, machine, bundle):
        # In one go: every run has overlays of its own, and with them a lock of its own.
        script = f"(exec 9</opt; flock 9; sleep 2) & sleep 0.5; exec {bundle}/install.sh"
        done = machine.run("sh", "-c", script)
        assert (done.returncode, "another installation is running" in done.stdout) == (0, True), done.stdout


def test_a_damaged_bundle_changes_nothing(bundle, box, room):
    damaged = room / "damaged"
    shutil.copytree(bundle, damaged)
    before = box.files()
    wheel = next((damaged / "wheelhouse").glob("click-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert box.run(damaged / "install.sh").returncode == 7  # against the checksums
    seal(damaged)
    assert box.run(damaged / "install.sh").returncode == 7  # against the lock file
    archive = room / f"dlvmguard-{__version__}-bundle.tar.gz"
    assert box.run(SCRIPT, "--wheelhouse", archive, "--sha256", "0" * 64).returncode == 7
    assert box.run(SCRIPT, "--wheelhouse", bundle, "--version", NEXT).returncode == 7
    shutil.rmtree(damaged)
    assert [line for line in added(box, before) if not line.endswith(" /opt/dlvmguard")] == []


def test_a_bundle_in_a_bucket_is_fetched_or_said_to_need_gcloud(bundle, box, room, tmp_path):
    address = f"gs://bucket/dlvmguard-{__version__}-bundle.tar.gz"
    gcloud = room / "gcloud"
    gcloud.write_text(f'#!/bin/sh\ncp {room}/${{5##*/}} "$6"\n')
    gcloud.chmod(0o755)
    hide = "mount --bind /bin/false /usr/bin/gcloud 2>/dev/null; "
    place = f"mkdir -p /usr/local/bin; cp {gcloud} /usr/local/bin/gcloud; "
    done = box.run("sh", "-c", f"{hide}{place}exec {shlex.quote(str(SCRIPT))} --wheelhouse {address}")
    assert (done.returncode, in_use(box)) == (0, __version__), done.stderr


def test_killed_at_any_point_the_next_run_finishes_it(bundle, installed, room):
    """Kills are spread over the time that an installation takes; every second one spares the programs it started."""
    box = Box(room / "killed")
    whole, _ = installed
    start = time.monotonic()
    assert box.run(bundle / "install.sh").returncode == 0
    took = time.monotonic() - start
    for number in range(KILLS):
        box.run(bundle / "install.sh", "--uninstall", "--purge")
        process = box.start(bundle / "install.sh")
        time.sleep(took * (number + random.random()) / KILLS)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        if in_use(box):  # whatever is in use is whole
            assert box.run("/opt/dlvmguard/current/bin/dlvmguard", "checks").returncode == 0
    done = box.run(bundle / "install.sh")
    assert done.returncode == 0, done.stderr
    assert without_times(box) == without_times(whole)
    shutil.rmtree(box.place)


def without_times(box):
    """What is in a box, without what is numbered or cached in the order of events."""
    kept = (line for line in box.files() if not line.endswith("-") and "/__pycache__" not in line)
    return sorted(line for line in kept if "dlvmguard" in line)
