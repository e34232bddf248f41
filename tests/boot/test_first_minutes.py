"""From a startup script to a finding in Cloud Logging, and on over tampering, a new port and a restart."""

from __future__ import annotations

import pytest

from tests.boot.installation import ARRIVAL_SECONDS, SERVICES, STARTUP, WATCH

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

MODEL = "/models/llama/model.safetensors"


@pytest.fixture(scope="module")
def booted(installation):
    """A machine that found the startup script when it booted, some time ago."""
    machine = installation.machine
    machine.run("useradd --create-home ann; useradd --create-home eve")
    machine.run(f"mkdir -p /models/llama && head -c 1000000 /dev/urandom >{MODEL}")
    installation.at_every_boot()
    machine.reboot()
    return installation


def files(machine, *places):
    """Every file below, with what changes when it is written to or replaced."""
    words = " ".join(places)
    return machine.run(f"find {words} -xdev ! -type d -printf '%p %i %T@ %C@ %m %U:%G\\n' | sort").stdout


def test_the_first_findings_arrive_within_a_minute_of_the_boot(booted):
    machine = booted.machine
    machine.wait_for(booted.cloud.logging.visible, seconds=ARRIVAL_SECONDS, what="first finding")
    entry = booted.cloud.logging.visible()[0]
    assert entry["labels"]["compute.googleapis.com/resource_name"] == "gpu-1"
    assert (
        machine.run(
            f"systemctl is-active {WATCH} dlvmguard-report.path dlvmguard-report.timer dlvmguard-advisories.timer"
        ).returncode
        == 0
    )


def test_status_answers_root_and_the_group_and_tells_others_of_the_group(booted):
    machine = booted.machine
    machine.run("usermod --append --groups dlvmguard ann")
    assert booted.status()["open"]
    assert "open" in machine.run("runuser -u ann -- dlvmguard status").stdout
    refused = machine.run("runuser -u eve -- dlvmguard status", check=False)
    assert refused.returncode == 2
    assert "group dlvmguard" in refused.stderr


def test_root_leaves_nothing_of_its_own_in_the_ledger(booted):
    booted.machine.run("dlvmguard scan; dlvmguard status; dlvmguard report", check=False)
    assert booted.machine.run("find /var/lib/dlvmguard/ledger ! -user dlvmguard").stdout == ""


def test_a_second_run_changes_nothing(booted):
    machine = booted.machine
    places = ("/opt/dlvmguard", "/etc", "/usr/local")
    before, process = files(machine, *places), machine.show(WATCH, "MainPID")
    booted.install()
    assert files(machine, *places) == before
    assert machine.show(WATCH, "MainPID") == process


def test_a_model_file_that_is_tampered_with_arrives(booted):
    booted.machine.run("dlvmguard models approve /models/llama")
    booted.machine.run(f"printf x | dd of={MODEL} bs=1 seek=500 conv=notrunc")
    found = booted.wait_for_finding("model-file-changed", MODEL)
    assert found["finding"]["severity"] in {"HIGH", "CRITICAL"}


def test_a_port_that_is_opened_arrives_and_is_resolved_when_it_closes(booted):
    machine = booted.machine
    machine.run("systemd-run --unit=notebook --property=User=ann python3 -m http.server 8888")
    opened = booted.wait_for_finding("service-exposed", "8888")
    machine.run("systemctl stop notebook")
    booted.wait_for_finding("service-exposed", opened["subject"]["name"], "resolved")


def test_a_restart_brings_everything_back_and_repeats_nothing(booted):
    machine = booted.machine
    booted.assert_all_arrived_once()
    before = set(booted.cloud.standing())
    version = booted.version()
    machine.reboot()
    assert machine.show(STARTUP, "Result") == "success"
    assert booted.version() == version
    machine.run(f"systemctl is-active {WATCH} dlvmguard-report.path dlvmguard-report.timer dlvmguard-advisories.timer")
    machine.run("systemctl start dlvmguard-report.service")
    booted.assert_all_arrived_once()
    assert before <= set(booted.cloud.standing())
    assert booted.cloud.repeated() == []


def test_nothing_failed_on_the_way(booted):
    for service in SERVICES:
        assert booted.machine.show(service, "Result") == "success"
        assert booted.machine.show(service, "NRestarts") == "0"
