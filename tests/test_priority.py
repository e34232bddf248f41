"""How urgent a flaw is: the table of docs/vulnerabilities.md, cell by cell."""

from __future__ import annotations

import itertools

import pytest

from agent.advisories.priority import rank
from agent.facts.use import Use
from agent.model import Severity
from tests.fakes.advisories import an_advisory

USES = (Use.GPU, Use.LOADED, Use.ENVIRONMENT, None, Use.IDLE)
TABLE = {
    # what it is: seen in use by a GPU process, in use, its environment in use, unknown, not in use since the boot
    "malicious": "critical critical critical critical critical",
    "exploited": "critical critical high high high",
    "critical": "high high medium medium low",
    "high": "medium medium low low low",
    "medium": "low low low low info",
    "": "low low low low info",
    "low": "info info info info info",
    "critical likely": "high high high high medium",
    "high likely": "high high medium medium medium",
    "medium likely": "medium medium medium medium low",
}
CELLS = [(row, use, word) for row, words in TABLE.items() for use, word in zip(USES, words.split(), strict=True)]


def advisory(row):
    if row == "malicious":
        return an_advisory("MAL-1", malicious=True)
    if row == "exploited":
        return an_advisory("CVE-1", known_exploited=True)
    severity, _, likely = row.partition(" ")
    return an_advisory(
        "CVE-1", severity=Severity(severity) if severity else None, exploit_probability=0.1 if likely else 0.09
    )


@pytest.mark.parametrize(("row", "use", "expected"), CELLS)
def test_the_step_is_that_of_the_table(row, use, expected):
    assert rank(advisory(row), use, is_fixable=True).severity is Severity(expected)


@pytest.mark.parametrize(("row", "use", "expected"), CELLS)
def test_without_a_fix_it_waits_one_step_behind_unless_it_is_exploited_or_malicious(row, use, expected):
    with_fix, without = (rank(advisory(row), use, is_fixable=each).severity for each in (True, False))
    moved = 0 if row in {"malicious", "exploited"} or with_fix is Severity.INFO else 1
    assert without.rank == with_fix.rank + moved


def test_more_use_is_never_less_urgent():
    order = (Use.GPU, Use.LOADED, Use.ENVIRONMENT, Use.IDLE)
    for row, (more, less) in itertools.product(TABLE, itertools.pairwise(order)):
        first, second = (rank(advisory(row), use, is_fixable=True).severity for use in (more, less))
        assert first.at_least(second), (row, more, less)


def test_twenty_idle_environments_with_an_old_pip_are_no_reason_to_hurry():
    pip = an_advisory("CVE-2023-5752", "0..23.3", severity=Severity.MEDIUM)
    assert rank(pip, Use.IDLE, is_fixable=True).severity is Severity.INFO
    assert rank(pip, None, is_fixable=True).severity is Severity.LOW


def test_the_reasons_are_words():
    torch = an_advisory("CVE-1", severity=Severity.CRITICAL, known_exploited=True, ransomware=True)
    said = rank(torch, Use.GPU, is_fixable=True, fixed="2.6.0").words
    assert said == "in use by a GPU process; critical; known exploited; used by ransomware; fixed in 2.6.0"


def test_what_cannot_be_known_is_said():
    said = rank(an_advisory("CVE-1"), None, is_fixable=False).words
    assert said == "whether it is in use cannot be seen; severity not rated; no fixed version is known"
    assert rank(an_advisory("CVE-1"), Use.IDLE, is_fixable=True).words.endswith("later versions are not affected")


def test_what_a_fix_costs_is_said():
    said = rank(an_advisory("CVE-1", fix_needs="Ubuntu Pro"), None, is_fixable=False).words
    assert said.endswith("the fix needs Ubuntu Pro")
