"""What stands in the way of an installation on a machine that has just started, and what is said of it."""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from tests.boot.installation import WATCH

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("release", ["bookworm"], indirect=True),
]

HIDDEN = "/usr/bin/.hidden"
HELD_SECONDS = 20
# https://manpages.debian.org/bookworm/apt/apt-get.8.en.html: apt takes it before dpkg's own lock.
_HOLD = f"""
import fcntl, time
with open("/var/lib/dpkg/lock-frontend", "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep({HELD_SECONDS})
"""


def archive(place, version):
    """An archive with a package python3 that brings back what is hidden."""
    root = place / "python3"
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: python3\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.com>\n"
    (root / "DEBIAN/control").write_text(control + "Description: Python for a test\n")
    postinst = root / "DEBIAN/postinst"
    postinst.write_text(f"#!/bin/sh\nmv {HIDDEN}/python3* /usr/bin/\n")
    postinst.chmod(0o755)
    package = place / "python3.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, package], check=True, capture_output=True)
    content = package.read_bytes()
    described = f"Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    (place / "Packages").write_text(f"{control}{described}Description: Python for a test\n")


def test_apt_at_work_is_waited_for(installation):
    machine = installation.machine
    place = machine.shared / "archive"
    place.mkdir()
    version = machine.run("dpkg-query --show --showformat='${Version}' python3").stdout
    archive(place, version)
    machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/shared/archive ./\n")
    machine.run("rm -f /etc/apt/sources.list.d/*; apt-get update -q")
    machine.run(f"apt-get remove -y python3; mkdir {HIDDEN}; mv /usr/bin/python3* {HIDDEN}/")
    machine.write("/root/hold.py", _HOLD)
    holder = machine.started(f"exec {HIDDEN}/python3.11 /root/hold.py")
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    done = installation.install()
    holder.communicate(timeout=HELD_SECONDS)
    assert holder.returncode == 0
    assert "install the package python3" in done.stdout
    assert machine.run("dpkg-query --show --showformat='${Version}' python3").stdout == version
    assert installation.version()


def test_a_service_that_does_not_start_is_said_and_the_way_back_with_it(installation):
    machine = installation.machine
    installation.install()
    machine.write(f"/etc/systemd/system/{WATCH}.d/broken.conf", "[Service]\nExecStartPre=/bin/false\n")
    # With nothing new to run, a service that somebody stopped is left alone.
    machine.run("systemctl daemon-reload")
    with (machine.shared / "config.toml").open("a") as configuration:
        configuration.write("# something new\n")
    done = installation.install(check=False)
    assert done.returncode == 10
    assert "journalctl" in done.stderr
    machine.run(f"rm -r /etc/systemd/system/{WATCH}.d; systemctl daemon-reload; systemctl reset-failed {WATCH}")
    assert installation.install().returncode == 0
    assert machine.show(WATCH, "ActiveState") == "active"
