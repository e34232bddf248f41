"""The packages of a machine as a user sees them, on a planted tree: the real program over the shipped database."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.debian import STATUS, stanza
from tests.fakes.trees import plant

VENV = "/srv/train/lib/python3.11/site-packages"
OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n'


def distribution(name, version, place=VENV):
    location = f"{place}/{name.replace('-', '_')}-{version}.dist-info"
    return {
        f"{location}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{location}/INSTALLER": "pip\n",
    }


def a_machine(root, *distributions, **files):
    """A Debian machine with a virtual environment that has these distributions."""
    tree = {
        "/etc/os-release": OS_RELEASE,
        "/proc/sys/kernel/hostname": "gpu-1\n",
        "/proc/sys/kernel/osrelease": "6.1.0-30-amd64\n",
        "/proc/sys/kernel/random/boot_id": "b\n",
        "/proc/self/mounts": "/dev/sda1 / ext4 rw 0 0\n",
        "/srv/train/pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
        "/srv/train/bin/python3.11": "",
        f"{VENV}/": "",
        STATUS: stanza("libssl3", "3.0.19-1", source="openssl"),
    }
    for each in distributions:
        tree |= distribution(*each)
    plant(root, tree | files)
    return root


def run(root, *words, state):
    program = [sys.executable, "-m", "agent.cli", "--root", str(root), "--state-dir", str(state)]
    return subprocess.run([*program, *words], capture_output=True, text=True, check=False, timeout=90)


@pytest.fixture
def machine(tmp_path):
    """Calls the program on a machine with these distributions."""

    def called(*words, distributions=(("torch", "2.1.0"), ("requests", "2.34.2"))):
        root = tmp_path / "root"
        if not root.exists():
            a_machine(root, *distributions)
        return run(root, *words, state=tmp_path / "state")

    return called


def test_everything_installed_is_listed_where_it_is(machine):
    said = machine("packages")
    assert said.returncode == 0, said.stderr
    assert f"{VENV}   venv, /srv/train/bin/python3.11, 2 packages" in said.stdout
    assert re.search(r"^  torch 2\.1\.0   pip$", said.stdout, re.MULTILINE)
    assert re.search(r"^  libssl3 3\.0\.19-1$", said.stdout, re.MULTILINE)


def test_a_flawed_package_is_named_with_the_command_that_fixes_it(machine):
    said = machine("packages", "--vulnerable")
    assert "torch 2.1.0" in said.stdout
    assert "CVE-2025-32434" in machine("packages", "--vulnerable", "--all").stdout
    assert "/srv/train/bin/python3.11 -m pip install 'torch>=" in " ".join(said.stdout.split())
    assert "requests 2" not in said.stdout


def test_one_environment_can_be_asked_for(machine):
    assert "libssl3" not in machine("packages", "--env", "/srv/train").stdout
    said = machine("packages", "--env", "/srv/nothing")
    assert (said.returncode, said.stdout) == (2, "")
    assert "nothing is known to be installed in /srv/nothing" in said.stderr


def test_the_exit_code_tells_found_from_not_judged(tmp_path):
    """Without advisories for the Debian packages nothing is clean here; a flaw as bad as fail_on is worse."""
    clean = a_machine(tmp_path / "clean", ("requests", "2.34.2"))
    assert run(clean, "packages", "--vulnerable", state=tmp_path / "state").returncode == 4
    config = tmp_path / "config.toml"
    config.write_text('fail_on = "low"\n')
    flawed = a_machine(tmp_path / "flawed", ("torch", "2.1.0"))
    assert run(flawed, "--config", str(config), "packages", "--vulnerable", state=tmp_path / "state").returncode == 1


def test_what_was_compared_with_nothing_does_not_look_clean(machine):
    said = machine("packages", "--vulnerable", distributions=(("requests", "2.34.2"),))
    assert "no known flaws found" in said.stdout
    assert "1 with nothing" in said.stdout
    assert "no advisories for Debian:12" in said.stdout


def test_as_json_it_is_one_document_with_documented_fields(machine):
    said = machine("packages", "--format", "json")
    document = json.loads(said.stdout)
    assert document["schema"] == "dlvmguard.packages/1"
    (torch,) = [each for each in document["packages"] if each["name"] == "torch"]
    assert (torch["purl"], torch["place"], torch["kind"]) == ("pkg:pypi/torch@2.1.0", VENV, "venv")
    assert document["coverage"]["without_advisories"] == {"Debian:12": 1}
    assert any(each["subject"] == "pypi:torch#CVE-2025-32434" for each in document["findings"])
    text = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    assert {*document, *torch, *document["coverage"]} <= set(re.findall(r"`([\w.]+)`", text)) | {"schema"}
    assert {
        each["name"] for each in json.loads(machine("packages", "--vulnerable", "--format", "json").stdout)["packages"]
    } == {"torch"}


@pytest.mark.parametrize("form", ["cyclonedx", "spdx"])
def test_a_bill_of_materials_names_everything(machine, form):
    said = machine("sbom", "--format", form)
    assert said.returncode == 0, said.stderr
    assert {"pkg:pypi/torch@2.1.0", "pkg:pypi/requests@2.34.2"} <= set(re.findall(r'"(pkg:[^"]+)"', said.stdout))
    assert json.loads(said.stdout)
