"""``dlvmguard advisories``, as a person runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.osv import a_record, an_export

DEBIAN = a_record("DSA-5514-1", "glibc", ("introduced", "0"), ("fixed", "2"), ecosystem="Debian:12")
KNOWN = [
    {**DEBIAN, "upstream": ["CVE-2023-4911"]},
    a_record("DSA-1-1", "linux", ("introduced", "0"), ecosystem="Debian:12", upstream=["CVE-2024-1086"]),
]


@pytest.fixture
def run(tmp_path):
    def run(*words, check=0):
        command = [sys.executable, "-m", "agent.cli", "--state-dir", str(tmp_path / "state"), "advisories", *words]
        said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
        assert said.returncode == check, said.stderr
        return said

    return run


def test_info_says_what_how_old_from_where_and_under_which_licence(run):
    said = run("info").stdout
    assert "pypi" in said
    assert "days old, embedded" in said
    assert "Python Packaging Advisory Database, https://github.com/pypa/advisory-database (CC-BY-4.0)" in said
    assert "Of other ecosystems nothing is known." in said


def test_every_field_of_its_json_is_documented(run):
    document = json.loads(run("info", "--format", "json").stdout)
    documented = set(re.findall(r"`([\w.]+)`", (Path(__file__).parents[1] / "docs" / "json.md").read_text()))
    (shard,) = document["shards"]
    assert document["schema"] == "dlvmguard.advisories/1"
    assert {*document, *shard, *shard["sources"][0]} <= documented
    assert document["problems"] == []
    assert shard["records"] == 6809


def test_build_makes_the_same_files_again(run, tmp_path):
    export = an_export(tmp_path / "all.jsonl", *KNOWN)
    said = run("build", export, "--to", str(tmp_path / "a"), "--date", "2026-11-23").stdout
    assert "debian-12: 2 advisories" in said
    assert "2 records read: 0 withdrawn, 0 repaired, 0 unclear" in said
    run("build", export, "--to", str(tmp_path / "b"), "--date", "2026-11-23")
    first, second = (tmp_path / name / "debian-12.sqlite" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o644


def test_a_build_that_is_refused_writes_nothing(run, tmp_path):
    export = an_export(tmp_path / "all.jsonl", DEBIAN)
    said = run("build", export, "--to", str(tmp_path / "a"), check=2)
    assert "debian-12: CVE-2023-4911 of glibc is missing" in said.stderr
    assert not (tmp_path / "a").exists()


def test_what_must_be_decompressed_first_is_said(run, tmp_path):
    assert "zstd -d" in run("build", str(tmp_path / "all.jsonl.zst"), "--to", str(tmp_path), check=2).stderr


@pytest.mark.parametrize("command", ["info", "build"])
def test_every_command_has_an_example_in_its_help(run, command):
    assert "Example" in run(command, "--help").stdout
