"""The database of this machine: the newest of each shard that can be used, and a word about every other."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from agent.advisories.advisory import Freshness, freshness
from agent.advisories.database import opened
from agent.advisories.installed import Installed, InstalledShard
from agent.state import State
from tests.fakes.osv import BUILT, a_shard, an_advisory, plant

DAY = dt.timedelta(days=1)
OLD, NEW = an_advisory(1), an_advisory(2)


def ids(advisories, name="x", ecosystem="PyPI"):
    return [each.id for each in advisories.about(ecosystem, name)]


@pytest.fixture
def embedded(tmp_path):
    """What comes with the program."""
    return str(plant(tmp_path / "embedded" / "pypi.sqlite", a_shard(), {"x": (OLD,)}).parent)


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


def install(state, *shards, serial=7, built=None):
    """Put shards of (shard, packages) where a refresh puts them."""
    known = []
    for shard, packages in shards:
        path = plant(place(state, "new"), shard, packages)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(place(state, f"{digest}.sqlite"))
        known.append(
            InstalledShard(name=shard.name, file=f"{digest}.sqlite", sha256=digest, origin="refreshed", serial=serial)
        )
    place(state, "current.json").write_bytes(
        msgspec.json.encode(Installed(serial=serial, built=built, shards=tuple(known)))
    )
    return [place(state, each.file) for each in known]


def place(state, name):
    return Path(state.advisories).parent / name


def test_what_came_with_the_program_answers_where_nothing_was_fetched(state, embedded):
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0001"]
        assert advisories.problems == ()
        (shard,) = advisories.shards
        assert (shard.origin, shard.serial, advisories.shard("PyPI")) == ("embedded", 0, shard)
        assert advisories.shard("Debian:12") is None


def test_an_unknown_name_or_ecosystem_has_no_advisories(state, embedded):
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories, "y") == ids(advisories, "x", "Debian:12") == ids(advisories, "") == []


def test_without_anything_nothing_is_known(state, tmp_path):
    with opened(state, embedded=str(tmp_path / "nothing")) as advisories:
        assert advisories.shards == ()
        assert ids(advisories) == []


def test_what_was_fetched_answers_once_it_is_newer(state, embedded):
    install(state, (a_shard(built=BUILT + DAY), {"x": (NEW,)}))
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0002"]
        (shard,) = advisories.shards
        assert (shard.origin, shard.serial) == ("refreshed", 7)


def test_what_was_fetched_before_the_program_was_upgraded_gives_way(state, embedded):
    install(state, (a_shard(built=BUILT - DAY), {"x": (NEW,)}))
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0001"]


def test_a_signed_manifest_says_as_of_when_an_unchanged_file_is_current(state, embedded):
    install(state, (a_shard(built=BUILT - DAY), {"x": (NEW,)}), built=BUILT + DAY)
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0002"]
        assert advisories.shards[0].built == BUILT + DAY


def test_shards_stand_beside_each_other(state, embedded):
    install(state, (a_shard("debian-12", "Debian:12"), {"glibc": (NEW,)}))
    with opened(state, embedded=embedded) as advisories:
        assert [each.name for each in advisories.shards] == ["debian-12", "pypi"]
        assert ids(advisories, "glibc", "Debian:12") == ["CVE-2026-0002"]
        assert ids(advisories) == ["CVE-2026-0001"]


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "gone"])
def test_a_damaged_file_is_a_problem_and_the_embedded_one_answers(state, embedded, damage):
    (path,) = install(state, (a_shard(built=BUILT + DAY), {"x": (NEW,)}))
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0001"]
        assert len(advisories.problems) == 1
        assert str(path) in advisories.problems[0]


def test_a_damaged_list_of_what_is_in_force_is_a_problem(state, embedded):
    state.write(state.advisories, b"{")
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0001"]
        assert "damaged" in advisories.problems[0]


def test_a_damaged_embedded_file_is_a_problem_too(state, embedded):
    with open(f"{embedded}/pypi.sqlite", "r+b") as file:
        file.truncate(5000)
    with opened(state, embedded=embedded) as advisories:
        assert advisories.shards == ()
        assert "pypi.sqlite: it is damaged" in advisories.problems[0]


def test_two_names_that_lead_to_one_file_are_no_trouble(state, embedded):
    install(state, (a_shard(built=BUILT + DAY), {"x": (NEW,)}), (a_shard(built=BUILT + DAY), {"x": (NEW,)}))
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0002"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_root_does_not_open_what_another_user_can_write(state, embedded):
    (path,) = install(state, (a_shard(built=BUILT + DAY), {"x": (NEW,)}))
    os.chown(path.parent, 12345, 12345)
    with opened(state, embedded=embedded) as advisories:
        assert ids(advisories) == ["CVE-2026-0001"]
        assert "belongs to uid 12345" in advisories.problems[0]


@pytest.mark.parametrize(
    ("ages", "is_"),
    [
        ([0], "ok"),
        ([3], "ok"),
        ([3.01], "stale"),
        ([7], "stale"),
        ([0, 7.01], "degraded"),
        ([124], "degraded"),
        ([-8], "degraded"),
        ([], "degraded"),
    ],
)
def test_a_database_ages(ages, is_):
    shards = [a_shard(built=BUILT - dt.timedelta(days=age)) for age in ages]
    assert freshness(shards, BUILT) is Freshness(is_)
