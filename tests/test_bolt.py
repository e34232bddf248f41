"""Reading bbolt databases: a real one of containerd's, and what damage does to it."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.facts import bolt
from agent.facts.bolt import BoltError, Bucket, Database

REAL = gzip.decompress((Path(__file__).parent / "data" / "containerd-meta.db.gz").read_bytes())
"""Written by containerd 1.6.20: one image under two names, imported, and containers of ctr's and of Docker's."""
JOB = b"docker.io/library/trainer:latest"


def everything(bucket: Bucket) -> dict[bytes, object]:
    return {key: everything(item) if isinstance(item, Bucket) else item for key, item in bucket.items()}


def inside(database: Bucket, *names: bytes) -> Bucket:
    for name in names:
        found = database.bucket(name)
        assert found, name
        database = found
    return database


def test_a_real_database_is_read():
    default = inside(Database(REAL), b"v1", b"default")
    assert [key for key, _ in inside(default, b"containers").items()] == [b"job1", b"job2"]
    assert inside(default, b"containers", b"job1").value(b"image") == JOB
    assert inside(default, b"images", JOB, b"target").value(b"digest").startswith(b"sha256:1eea64469da2")
    assert set(everything(inside(Database(REAL), b"v1"))) == {b"default", b"moby", b"version"}


def test_what_is_not_there_is_nothing():
    database = Database(REAL)
    assert (database.bucket(b"v2"), database.value(b"v1"), database.value(b"v2")) == (None, b"", b"")
    assert inside(database, b"v1").bucket(b"version") is None


def test_a_half_written_description_leaves_the_one_before():
    first, second = (bolt.newest_meta(cut(number)) for number in (1, 0))
    assert {first.transaction, second.transaction} == {bolt.newest_meta(REAL).transaction - back for back in (0, 1)}
    assert {first.size, second.size} == {4096}


def cut(page: int) -> bytes:
    """The database with one of its descriptions damaged."""
    at = page * 4096 + 40
    return REAL[:at] + b"torn" + REAL[at + 4 :]


def test_both_descriptions_damaged_are_an_error():
    with pytest.raises(BoltError, match="no bbolt database"):
        Database(cut(0)[:4096] + cut(1)[4096:])


def test_a_database_that_is_written_meanwhile_is_read_again():
    looks = iter([cut(0), REAL])
    assert bolt.read(lambda: next(looks), lambda: REAL[:8192]).meta == bolt.newest_meta(REAL)


def test_a_database_that_is_written_all_the_time_is_given_up():
    older = cut(0) if bolt.newest_meta(cut(0)) != bolt.newest_meta(REAL) else cut(1)
    with pytest.raises(BoltError, match="too often"):
        bolt.read(lambda: older, lambda: REAL)


def test_a_page_that_leads_back_to_itself_comes_to_an_end():
    root = bolt.newest_meta(REAL).root
    page = struct.pack("<QHHIIIQ", root, 1, 1, 0, 16, 0, root)
    damaged = bytearray(REAL)
    damaged[root * 4096 : root * 4096 + len(page)] = page
    with pytest.raises(BoltError, match="without end"):
        everything(Database(bytes(damaged)))


@pytest.mark.parametrize("size", [0, 15, 79, 4096, 8191, 8192, 100_000])
def test_a_cut_file_is_an_error(size):
    with pytest.raises(BoltError):
        everything(Database(REAL[:size]))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8))
def test_damage_anywhere_is_an_error_or_harmless_and_never_hangs(damage):
    assert_bounded(damage)


PAGES = [at for at in range(8192, len(REAL), 4096) if any(REAL[at : at + 4096])]


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from(PAGES), st.integers(0, 200), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=8,
    )
)
def test_damage_where_the_pages_begin_is_an_error_or_harmless(damage):
    assert_bounded([(at + offset, content) for at, offset, content in damage])


def assert_bounded(damage):
    content = bytearray(REAL)
    for at, piece in damage:
        content[at : at + len(piece)] = piece
    with contextlib.suppress(BoltError):
        everything(Database(bytes(content)))


@given(st.binary(max_size=9000))
def test_no_bytes_but_a_database_are_one(content):
    with pytest.raises(BoltError):
        Database(content)
