"""One file of the database: what goes in comes out, and damage anywhere shows when it is opened."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories.advisory import Advisory, Range
from agent.advisories.naming import link
from agent.advisories.shards import FORMAT, OpenShard, ShardError, packed
from agent.model import Severity
from tests.fakes.osv import a_shard, an_advisory, plant


def kept(tmp_path, *advisories, ecosystem="PyPI", name="x"):
    path = plant(tmp_path / "shard.sqlite", a_shard(ecosystem=ecosystem), {name: advisories})
    with contextlib.closing(OpenShard(str(path))) as file:
        return file.about(ecosystem, name)


TEXT = st.text(max_size=20)
RANGES = st.builds(Range, introduced=TEXT, fixed=TEXT, last_affected=TEXT)
ADVISORIES = st.builds(
    Advisory,
    id=TEXT.filter(bool),
    ids=st.lists(TEXT.filter(bool), min_size=1, max_size=3).map(tuple),
    summary=TEXT,
    url=TEXT.filter(bool),
    severity=st.none() | st.sampled_from(Severity),
    score=st.none() | st.integers(0, 100).map(lambda tenths: tenths / 10),
    ranges=st.lists(RANGES, max_size=3).map(tuple),
    versions=st.lists(TEXT, max_size=3).map(tuple),
    unclear=TEXT,
    condition=TEXT,
    fix_needs=TEXT,
    module=TEXT,
    malicious=st.booleans(),
    known_exploited=st.booleans(),
    ransomware=st.booleans(),
    exploit_probability=st.none() | st.integers(0, 65535).map(lambda steps: steps / 65535),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ADVISORIES, max_size=4).map(tuple))
def test_what_goes_in_comes_out(tmp_path_factory, advisories):
    assert kept(tmp_path_factory.mktemp("shard"), *advisories) == advisories


def test_a_usual_link_is_made_anew(tmp_path):
    usual = an_advisory(ids=("CVE-2026-1000", "GHSA-a"), url="https://github.com/advisories/GHSA-a")
    assert kept(tmp_path, usual)[0].url == usual.url


@pytest.mark.parametrize(
    ("ecosystem", "ids", "page"),
    [
        ("PyPI", ("CVE-2026-1000", "PYSEC-1"), "https://osv.dev/vulnerability/PYSEC-1"),
        ("Debian:12", ("CVE-2026-1000", "DSA-1-1"), "https://security-tracker.debian.org/tracker/CVE-2026-1000"),
        ("Debian:12", ("DSA-1-1",), "https://osv.dev/vulnerability/DSA-1-1"),
        ("Ubuntu:22.04:LTS", ("CVE-2026-1000",), "https://ubuntu.com/security/CVE-2026-1000"),
        ("AlmaLinux:9", ("CVE-2026-1000", "ALSA-2026:1"), "https://errata.almalinux.org/9/ALSA-2026-1.html"),
        ("Rocky Linux:9", ("CVE-2026-1000", "RLSA-2026:1"), "https://errata.rockylinux.org/RLSA-2026:1"),
    ],
)
def test_a_flaw_has_a_page(ecosystem, ids, page):
    assert link(ecosystem, ids) == page


def test_of_an_unknown_package_nothing_is_known(tmp_path):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {"x": (an_advisory(),)})
    with contextlib.closing(OpenShard(str(path))) as file:
        assert file.about("PyPI", "y") == file.about("npm", "x") == file.about("PyPI", "") == ()
        assert list(file.packages()) == [("PyPI", "x")]


def test_a_package_is_found_however_it_is_spelt(tmp_path):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {"jupyter-server": (an_advisory(),)})
    with contextlib.closing(OpenShard(str(path))) as file:
        assert file.about("PyPI", "Jupyter_Server") == (an_advisory(url=link("PyPI", ("CVE-2026-0001",))),)


def test_the_same_rows_make_the_same_file():
    rows = [("PyPI", f"x{number}", (an_advisory(number),)) for number in range(1000)]
    shard, content = packed(a_shard(), rows)
    assert packed(a_shard(), iter(rows)) == (shard, content)
    assert shard.records == 1000


def test_the_file_is_one_that_sqlite_finds_whole(tmp_path):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {f"x{each}": (an_advisory(each),) for each in range(1000)})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_damage_at_any_byte_shows_when_it_is_opened(tmp_path):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {f"x{each}": (an_advisory(each),) for each in range(20)})
    whole = path.read_bytes()
    places = [*range(100), *random.Random(1).sample(range(100, len(whole)), 300)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ShardError):
            OpenShard(str(path))


@pytest.mark.parametrize("size", [0, 1, 50, 99, 100, 4096, 8191, -1, -4096])
def test_a_file_that_was_cut_is_refused(tmp_path, size):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {"x": (an_advisory(),)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ShardError):
        OpenShard(str(path))


def test_a_file_of_others_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE about (shard TEXT)")
    for content in (path.read_bytes(), b"", b"#!/bin/sh\n", os.urandom(5000)):
        path.write_bytes(content)
        with pytest.raises(ShardError, match="no advisory database"):
            OpenShard(str(path))


def test_a_file_of_a_newer_format_is_refused_by_its_number(tmp_path):
    path = plant(tmp_path / "shard.sqlite", a_shard(), {"x": (an_advisory(),)})
    content = bytearray(path.read_bytes())
    content[60:64] = (FORMAT + 1).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ShardError, match=f"newer dlvmguard .format {FORMAT + 1}"):
        OpenShard(str(path))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "nothing"):
        with pytest.raises(ShardError):
            OpenShard(str(path))


def test_a_name_with_marks_of_an_address_is_only_a_name(tmp_path):
    path = plant(tmp_path / "a?mode=rwc&b#c%20.sqlite", a_shard(), {"x": (an_advisory(),)})
    with contextlib.closing(OpenShard(str(path))) as file:
        assert len(file.about("PyPI", "x")) == 1


def test_what_is_read_back_says_when_it_was_made(tmp_path):
    built = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
    path = plant(tmp_path / "shard.sqlite", a_shard(built=built), {"x": (an_advisory(),)})
    with contextlib.closing(OpenShard(str(path))) as file:
        assert (file.shard.built, file.shard.records) == (built, 1)
