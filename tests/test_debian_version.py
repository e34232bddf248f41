"""The order of Debian versions is dpkg's own."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.debian_version import order

VERSIONS = st.from_regex(r"([0-9]{1,2}:)?[0-9][0-9a-cA-C.+~]{0,6}(-[0-9a-c.+~]{1,4}){0,2}", fullmatch=True)


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        ("1.0", "1.1"),
        ("1.9", "1.10"),
        ("1.0~rc1", "1.0"),
        ("1.0~~", "1.0~"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0+"),
        ("1.0+b1", "1.0.1"),
        ("9.9", "1:0.1"),
        ("2.36-9+deb12u9", "2.36-9+deb12u10"),
        ("1.0-1", "1.0-1+b1"),
        ("6.1.0-30-cloud-amd64", "6.1.0-31-cloud-amd64"),
        ("6.1.0-31-cloud-amd64", "6.12.43+deb13-cloud-amd64"),
        ("8.9p1-3ubuntu0.10~esm1", "8.9p1-3ubuntu0.10"),
    ],
)
def test_known_orders(smaller, greater):
    assert order(smaller) < order(greater)


@pytest.mark.parametrize(("one", "other"), [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.00", "1.0"), ("1a", "1a0")])
def test_different_spellings_of_one_version(one, other):
    assert order(one) == order(other)


def test_numbers_of_any_length_are_compared():
    assert order("1." + "9" * 10_000) < order("1.1" + "0" * 10_000)


@given(st.text(), st.text(), st.text())
def test_any_text_has_its_place_in_a_total_order(one, other, third):
    first, second, last = sorted(map(order, (one, other, third)))
    assert first <= second <= last
    assert first <= last
    assert (order(one) < order(other)) + (order(one) == order(other)) + (order(one) > order(other)) == 1


@given(VERSIONS, st.from_regex(r"[0-9a-c.]{0,4}", fullmatch=True))
def test_a_tilde_makes_smaller_and_a_suffix_greater(version, suffix):
    assert order(f"{version}~{suffix}") < order(version) < order(f"{version}+{suffix}")


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="there is no dpkg here to compare with")
@pytest.mark.parametrize("seed", range(4))
def test_dpkg_says_the_same(seed):
    assert disputed_by_dpkg(seed, pairs=200) == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("dpkg") is None, reason="there is no dpkg here to compare with")
@pytest.mark.parametrize("seed", range(100, 104))
def test_dpkg_says_the_same_of_many(seed):
    assert disputed_by_dpkg(seed, pairs=6000) == ""


def disputed_by_dpkg(seed: int, *, pairs: int) -> str:
    """What dpkg says otherwise of so many pairs of versions."""
    chance = random.Random(seed)
    made = [(version, other(version, chance)) for version in (any_version(chance) for _ in range(pairs))]
    return refused_by_dpkg((one, relation(one, another), another) for one, another in made)


def any_version(chance: random.Random) -> str:
    epoch = chance.choice(["", "", "", "0:", "1:", "12:"])
    upstream = chance.choice("0129") + "".join(chance.choices("0019abZ.+~-", k=chance.randrange(8)))
    # dpkg refuses a version that ends in a hyphen
    return f"{epoch}{upstream.rstrip('-')}{chance.choice(['', '-0', '-1', '-1+deb12u1', '-0ubuntu1~22.04'])}"


def other(version: str, chance: random.Random) -> str:
    """Another version, mostly one that differs little: there mistakes would hide."""
    if chance.random() < 0.3:
        return any_version(chance)
    start = version.find(":") + 2
    at = chance.randrange(start, len(version) + 1)
    changed = chance.choice(["", "~", "+", ".", "0", "9", "a", "~~"])
    return (version[:at] + changed + version[at + chance.randrange(2) :]).rstrip("-")


def relation(one: str, another: str) -> str:
    return "lt" if order(one) < order(another) else "gt" if order(one) > order(another) else "eq"


def refused_by_dpkg(claims: Iterable[tuple[str, str, str]]) -> str:
    """The claims that are not true to dpkg, which compares one pair a start; one shell starts it for all."""
    claim = 'dpkg --compare-versions "$one" "$how" "$other"'
    script = f'while read -r one how other; do {claim} || echo "$one $how $other"; done'
    text = "".join(f"{' '.join(each)}\n" for each in claims)
    done = subprocess.run(["/bin/sh", "-c", script], input=text, capture_output=True, text=True, check=False)
    return done.stdout
