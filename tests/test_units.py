"""The units: systemd understands them, and says how exposed they leave the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
SERVICES = {"dlvmguard-watch.service": 2.0, "dlvmguard-report.service": 1.5, "dlvmguard-advisories.service": 1.5}
"""The highest exposure each may have; https://www.freedesktop.org/software/systemd/man/latest/systemd-analyze.html"""
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze, of the package systemd")


def analyze(*arguments):
    assert ANALYZE
    return subprocess.run([ANALYZE, *map(str, arguments)], capture_output=True, text=True, check=False)


def settings(name):
    """The settings of a unit, the last of each."""
    return dict(line.split("=", 1) for line in (UNITS / name).read_text().splitlines() if re.match(r"[A-Za-z]+=", line))


def test_there_is_a_limit_for_each_service():
    assert set(SERVICES) == {path.name for path in UNITS.glob("*.service")}


@needs_systemd
def test_systemd_understands_every_unit(tmp_path):
    for unit in UNITS.glob("dlvmguard-*"):
        text = unit.read_text().replace("/opt/dlvmguard/current/bin/dlvmguard", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = analyze("verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize(("name", "most"), SERVICES.items())
def test_a_service_is_exposed_no_more_than_it_must(name, most):
    done = analyze("security", "--no-pager", "--offline=true", UNITS / name)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze knows no --offline before version 250")
    level = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) <= most


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_limits(name):
    assert {"MemoryMax", "CPUQuota", "TasksMax", "IOSchedulingClass", "TimeoutStopSec"} <= settings(name).keys()


def test_root_has_no_network_and_the_network_no_root():
    watch, *others = map(settings, SERVICES)
    assert (watch["PrivateNetwork"], watch["IPAddressDeny"]) == ("yes", "any")
    assert {(each["User"], each["CapabilityBoundingSet"]) for each in others} == {("dlvmguard", "")}


def test_none_writes_where_another_does():
    written = [settings(name)["ReadWritePaths"] for name in SERVICES]
    assert written == [f"/var/lib/dlvmguard/{name}" for name in ("collected", "ledger", "advisories")]
