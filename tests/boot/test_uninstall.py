"""What is left of dlvmguard after it was removed: nothing."""

from __future__ import annotations

import re

import pytest

from tests.boot.installation import WATCH

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

# The journal and systemd's own state go on for as long as the machine runs; the linker's and Python's caches as well.
NOT_OURS = r"^/(var/log/|var/lib/systemd/|var/cache/ldconfig|var/tmp|tmp|usr/lib/python3[^ ]*/__pycache__)"
ACCOUNTS = "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/subuid /etc/subgid"


def everything(machine):
    """Every path on the machine's disk with its kind, owner, permissions, and size unless it is a directory."""
    said = machine.run(
        "find / -xdev \\( -type d -printf '%p d %m %U:%G\\n' -o -printf '%p %y %m %U:%G %s %l\\n' \\) | sort"
    ).stdout
    # useradd keeps the accounts of before under the same names with a dash.
    return [line for line in said.splitlines() if not re.search(NOT_OURS, line) and not re.match(r"/etc/\w+- ", line)]


def test_uninstall_with_purge_leaves_the_machine_as_it_was(installation):
    machine = installation.machine
    machine.run("python3 -c 'import ensurepip, venv, ssl, sqlite3'")
    before, accounts, units = (
        everything(machine),
        machine.run(ACCOUNTS).stdout,
        machine.run("systemctl list-unit-files"),
    )
    installation.install()
    installation.wait_for_first_finding()
    assert everything(machine) != before
    installation.uninstall("--purge")
    assert everything(machine) == before
    assert machine.run(ACCOUNTS).stdout == accounts
    assert machine.run("systemctl list-unit-files").stdout == units.stdout
    assert machine.run("ps -e -o args").stdout.count("dlvmguard") == 0


def test_uninstall_alone_keeps_configuration_and_history_for_the_next(installation):
    machine = installation.machine
    installation.install()
    machine.run("systemctl start dlvmguard-report.service")
    recorded = installation.recorded()
    installation.uninstall()
    assert machine.run("ls -d /opt/dlvmguard /usr/local/bin/dlvmguard", check=False).stdout == ""
    assert machine.run(f"systemctl is-active {WATCH}", check=False).stdout != "active\n"
    installation.install()
    assert installation.recorded()[: len(recorded)] == recorded
