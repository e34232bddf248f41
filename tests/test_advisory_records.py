"""Published records: what is read of them, and which of them are about the same flaw."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories.records import Aliases, RecordError, decoded, flaws, same
from tests.fakes.osv import a_record, read


def test_what_is_not_used_may_be_anything():
    record = read(a_record("PYSEC-1", "x", ("introduced", "0"), references=7, credits={}, schema_version=None))
    assert record.id == "PYSEC-1"


def test_lists_may_be_null():
    record = decoded(b'{"id":"X-1","modified":"2026-01-01T00:00:00Z","aliases":null,"affected":null,"severity":null}')
    assert same(record) == ("X-1",)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"id":"X-1"}',
        b'{"id":"X\\n1","modified":"2026-01-01T00:00:00Z"}',
        b'{"id":"","modified":"2026-01-01T00:00:00Z"}',
        b'{"id":"X-1","modified":"yesterday"}',
        b'{"id":"X-1","modified":"2026-01-01T00:00:00"}',
        b'{"id":"X-1","modified":"2026-01-01T00:00:00Z","aliases":"CVE-2026-1000"}',
        b'{"id":' + b"[" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_no_record_is_an_error(text):
    with pytest.raises(RecordError):
        decoded(text)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_garbage_is_an_error_and_nothing_else(text):
    with pytest.raises(RecordError):
        decoded(text)


def test_an_alias_is_the_same_flaw():
    record = read(a_record("PYSEC-1", "x", aliases=["GHSA-1", "CVE-2026-1000"]))
    assert same(record) == ("PYSEC-1", "GHSA-1", "CVE-2026-1000")


def test_the_record_of_a_tracker_is_its_cve():
    assert same(read(a_record("DEBIAN-CVE-2026-1000", "x", upstream=["CVE-2026-1000"])))[1:] == ("CVE-2026-1000",)


def test_a_bulletin_about_one_flaw_is_that_flaw_and_one_about_several_is_none_of_them():
    one = read(a_record("DSA-1-1", "x", upstream=["CVE-2026-1000"]))
    two = read(a_record("USN-1-1", "x", aliases=["CVE-2026-1000"], related=["CVE-2026-1001"]))
    assert same(one) == ("DSA-1-1", "CVE-2026-1000")
    assert same(two) == ("USN-1-1",)
    assert flaws(two) == ("CVE-2026-1000", "CVE-2026-1001")


def test_an_erratum_stands_for_itself():
    assert same(read(a_record("RLSA-2026:1", "x", upstream=["CVE-2026-1000"]))) == ("RLSA-2026:1",)


IDS = st.sampled_from(["CVE-2026-1000", "CVE-2025-99999", "GHSA-a", "GHSA-b", "PYSEC-1", "PYSEC-2", "MAL-1", "SNYK-1"])


@settings(max_examples=200)
@given(st.lists(st.lists(IDS, min_size=1, max_size=3).map(tuple), max_size=8), st.randoms())
def test_aliases_of_aliases_are_aliases_in_whatever_order_they_are_learnt(sets, random):
    shuffled = random.sample(sets, len(sets))
    first, second = Aliases(), Aliases()
    for each in sets:
        first.unite(each)
    for each in shuffled:
        second.unite(each[::-1])
    names = {each for some in sets for each in some}
    groups = {each: {each} for each in names}
    for some, _ in itertools.product(sets, range(len(sets))):
        whole = set().union(*(groups[each] for each in some))
        for each in whole:
            groups[each] = whole
    for each in names:
        assert first.name(each) == second.name(each)
        assert first.name(each) in groups[each]
        assert {other for other in names if first.name(other) == first.name(each)} == groups[each]


def test_a_flaw_is_called_by_its_oldest_cve_else_its_ghsa_else_its_own_id():
    aliases = Aliases()
    aliases.unite(("PYSEC-1", "GHSA-a", "CVE-2026-10000", "CVE-2026-9999"))
    aliases.unite(("PYSEC-2", "GHSA-b"))
    assert [aliases.name(each) for each in ("GHSA-a", "PYSEC-2", "PYSEC-3")] == ["CVE-2026-9999", "GHSA-b", "PYSEC-3"]


def test_a_record_of_every_field_survives():
    record = read(a_record("X-1", "x", ("introduced", "0"), ("limit", "9"), severity=[{"type": "V", "score": "1"}]))
    assert decoded(msgspec.json.encode(record)) == record
