"""The order of RPM versions is rpm's own."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from univers.rpm import vercmp

from agent.facts.rpm_version import order, part

PARTS = st.from_regex(r"[0-9a-cA-C.~^_+-]{0,12}", fullmatch=True)


# What rpm's own tests hold of its comparison, and of the two marks:
# https://github.com/rpm-software-management/rpm/blob/master/tests/rpmvercmp.at
@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        ("1.0", "2.0"),
        ("2.0", "2.0.1"),
        ("2.0.1", "2.0.1a"),
        ("5.5p1", "5.5p2"),
        ("5.5p1", "5.5p10"),
        ("10xyz", "10.1xyz"),
        ("xyz10", "xyz10.1"),
        ("xyz.4", "8"),
        ("xyz.4", "2"),
        ("5.5p2", "5.6p1"),
        ("5.6p1", "6.5p1"),
        ("6.0", "6.0.rc1"),
        ("10a2", "10b2"),
        ("10a2", "10b1"),
        ("1.0a", "1.0aa"),
        ("10.0001", "10.0039"),
        ("4.999.9", "5.0"),
        ("20101121", "20101122"),
        ("1.0~rc1", "1.0"),
        ("1.0~rc1", "1.0~rc2"),
        ("1.0~rc1~git123", "1.0~rc1"),
        ("1.0", "1.0^"),
        ("1.0", "1.0^git1"),
        ("1.0^git1", "1.0^git2"),
        ("1.0^git1", "1.01"),
        ("1.0^20160101", "1.0.1"),
        ("1.0^20160101^git1", "1.0^20160102"),
        ("1.0~rc1", "1.0~rc1^git1"),
        ("1.0^git1~pre", "1.0^git1"),
    ],
)
def test_known_orders(smaller, greater):
    assert part(smaller) < part(greater)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0001", "10.1"),
        ("2.0", "2_0"),
        ("a", "a+"),
        ("a+", "a_"),
        ("+", "_"),
        ("1.0.", "1.0"),
        ("1..0", "1.0"),
        ("1a", "1.a"),
        ("é1", "1"),
    ],
)
def test_different_spellings_of_one_version(one, other):
    assert part(one) == part(other)


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        ("9.9-9", "1:0.1-1"),
        ("1:1.0-1", "2:0.5-1"),
        ("5.14.0-427.el9", "5.14.0-427.13.1.el9_4"),
        ("5.1.8-6.el9", "5.1.8-9.el9"),
        ("1.0-2", "1.1-1"),
        ("1.0-1~beta", "1.0-1"),
        ("x:2-1", "1-1"),
    ],
)
def test_the_epoch_goes_first_then_the_version_then_the_release(smaller, greater):
    assert order(smaller) < order(greater)


@pytest.mark.parametrize(("one", "other"), [("1.0-1", "0:1.0-1"), ("1.0-1", ":1.0-1"), ("1.0-1", "00:1.0-1")])
def test_no_epoch_is_zero(one, other):
    assert order(one) == order(other)


def test_numbers_of_any_length_are_compared():
    assert order("1." + "9" * 10_000) < order("1.1" + "0" * 10_000)


@given(st.text(), st.text(), st.text())
def test_any_text_has_its_place_in_a_total_order(one, other, third):
    first, second, last = sorted(map(order, (one, other, third)))
    assert first <= second <= last
    assert (order(one) < order(other)) + (order(one) == order(other)) + (order(one) > order(other)) == 1


@settings(max_examples=500)
@given(PARTS, PARTS, st.integers(0, 12))
def test_another_implementation_says_the_same(one, other, shared):
    other = one[:shared] + other  # mostly ones that differ little: there mistakes would hide
    assert relation(one, other) == vercmp(one, other)


def test_another_implementation_says_the_same_of_many():
    for one, other in pairs(random.Random(1), 20_000):
        assert relation(one, other) == vercmp(one, other), (one, other)


@pytest.mark.skipif(shutil.which("rpm") is None, reason="there is no rpm here to compare with")
def test_rpm_says_the_same(tmp_path):
    made = pairs(random.Random(2), 20_000)
    (tmp_path / "pairs").write_text("".join(f"{one} {other}\n" for one, other in made))
    compare = 'a, b = line:match("(%S+) (%S+)") print(rpm.vercmp(a, b) .. ",")'
    script = f'for line in io.lines("{tmp_path}/pairs") do {compare} end'
    said = subprocess.run(["rpm", "--eval", f"%{{lua:{script}}}"], capture_output=True, text=True, check=True)
    answers = said.stdout.strip().removesuffix(",").split(",")
    assert len(answers) == len(made)
    wrong = [pair for pair, answer in zip(made, answers, strict=True) if relation(*pair) != int(answer)]
    assert wrong == []


def pairs(chance: random.Random, count: int) -> list[tuple[str, str]]:
    return [(one, other(one, chance)) for one in (any_part(chance) for _ in range(count))]


def any_part(chance: random.Random) -> str:
    return chance.choice("0129a") + "".join(chance.choices("00199abZ..+~^_", k=chance.randrange(9)))


def other(version: str, chance: random.Random) -> str:
    if chance.random() < 0.3:
        return any_part(chance)
    at = chance.randrange(len(version) + 1)
    changed = chance.choice(["", "~", "^", "+", ".", "0", "9", "a", "~~", "^^", "~^"])
    return (version[:at] + changed + version[at + chance.randrange(2) :]) or "0"


def relation(one: str, other: str) -> int:
    return (part(one) > part(other)) - (part(one) < part(other))
