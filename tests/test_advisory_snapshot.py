"""The database that ships with the program: the file of its sources, small, and with nothing lost on the way."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import pytest
from packaging.version import InvalidVersion, Version

from agent import knowledge
from agent.advisories import exports
from agent.advisories.database import EMBEDDED, opened
from agent.advisories.records import decoded
from agent.advisories.shards import OpenShard
from agent.knowledge import AdvisoryRepairs
from release import advisories as release
from release.bundle import own_wheel

SHARD = Path(EMBEDDED, "pypi.sqlite")


@pytest.fixture(scope="module")
def records():
    """The records that the snapshot is made of, by id."""
    return {each.id: each for each in map(decoded, exports.documents(str(release.RECORDS)))}


@pytest.fixture(scope="module")
def pypi():
    with contextlib.closing(OpenShard(str(SHARD))) as file:
        yield file


def test_anybody_can_make_it_again_byte_for_byte():
    done = release.made()
    assert {each.shard.name: each.content for each in done.built} == {"pypi": SHARD.read_bytes()}
    assert (done.read, done.withdrawn, done.repaired, done.unclear) == (7080, 269, 26, 8)


def test_it_is_small():
    assert SHARD.stat().st_size <= 3_000_000
    assert sum(each.stat().st_size for each in release.SOURCES.iterdir()) <= 1_500_000


def test_no_record_that_is_not_withdrawn_is_lost(records, pypi):
    about_others = {each.id for each in knowledge.load(AdvisoryRepairs).records if not each.ranges}
    known = {each for package in pypi.packages() for found in pypi.about(*package) for each in found.ids}
    assert known >= {each.id for each in records.values() if not each.withdrawn} - about_others
    assert not known & {each.id for each in records.values() if each.withdrawn}


def bad_bounds(record):
    events = (event for affected in record.affected or () for each in affected.ranges or () for event in each.events)
    bounds = (bound for each in events for bound in (each.introduced, each.fixed, each.last_affected) if bound)
    return [each for each in bounds if not is_version(each)]


def is_version(text):
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


READ_AS_RELEASE = {
    "PYSEC-2024-264": ("apache-airflow", "2.9.0"),
    "PYSEC-2024-266": ("apache-airflow", "2.10.0"),
    "PYSEC-2024-299": ("pyd3tn", "0.14.0"),
    "PYSEC-2024-325": ("pynetbox", "4.1.0"),
    "PYSEC-2025-117": ("gdal", "3.10.2"),
    "PYSEC-2025-189": ("torch", "2.6.0"),
    "PYSEC-2025-190": ("torch", "2.6.0"),
    "PYSEC-2025-192": ("torch", "2.6.0"),
    "PYSEC-2025-193": ("torch", "2.6.0"),
    "PYSEC-2025-194": ("torch", "2.6.0"),
    "PYSEC-2025-195": ("torch", "2.6.0"),
    "PYSEC-2025-196": ("torch", "2.6.0"),
    "PYSEC-2025-197": ("torch", "2.6.0"),
    "PYSEC-2025-210": ("torch", "2.7.1"),
    "PYSEC-2025-85": ("apache-airflow", "3.0.3"),
}
REPAIRED_ONE_BY_ONE = {"PYSEC-2018-155", "PYSEC-2021-371", "PYSEC-2026-1194", "PYSEC-2026-57", "PYSEC-2026-686"}
UNCLEAR = {f"PYSEC-2025-{number}" for number in range(93, 98)}


def test_every_record_with_a_bound_that_is_no_version_is_accounted_for(records):
    bad = {each.id for each in records.values() if not each.withdrawn and bad_bounds(each)}
    assert bad == READ_AS_RELEASE.keys() | REPAIRED_ONE_BY_ONE | UNCLEAR
    assert len(bad) == 25


def about(pypi, record_id, name):
    (found,) = (each for each in pypi.about("PyPI", name) if record_id in each.ids)
    return found


@pytest.mark.parametrize("record_id", READ_AS_RELEASE)
def test_a_bound_of_a_cpe_name_is_the_release(pypi, record_id):
    name, last = READ_AS_RELEASE[record_id]
    found = about(pypi, record_id, name)
    assert [(each.introduced, each.fixed, each.last_affected) for each in found.ranges] == [("", "", last)]
    assert not found.unclear


@pytest.mark.parametrize("record_id", sorted(UNCLEAR))
def test_a_date_for_a_version_is_unclear(pypi, record_id):
    found = about(pypi, record_id, "chuanhuchatgpt")
    assert (found.ranges, found.versions) == ((), ())
    assert "is no version that pip knows" in found.unclear


@pytest.mark.parametrize("repair", knowledge.load(AdvisoryRepairs).records, ids=lambda each: each.id)
def test_every_repair_is_of_a_record_that_needs_it_and_is_in_force(records, pypi, repair):
    record = records[repair.id]
    (affected,) = (each for each in record.affected if each.package.name == repair.package)
    assert bad_bounds(record) or not (affected.ranges or affected.versions)
    found = [each for each in pypi.about("PyPI", repair.package) if repair.id in each.ids]
    kept = [(end.introduced, end.fixed, end.last_affected) for each in found for end in each.ranges]
    assert kept == [(each.introduced, each.fixed, each.last_affected) for each in repair.ranges]


def test_no_range_of_it_has_an_end_that_is_no_version(pypi):
    for package in pypi.packages():
        for found in pypi.about(*package):
            for each in found.ranges:
                assert all(Version(end) for end in (each.introduced, each.fixed, each.last_affected) if end)
            assert found.ranges or found.versions or found.unclear


def test_it_says_where_it_comes_from_and_so_does_the_notice():
    notice = Path(EMBEDDED, "NOTICE").read_text()
    with opened(None) as advisories:
        for shard in advisories.shards:
            assert shard.sources
            assert f"{shard.name}.sqlite" in notice
            assert all(each.url in notice or each.attribution.split()[-1] in notice for each in shard.sources)


@pytest.mark.slow
def test_the_wheel_holds_it(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(own_wheel(tmp_path / "source", wheels)) as wheel:
        names = wheel.namelist()
        assert wheel.read("agent/advisories/snapshot/pypi.sqlite") == SHARD.read_bytes()
    assert "agent/advisories/snapshot/NOTICE" in names
    assert any(os.path.basename(each) == "NOTICE" and ".dist-info" in each for each in names)
