"""NVIDIA's bulletins: the table that ships, and which versions have which flaws by it."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import knowledge
from agent.advisories import nvidia
from agent.advisories.advisory import Advisory
from agent.advisories.nvidia import advisories, branch, holds, numbers, open_flaws, rating
from agent.knowledge import DriverBranches, NvidiaBulletin, NvidiaBulletins, NvidiaFlaw
from agent.model import Severity

TABLE = knowledge.load(NvidiaBulletins)
KNOWN: dict[tuple[str, str], Advisory] = {(name, each.id): each for name, each in advisories(TABLE)}

# The first fixed version in each branch of the data-centre driver for Linux, and the worst score among those that
# concern it, as NVIDIA's pages have it: https://www.nvidia.com/en-us/security/
GOLDEN = {
    "5312": ("2022-02", 6.1, "470.103.01 510.47.03"),
    "5353": ("2022-05", 8.5, "450.191.01 470.129.06 510.73.08"),
    "5383": ("2022-08", 7.8, "450.203.03 470.141.03 510.85.02 515.65.01"),
    "5415": ("2022-11", 7.8, "450.216.04 470.161.03 510.108.03 515.86.01"),
    "5452": ("2023-03", 8.8, "450.236.01 470.182.03 515.105.01 525.105.17"),
    "5468": ("2023-06", 7.8, "450.248.02 470.199.02 525.125.06 535.54.03"),
    "5491": ("2023-10", 5.5, "470.223.02 525.147.05 535.129.03"),
    "5520": ("2024-02", 7.1, "470.239.06 535.161.07 550.54.14"),
    "5551": ("2024-06", 7.8, "470.256.02 535.183.01 550.90.07"),
    "5586": ("2024-10", 8.2, "535.216.01 550.127.05"),
    "5614": ("2025-01", 7.1, "535.230.02 550.144.03 570.86.15"),
    "5630": ("2025-04", 7.8, "535.247.01 550.163.01 570.133.07 575.51.02"),
    "5670": ("2025-07", 7.0, "535.261.03 570.172.08"),
    "5703": ("2025-10", 7.0, "535.274.02 570.195.03 580.95.05"),
    "5747": ("2026-01", 7.8, "535.288.01 570.211.01 580.126.09 590.48.01"),
    "5821": ("2026-05", 8.8, "535.309.01 580.159.03 595.71.05"),
    "5861": ("2026-09", 7.8, "580.178.04 595.91.07 610.57.04 615.71.09"),
}


def missing(version: str, product: str = "driver") -> set[str]:
    return {bulletin.id for bulletin in open_flaws(TABLE, product, version)}


def until(published: str) -> NvidiaBulletins:
    """What was known at the end of a month."""
    last = dt.date.fromisoformat(f"{published}-28") + dt.timedelta(days=4)
    kept = tuple(each for each in TABLE.bulletins if each.published < last.replace(day=1))
    return NvidiaBulletins(updated=TABLE.updated, sources=(), bulletins=kept)


def test_the_driver_table_is_that_of_the_bulletins():
    said = {
        each.id: (f"{each.published:%Y-%m}", max(flaw.score for flaw in each.flaws), " ".join(each.fixed))
        for each in TABLE.about("driver")
    }
    assert said == GOLDEN


def test_the_table_is_well_formed():
    names = {each.name for each in knowledge.load(DriverBranches).branches} | {"590"}
    for bulletin in TABLE.bulletins:
        listed = [branch(version) for version in bulletin.fixed]
        assert listed == sorted(set(listed), key=int)
        assert set(listed) <= names
        assert bool(listed) is (bulletin.product == "driver")
        assert len({flaw.id for flaw in bulletin.flaws}) == len(bulletin.flaws) > 0
        for flaw in bulletin.flaws:
            assert 0 < flaw.score <= 10
            assert set(flaw.branches) <= set(listed)
            assert bool(flaw.fixed) is not bool(listed)
            assert not flaw.introduced or numbers(flaw.introduced) < numbers(flaw.fixed)


def test_how_many_flaws_of_what_are_known():
    flaws = Counter(name for name, _ in KNOWN)
    assert flaws == {
        "driver": 161, "triton": 64, "cuda-toolkit": 46, "tensorrt-llm": 18, "container-toolkit": 10, "tensorrt": 5,
        "dali": 3, "dcgm": 2, "dcgm-exporter": 1,
    }  # fmt: skip
    assert len({flaw.id for bulletin in TABLE.about("driver")[:-1] for flaw in bulletin.flaws}) == 81


@pytest.mark.parametrize("identifier", GOLDEN)
def test_each_fixed_version_is_sound_and_the_one_before_it_is_not(identifier):
    for version in GOLDEN[identifier][2].split():
        *start, last = version.split(".")
        assert identifier not in missing(version)
        assert identifier not in missing(f"{version}.1" if version.count(".") == 1 else f"{'.'.join(start)}.99")
        assert identifier in missing(".".join((*start, str(int(last) - 1))))


def test_a_lower_number_in_another_branch_is_fixed_all_the_same():
    assert "5821" not in missing("535.309.01")
    assert numbers("535.309.01") < numbers("580.159.03")


def test_a_branch_that_a_newer_bulletin_leaves_out_is_abandoned():
    before, after = until("2026-04"), until("2026-05")
    assert open_flaws(before, "driver", "570.211.01") == {}
    (bulletin,) = open_flaws(after, "driver", "570.211.01")
    assert bulletin.id == "5821"
    assert {branch(version) for version in bulletin.fixed} == {"535", "580", "595"}
    assert missing("570.211.01") == {"5821", "5861"}
    assert missing("535.309.01") == {"5861"}


@pytest.mark.parametrize("version", ["620.10.01", "615.71.09", "580.178.04", "580.200", "1000.1"])
def test_a_current_driver_and_one_of_a_newer_branch_have_no_known_flaw(version):
    assert missing(version) == set()


@pytest.mark.parametrize(
    ("identifier", "affected", "unaffected"),
    [
        ("CVE-2026-24193", ["535.288.01", "580.126.09", "590.48.01"], ["595.45.04", "580.159.03", "615.1"]),
        ("CVE-2026-24198", ["580.126.09", "595.45.04"], ["535.288.01", "525.147.05"]),
        ("CVE-2025-23286", ["535.247.01", "550.163.01", "470.256.02"], ["570.133.07", "580.1"]),
        ("CVE-2026-47586", ["595.71.05", "610.1", "590.48.01"], ["580.159.03", "570.211.01", "535.309.01"]),
        ("CVE-2022-42265", ["470.223.02", "515.65.01"], ["550.54.14", "535.161.07"]),
    ],
)
def test_a_flaw_that_is_not_in_every_branch_is_not_held_against_the_others(identifier, affected, unaffected):
    advisory = KNOWN["driver", identifier]
    having = [version for version in (*affected, *unaffected) if any(holds(each, version) for each in advisory.ranges)]
    assert having == affected


def test_an_advisory_says_where_it_comes_from_and_how_bad_it_is():
    advisory = KNOWN["container-toolkit", "CVE-2025-23266"]
    assert advisory.url == "https://nvidia.custhelp.com/app/answers/detail/a_id/5659"
    assert (advisory.severity, advisory.score) == (Severity.CRITICAL, 9.0)
    assert advisory.condition == "before 1.17.5 only with CDI; unless crun is the low-level runtime"
    assert [each.fixed for each in advisory.ranges] == ["1.17.8"]


@pytest.mark.parametrize(
    ("product", "version", "flaws"),
    [
        ("container-toolkit", "1.19.1", 0),
        ("container-toolkit", "1.17.8", 1),
        ("container-toolkit", "1.17.0", 7),
        ("container-toolkit", "1.16.1", 10),
        ("cuda-toolkit", "13.1.0", 0),
        ("cuda-toolkit", "12.9.1", 15),
        ("dcgm", "3.1.7", 0),
        ("dcgm", "3.1.6", 1),
        ("triton", "26.06", 0),
        ("triton", "24.11", 57),
        ("tensorrt", "10.16.1", 4),
    ],
)
def test_how_many_flaws_a_version_has(product, version, flaws):
    assert len({flaw.id for each in open_flaws(TABLE, product, version).values() for flaw in each}) == flaws


def test_a_triton_flaw_of_one_release_is_in_that_one():
    (bounds,) = KNOWN["triton", "CVE-2024-53880"].ranges
    assert [holds(bounds, version) for version in ("24.10", "24.11", "24.12")] == [False, True, False]


@pytest.mark.parametrize(("score", "severity"), [(9.0, "critical"), (8.9, "high"), (4.0, "medium"), (3.9, "low")])
def test_a_score_is_called_as_the_standard_calls_it(score, severity):
    assert rating(score) is Severity(severity)


@pytest.mark.parametrize("version", ["", "1.18.0-rc.1", "1.2.", "v1", "1٢", "1.2\n", "-1"])
def test_a_version_that_is_not_made_of_numbers_is_an_error(version):
    with pytest.raises(ValueError, match="not made of numbers"):
        open_flaws(TABLE, "container-toolkit", version)


versions = st.tuples(st.integers(1, 700), st.integers(0, 400), st.integers(0, 99))


@settings(max_examples=60)
@given(versions, st.integers(0, 3))
def test_zeros_at_the_end_make_no_difference(version, zeros):
    text = ".".join(map(str, version))
    assert numbers(text) == numbers(text + ".0" * zeros)


@settings(max_examples=60)
@given(versions, versions)
def test_within_a_branch_a_newer_driver_never_has_more_flaws(one, other):
    older, newer = sorted((one, (one[0], *other[1:])))
    assert missing(".".join(map(str, newer))) <= missing(".".join(map(str, older)))


@settings(max_examples=60)
@given(versions, st.data())
def test_a_branch_has_a_flaw_by_its_own_fix_or_by_its_neighbours(version, data):
    listed = sorted(data.draw(st.sets(st.integers(400, 620), min_size=1, max_size=4)))
    affected = data.draw(st.sets(st.sampled_from(listed), min_size=1))
    flaw = NvidiaFlaw(id="CVE-1", score=5.0, branches=tuple(map(str, affected)))
    fixed = tuple(f"{name}.100.01" for name in listed)
    bulletin = NvidiaBulletin(product="driver", id="1", published=TABLE.updated, fixed=fixed, flaws=(flaw,))
    name, text = version[0], ".".join(map(str, version))
    below = [each for each in listed if each < name][-1:]
    above = [each for each in listed if each > name][:1]
    if name in listed:
        expected = name in affected and version[1:] < (100, 1)
    else:
        expected = bool(above) and not affected.isdisjoint((*below, *above))
    assert any(holds(each, text) for each in nvidia.ranges(bulletin, flaw)) is expected
