"""Base scores, against the examples that FIRST publishes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories.cvss import base_score, rating
from agent.model import Severity


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        # https://www.first.org/cvss/v3-1/examples
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:L/I:L/A:N", 5.4),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 7.5),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:P/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H/E:P/RL:O", 9.8),
        # https://www.first.org/cvss/v2/guide, section 3.3
        ("AV:N/AC:L/Au:N/C:N/I:N/A:C", 7.8),
        ("AV:N/AC:L/Au:N/C:C/I:C/A:C", 10.0),
        ("AV:L/AC:H/Au:N/C:C/I:C/A:C", 6.2),
        ("(AV:N/AC:L/Au:N/C:N/I:N/A:N)", 0.0),
    ],
)
def test_a_vector_has_the_score_of_its_specification(vector, score):
    assert base_score(vector) == score


@pytest.mark.parametrize(
    "vector",
    [
        "",
        "7.5",
        "CVSS:3.1",
        "CVSS:3.1/AV:N",
        "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
        "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
        "AV:N/AC:L",
        "/////",
    ],
)
def test_what_is_no_whole_vector_has_no_score(vector):
    assert base_score(vector) is None


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_any_text_is_a_score_or_none(text):
    assert 0 <= (base_score(text) or 0) <= 10


def test_worse_is_never_less():
    for scope, vector, other in itertools.product("UC", "NALP", ("AC:L/PR:N/UI:N", "AC:H/PR:H/UI:R")):
        scores = [base_score(f"CVSS:3.1/AV:{vector}/{other}/S:{scope}/C:{each}/I:L/A:L") or 0 for each in "NLH"]
        assert scores == sorted(scores)


def test_a_score_has_a_word():
    assert [rating(each) for each in (0.0, 0.1, 4.0, 7.0, 9.0)] == list(reversed(Severity))
