"""What the watcher takes while nothing happens. DLVMGUARD_BOOT_SECONDS says for how long it is measured."""

from __future__ import annotations

import os
import time

import pytest

from tests.boot.installation import WATCH

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("release", ["trixie"], indirect=True),
]

MEBIBYTE = 1 << 20


def test_the_watcher_stays_within_its_memory(installation, capsys):
    machine = installation.machine
    seconds = int(os.environ.get("DLVMGUARD_BOOT_SECONDS", "60"))
    installation.install()
    installation.wait_for_first_finding()
    process = machine.show(WATCH, "MainPID")
    before, start = cpu(machine, process), time.monotonic()
    time.sleep(seconds)
    used, passed = cpu(machine, process) - before, time.monotonic() - start
    status = machine.run(f"cat /proc/{process}/status").stdout
    resident, peak = (memory(status, name) for name in ("VmRSS", "VmHWM"))
    with capsys.disabled():
        print(  # noqa: T201 -- a figure for whoever reads the output, not judged
            f"\nwatcher over {passed:.0f} s: {100 * used / passed:.3f} % of a core, "
            f"{resident / MEBIBYTE:.1f} MiB resident, {peak / MEBIBYTE:.1f} MiB at most"
        )
    assert machine.show(WATCH, "MainPID") == process
    assert resident <= 30 * MEBIBYTE


def test_what_is_installed_is_small(installation):
    installation.install()
    kilobytes = int(installation.machine.run("du -sk /opt/dlvmguard").stdout.split()[0])
    assert kilobytes <= 120 << 10


def cpu(machine, process):
    """Seconds of CPU that a process and the children that it waited for have taken, see proc_pid_stat(5)."""
    fields = machine.run(f"cat /proc/{process}/stat").stdout.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory(status, name):
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{name}:"))
