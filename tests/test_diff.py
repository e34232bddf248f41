"""What changed: opened, changed, resolved, and everything that must not count as a change."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.diff import diff
from agent.model import EventKind, Instance, Outcome, Severity, Unknown
from tests.fakes.outcomes import TAKEN, judged, outcome

CATALOGUE = {"door-open"}


def kinds(changes):
    return [(change.kind.value, change.finding.subject) for change in changes]


def test_the_same_findings_twice_are_no_change():
    assert diff([judged("front")], [outcome("front")], CATALOGUE) == ()


def test_better_words_for_the_fix_are_no_change():
    old = msgspec.structs.replace(judged("front"), fix="Shut it.")
    assert diff([old], [outcome("front")], CATALOGUE) == ()


def test_a_check_without_an_outcome_changes_nothing():
    assert diff([judged("front")], [], CATALOGUE) == ()


def test_an_unknown_resolves_nothing():
    assert diff([judged("front")], [outcome(unknown=(Unknown(reason="dark"),))], CATALOGUE) == ()


@pytest.mark.parametrize("subject", ["/opt/conda", "/opt/conda/lib", "/opt/conda#torch", "/opt/conda:x"])
def test_an_unknown_part_resolves_nothing_in_that_part(subject):
    gap = Unknown(reason="no right", scope="/opt/conda")
    assert diff([judged(subject)], [outcome(unknown=(gap,))], CATALOGUE) == ()


@pytest.mark.parametrize("subject", ["/opt/conda2", "/opt", "conda"])
def test_an_unknown_part_does_not_hide_what_is_beside_it(subject):
    gap = Unknown(reason="no right", scope="/opt/conda")
    assert kinds(diff([judged(subject)], [outcome(unknown=(gap,))], CATALOGUE)) == [("resolved", subject)]


def test_what_is_found_is_opened_and_what_is_gone_is_resolved():
    assert kinds(diff([judged("front")], [outcome("back")], CATALOGUE)) == [("opened", "back"), ("resolved", "front")]


def test_a_changed_detail_is_one_changed_event_with_the_severity_before():
    before = judged("front", detail="ajar", severity=Severity.LOW)
    (change,) = diff([before], [outcome("front")], CATALOGUE)
    assert (change.kind, change.previous) == (EventKind.CHANGED, Severity.LOW)


def test_a_check_that_no_longer_exists_resolves_its_findings_with_that_reason():
    (change,) = diff([judged("front", check="gone")], [outcome()], CATALOGUE)
    assert (change.kind, change.reason) == (EventKind.RESOLVED, "the check no longer exists")


SUBJECTS = st.frozensets(st.sampled_from(["a", "a/b", "a/b/c", "b", "c#d"]))


@given(before=SUBJECTS, now=SUBJECTS, scope=st.sampled_from([None, "", "a", "a/b", "c"]))
def test_applying_the_changes_gives_what_is_true_now(before, now, scope):
    unknown = () if scope is None else (Unknown(reason="dark", scope=scope),)
    changes = diff([judged(each) for each in before], [outcome(*now, unknown=unknown)], CATALOGUE)
    held = set(before)
    for change in changes:
        subject = change.finding.subject
        held.discard(subject) if change.kind is EventKind.RESOLVED else held.add(subject)
    kept = {each for each in before - now if any(gap.covers(each) for gap in unknown)}
    assert held == set(now) | kept


def in_places(*places):
    return msgspec.structs.replace(judged("front"), instances=tuple(Instance(place=each) for each in places))


def test_a_finding_stays_open_while_one_of_its_places_cannot_be_looked_at():
    gap = Unknown(reason="no right", scope="/opt/conda")
    assert diff([in_places("/opt/conda/lib", "/usr")], [outcome(unknown=(gap,))], CATALOGUE) == ()
    assert kinds(diff([in_places("/usr")], [outcome(unknown=(gap,))], CATALOGUE)) == [("resolved", "front")]


def test_a_place_that_cannot_be_looked_at_stays_one_of_its_places():
    seen = Outcome(check="door-open", taken=TAKEN, findings=(in_places("/usr"),))
    gap = Unknown(reason="no right", scope="/opt/conda")
    before = in_places("/opt/conda", "/usr")
    assert diff([before], [msgspec.structs.replace(seen, unknowns=(gap,))], CATALOGUE) == ()
    (change,) = diff([before], [seen], CATALOGUE)
    assert (change.kind, [each.place for each in change.finding.instances]) == (EventKind.CHANGED, ["/usr"])
