"""What each service may do, tried from the inside: a program in its place, with its sandbox around it."""

from __future__ import annotations

import json

import pytest

from tests.boot.installation import ADVISORIES, REPORT, SERVICES, WATCH

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

STATE = "/var/lib/dlvmguard"
PROGRAM = """
import json, os, socket, sys
said = {}
def attempt(name, work):
    try:
        work()
        said[name] = "done"
    except OSError as error:
        said[name] = "refused"
for path in %(written)r:
    attempt(f"write {path}", lambda: open(f"{path}/probe", "w").close())
    attempt(f"remove {path}", lambda: os.unlink(f"{path}/probe"))
for path in %(read)r:
    attempt(f"read {path}", lambda: open(path, "rb").read(1))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", %(port)d), 5).close())
attempt("become root", lambda: os.setuid(0))
attempt("become another", lambda: os.setuid(65534))
print(json.dumps(said))
"""
WRITTEN = (
    "/etc",
    "/usr/bin",
    "/opt/dlvmguard",
    "/home/ann",
    "/root",
    "/var/lib",
    "/boot",
    f"{STATE}/collected",
    f"{STATE}/ledger",
    f"{STATE}/advisories",
)
READ = ("/home/ann/secret", "/root/secret", "/etc/shadow")


@pytest.fixture(scope="module")
def inside(installation):
    """What a service could do, by its name."""
    machine = installation.machine
    installation.install()
    machine.run("useradd --create-home ann && echo key >/home/ann/secret && chown ann /home/ann/secret")
    machine.run("chmod 600 /home/ann/secret && install -m 600 /home/ann/secret /root/secret")
    installation.wait_for_first_finding()
    port = int(installation.cloud.logging.endpoint.rpartition(":")[2])
    machine.write("/opt/probe", PROGRAM % {"written": WRITTEN, "read": READ, "port": port})
    machine.run("systemctl stop dlvmguard-report.path 'dlvmguard-*.timer' dlvmguard-watch.service")
    return {service: tried(machine, service) for service in SERVICES}


def tried(machine, service):
    """Run the program once in the place of a service's own, with all else as its unit says."""
    override = f"/run/systemd/system/{service}.d/probe.conf"
    lines = (
        "Type=oneshot",
        "Restart=no",
        "WatchdogSec=0",
        "ExecStart=",
        "ExecStart=/opt/dlvmguard/current/bin/python /opt/probe",
    )
    machine.write(override, "\n".join(["[Service]", *lines, "StandardOutput=truncate:/run/probe", ""]))
    machine.run(f"systemctl daemon-reload && systemctl start {service}; rm {override}; systemctl daemon-reload")
    return json.loads(machine.run("cat /run/probe").stdout)


def done(said, kind):
    return {name.partition(" ")[2] for name, how in said.items() if name.startswith(kind) and how == "done"}


def test_watch_writes_what_it_collected_and_nothing_else(inside):
    assert done(inside[WATCH], "write") == {f"{STATE}/collected"}


def test_watch_reaches_no_network(inside):
    assert inside[WATCH]["connect"] == "refused"


def test_watch_becomes_nobody_else(inside):
    assert inside[WATCH]["become another"] == "refused"


def test_report_writes_its_ledger_and_nothing_else(inside):
    assert done(inside[REPORT], "write") == {f"{STATE}/ledger"}


def test_advisories_writes_its_database_and_nothing_else(inside):
    assert done(inside[ADVISORIES], "write") == {f"{STATE}/advisories"}


@pytest.mark.parametrize("service", [REPORT, ADVISORIES])
def test_who_has_a_network_reads_no_home_and_no_secret_of_root(inside, service):
    assert done(inside[service], "read") == set()


@pytest.mark.parametrize("service", [REPORT, ADVISORIES])
def test_who_has_a_network_reaches_it_and_never_becomes_root(inside, service):
    assert inside[service]["connect"] == "done"
    assert inside[service]["become root"] == "refused"


@pytest.mark.parametrize(("service", "tenths"), [(WATCH, 20), (REPORT, 15), (ADVISORIES, 15)])
def test_systemd_judges_the_exposure_to_be_low(installation, inside, service, tenths):
    judged = installation.machine.run(
        f"systemd-analyze security --no-pager --threshold={tenths} {service}", check=False
    )
    assert judged.returncode == 0, judged.stdout
