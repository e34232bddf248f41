"""Who may answer for which finding, and for how long."""

from __future__ import annotations

import datetime as dt

import pytest

from agent.advisories.matching import match
from agent.advisories.suppression import LONGEST, Suppressions, is_expired, is_too_long, key
from agent.config import ConfigError, SuppressSection, parse
from agent.facts.vex import Vex
from agent.facts.vex import parse as parse_vex
from agent.inventory import Component
from agent.model import Unknown
from tests.fakes.advisories import an_advisory, known
from tests.fakes.trees import NOW
from tests.fakes.vex import a_document, a_statement

TODAY = NOW.now.date()
NO_DOCUMENTS = Vex()


def an_entry(**more):
    fields = {"id": "CVE-2025-32434", "reason": "not reachable", "owner": "Ann", "until": TODAY, **more}
    return SuppressSection(**fields)


def a_match(*, name="torch", place="/opt/venv", **more):
    advisory = an_advisory("CVE-2025-32434", "0..2.6.0", ids=("CVE-2025-32434", "GHSA-53q9-r3pm-6pq6"), **more)
    component = Component(ecosystem="PyPI", name=name, version="2.1.0", place=place, kind="venv")
    return match([component], known({("PyPI", name): [advisory]})).vulnerabilities[0].matches[0]


def suppressed(entry, found):
    return Suppressions([entry], NO_DOCUMENTS, NOW.now).of(found)


@pytest.mark.parametrize(
    "more",
    [
        {"id": "CVE-2024-1"},
        {"package": "vllm"},
        {"place": "/srv/*"},
        {"id": "", "package": "vllm"},
        {"id": "", "place": "/opt"},
    ],
)
def test_an_entry_about_something_else_suppresses_nothing(more):
    assert suppressed(an_entry(**more), a_match()) is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"id": "ghsa-53q9-r3pm-6pq6"},
        {"id": "", "package": "Torch"},
        {"id": "", "place": "/opt/*"},
        {"place": "/opt/venv"},
        {"place": "*#torch", "package": "torch"},
    ],
)
def test_an_entry_suppresses_what_it_names_by_any_id_spelling_and_place(more):
    found = suppressed(an_entry(**more), a_match())
    assert found.words == "suppressed by Ann until 2026-11-23: not reachable"


@pytest.mark.parametrize("bad", [{"malicious": True}, {"known_exploited": True}])
def test_what_is_malicious_or_exploited_is_suppressed_by_its_very_id_alone(bad):
    found = a_match(**bad)
    assert suppressed(an_entry(id="", package="torch", place="/opt/*"), found) is None
    assert suppressed(an_entry(), found) is not None


def test_an_entry_holds_through_its_last_day_and_is_remembered_afterwards():
    entry = an_entry(until=TODAY - dt.timedelta(days=1))
    assert (is_expired(an_entry(), TODAY), is_expired(entry, TODAY)) == (False, True)
    assert suppressed(entry, a_match()) is None
    assert Suppressions([entry], NO_DOCUMENTS, NOW.now).expired(a_match()) == entry
    assert Suppressions([an_entry()], NO_DOCUMENTS, NOW.now).expired(a_match()) is None


def test_an_entry_for_more_than_half_a_year_has_no_effect():
    longest, longer = (an_entry(until=TODAY + LONGEST + dt.timedelta(days=more)) for more in (0, 1))
    assert (is_too_long(longest, TODAY), is_too_long(longer, TODAY)) == (False, True)
    assert suppressed(longest, a_match()) is not None
    assert suppressed(longer, a_match()) is None


def test_an_entry_has_a_stable_key():
    assert key(an_entry(package="torch", place="/opt/*")) == "suppression:CVE-2025-32434#torch#/opt/*"


def said(*statements, now=NOW.now, **more):
    documents = parse_vex(a_document(*statements, **more).encode(), "/v.json")
    return Suppressions([], documents, now).of(a_match())


@pytest.mark.parametrize("status", ["not_affected", "fixed"])
def test_a_document_suppresses_with_its_reason(status):
    found = said(a_statement(status=status))
    assert found.words == (
        "suppressed by Ann since 2026-11-01: vulnerable_code_not_in_execute_path torch.load is not called"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"status": "affected"},
        {"status": "under_investigation"},
        {"justification": None, "impact_statement": None},
        {"products": ["pkg:pypi/torch@2.2.0"]},
        {"products": ["pkg:deb/debian/torch"]},
        {"products": ["pkg:pypi/vllm"]},
        {"vulnerability": {"name": "CVE-2024-1"}},
        {"timestamp": "2027-01-01T00:00:00Z"},
    ],
)
def test_a_document_does_not_suppress_without_a_reason_or_about_something_else(more):
    assert said(a_statement(**more)) is None


def test_the_last_statement_counts():
    earlier, later = "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"
    assert said(a_statement(timestamp=earlier), a_statement(timestamp=later, status="affected")) is None
    assert said(a_statement(timestamp=later), a_statement(timestamp=earlier, status="affected")) is not None


def test_a_statement_by_an_alias_and_of_every_version_counts():
    assert said(a_statement(vulnerability="GHSA-53q9-r3pm-6pq6", products=["pkg:pypi/torch"])) is not None


def test_documents_that_were_not_looked_at_suppress_nothing():
    assert Suppressions([], Unknown(reason="not looked at"), NOW.now).of(a_match()) is None


ENTRY = '[[advisories.suppress]]\nid = "CVE-1"\nreason = "r"\nowner = "o"\nuntil = 2027-01-31\n'


def test_an_entry_is_written_as_a_table():
    (entry,) = parse(ENTRY.encode(), path="c.toml").advisories.suppress
    assert (entry.id, entry.until) == ("CVE-1", dt.date(2027, 1, 31))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENTRY.replace('reason = "r"\n', ""), "required field `reason`"),
        (ENTRY.replace('owner = "o"\n', ""), "required field `owner`"),
        (ENTRY.replace("until = 2027-01-31\n", ""), "required field `until`"),
        (ENTRY.replace('"r"', '""'), "advisories.suppress[0].reason"),
        (ENTRY.replace('id = "CVE-1"\n', ""), "expected one of id, package and place"),
        (ENTRY.replace("until = 2027-01-31", 'until = "some day"'), "advisories.suppress[0].until"),
        (ENTRY.replace("reason", "resaon"), "unknown key advisories.suppress[0].resaon; did you mean reason?"),
    ],
)
def test_an_entry_without_its_words_is_refused_by_name(text, expected):
    with pytest.raises(ConfigError) as error:
        parse(text.encode(), path="c.toml")
    assert expected in str(error.value)
