"""From events to ranges; what is wrong with them is repaired or said, never dropped."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from agent import knowledge
from agent.advisories.advisory import Range
from agent.advisories.bounds import versions
from agent.knowledge import AdvisoryRepairs
from tests.fakes.osv import a_record, read

REPAIRS = knowledge.load(AdvisoryRepairs)
NONE = AdvisoryRepairs(updated=dt.date(2026, 11, 24), sources=(), bounds=(), records=())


def said(*events, listed=(), name="x", record_id="PYSEC-1", repairs=REPAIRS, is_pypi=True):
    record = read(a_record(record_id, name, *events, versions=listed))
    (affected,) = record.affected or ()
    return versions(record_id, name, affected, repairs, is_pypi=is_pypi)


BEGIN, F, L = "introduced", "fixed", "last_affected"


@pytest.mark.parametrize(
    ("events", "ranges"),
    [
        ([(BEGIN, "0"), (F, "2")], [("", "2", "")]),
        ([(BEGIN, "1.5"), (L, "2")], [("1.5", "", "2")]),
        ([(BEGIN, "0")], [("", "", "")]),
        ([(BEGIN, "2"), (F, "2.1"), (BEGIN, "0"), (F, "1.1")], [("", "1.1", ""), ("2", "2.1", "")]),
        ([(BEGIN, "0"), (F, "1.1"), (BEGIN, "1.1"), (F, "2")], [("", "1.1", ""), ("1.1", "2", "")]),
        ([(BEGIN, "0"), (L, "1"), (L, "3"), (L, "2")], [("", "", "3")]),
        ([(BEGIN, "0"), (L, "1"), (BEGIN, "2")], [("", "", "1"), ("2", "", "")]),
        ([(BEGIN, "1.0"), (L, "1.0")], [("1.0", "", "1.0")]),
        ([(BEGIN, "0"), (F, "1"), (F, "2")], [("", "1", "")]),
        ([(BEGIN, "0"), (BEGIN, "1"), (F, "2")], [("", "2", "")]),
        ([(F, "1")], []),
        ([(BEGIN, "0"), (F, "0")], []),
        ([(BEGIN, "2"), (F, "2")], []),
        ([], []),
    ],
)
def test_events_become_ranges(events, ranges):
    expected = [Range(introduced=begin, fixed=fixed, last_affected=last) for begin, fixed, last in ranges]
    assert list(said(*events).ranges) == expected


def test_versions_listed_beside_a_range_are_dropped_and_kept_where_there_is_none():
    assert said(("introduced", "0"), ("fixed", "2"), listed=("1.0", "1.1")).versions == ()
    assert said(listed=("1.1", "1.0")).versions == ("1.0", "1.1")


def test_a_record_that_names_no_versions_is_unclear():
    assert said().unclear == "it names no versions"


def test_ranges_of_commits_say_nothing_of_versions():
    record = read(a_record("X-1", "x"))
    record = read(
        {
            "id": "X-1",
            "modified": "2026-01-01T00:00:00Z",
            "affected": [
                {
                    "package": {"ecosystem": "PyPI", "name": "x"},
                    "ranges": [{"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "abc"}]}],
                    "versions": ["1.0"],
                }
            ],
        }
    )
    (affected,) = record.affected or ()
    assert versions("X-1", "x", affected, REPAIRS, is_pypi=True).versions == ("1.0",)


@pytest.mark.parametrize(("bound", "means"), [("2.6.0-NA", "2.6.0"), ("2.6.0-cu124", "2.6.0")])
def test_a_bound_with_what_is_no_part_of_a_version_is_repaired(bound, means):
    assert said(("introduced", "0"), ("last_affected", bound)).ranges == (Range(last_affected=means),)
    assert said(("introduced", "0"), ("last_affected", bound)).repaired


def test_a_bound_with_a_local_version_stays():
    assert said(("introduced", "0"), ("last_affected", "2.6.0+cu124")).ranges == (Range(last_affected="2.6.0+cu124"),)


def test_a_bound_that_nobody_can_repair_gives_way_to_the_list():
    bad = said(("introduced", "0"), ("fixed", "2024-09-25"), listed=("3.2.5",))
    assert (bad.ranges, bad.versions, bad.unclear) == ((), ("3.2.5",), "")


def test_without_a_list_it_is_unclear_and_neither_all_nor_nothing():
    bad = said(("introduced", "0"), ("last_affected", "2.6.0-NA"), repairs=NONE)
    assert (bad.ranges, bad.versions) == ((), ())
    assert bad.unclear == "'2.6.0-NA' is no version that pip knows"


def test_one_bad_bound_makes_the_whole_record_unclear():
    bad = said(("introduced", "0"), ("fixed", "1.0"), ("introduced", "2.0"), ("fixed", "x.y"))
    assert bad.ranges == ()
    assert bad.unclear


def test_other_ecosystems_have_other_versions():
    assert said(("introduced", "0"), ("fixed", "2.36-9+deb12u3"), is_pypi=False).ranges == (
        Range(fixed="2.36-9+deb12u3"),
    )


@pytest.mark.parametrize("repair", REPAIRS.records, ids=lambda each: each.id)
def test_every_repair_is_of_versions_that_pip_knows_and_has_its_source(repair):
    for each in repair.ranges:
        ends = [Version(end) for end in (each.introduced, each.fixed, each.last_affected) if end]
        assert ends
        assert ends == sorted(ends)
    assert repair.source.startswith("https://")
    assert repair.why.endswith(".")


VERSIONS = st.integers(0, 9).map(str)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["introduced", "fixed"]), VERSIONS), max_size=6, unique_by=lambda each: each[1]
)


def by_the_schema(version, events):
    """The evaluation that the schema gives: https://ossf.github.io/osv-schema/#evaluation."""
    affected = False
    for kind, at in sorted(events, key=lambda each: int(each[1])):
        if version >= int(at):
            affected = kind == "introduced"
    return affected


@settings(max_examples=300)
@given(EVENTS)
def test_ranges_hold_what_the_schema_says(events):
    ranges = said(*events).ranges
    for version in range(11):
        within = any(int(each.introduced or 0) <= version < int(each.fixed or 99) for each in ranges)
        assert within == by_the_schema(version, events)
