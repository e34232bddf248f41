"""Facts to findings: what the engine promises about every check."""

from __future__ import annotations

import datetime as dt

import msgspec

from agent.advisories.advisory import Advisories, Shard
from agent.config import Config
from agent.evaluate import evaluate
from agent.knowledge import OperatingSystems, load
from agent.model import Duty, Fact, Finding, Moment, Seen, Severity, Unknown, check
from tests.fakes.trees import NOW


class Doors(Fact, frozen=True, kw_only=True):
    open: tuple[str, ...] = ()


class Windows(Fact, frozen=True, kw_only=True):
    open: tuple[str, ...] = ()


@check(severity=Severity.HIGH, duty=Duty.ACCESS, fix="Close it.")
def door_open(doors: Doors):
    """A door is open."""
    for door in doors.open:
        yield Finding(subject=door, detail=f"{door} is open")


@check(severity=Severity.LOW, duty=Duty.ACCESS, fix="Close it.")
def draught(doors: Doors, windows: Windows):
    """A door and a window are open."""
    if doors.open and windows.open:
        yield Finding(subject="house", detail="there is a draught", severity=Severity.MEDIUM, fix="Close the window.")


@check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
def broken(doors: Doors):
    """A check with a defect."""
    yield Finding(subject="before", detail="seen before it broke")
    raise ZeroDivisionError(doors)


@check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
def everything(doors: Doors, config: Config, systems: OperatingSystems, moment: Moment):
    """A check that asks for all that can be had."""
    yield Finding(
        subject="all", detail=f"{len(doors.open)} {config.fail_on.value} {len(systems.releases) > 3} {moment.now:%Y}"
    )


EARLIER = NOW.now - dt.timedelta(minutes=5)


def judge(*checks, **facts):
    kinds = {"doors": Doors, "windows": Windows}
    seen = {kinds[name]: Seen(fact=fact, taken=NOW.now) for name, fact in facts.items()}
    return evaluate(checks, seen, Config(), NOW)


def test_nothing_found_is_a_pass():
    (outcome,) = judge(door_open, doors=Doors())
    assert (outcome.findings, outcome.unknowns) == ((), ())


def test_a_fact_that_was_not_looked_at_gives_no_outcome():
    assert [outcome.check for outcome in judge(door_open, draught, doors=Doors())] == ["door-open"]


def test_a_finding_is_completed_from_its_check():
    ((finding,),) = [outcome.findings for outcome in judge(door_open, doors=Doors(open=("front",)))]
    assert (finding.check, finding.severity, finding.fix) == ("door-open", Severity.HIGH, "Close it.")


def test_what_a_finding_says_itself_stands():
    ((finding,),) = [o.findings for o in judge(draught, doors=Doors(open=("a",)), windows=Windows(open=("b",)))]
    assert (finding.severity, finding.fix) == (Severity.MEDIUM, "Close the window.")


def test_two_findings_of_one_subject_are_one_and_the_worse():
    @check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
    def twice(doors: Doors):
        """The same subject twice."""
        for severity in (Severity.LOW, Severity.CRITICAL, Severity.MEDIUM):
            yield Finding(subject=doors.open[0], detail=severity.value, severity=severity)

    ((finding,),) = [outcome.findings for outcome in judge(twice, doors=Doors(open=("front",)))]
    assert finding.severity is Severity.CRITICAL


def test_an_unknown_fact_makes_each_of_its_checks_unknown():
    unseen = Unknown(reason="locked", hint="unlock")
    first, second = judge(door_open, draught, doors=unseen, windows=Windows())
    assert first.unknowns == second.unknowns == (unseen,)
    assert not first.findings


def test_the_gaps_of_a_fact_are_unknowns_of_its_checks():
    gap = Unknown(reason="dark", scope="cellar")
    (outcome,) = judge(door_open, doors=Doors(open=("front",), gaps=(gap,)))
    assert outcome.unknowns == (gap,)
    assert [finding.subject for finding in outcome.findings] == ["front"]


def test_a_check_that_raises_is_unknown_with_its_reason_and_stops_no_other():
    outcomes = {outcome.check: outcome for outcome in judge(broken, door_open, doors=Doors(open=("front",)))}
    assert outcomes["broken"].findings == ()
    assert "ZeroDivisionError" in outcomes["broken"].unknowns[0].reason
    assert len(outcomes["door-open"].findings) == 1


def test_a_check_gets_time_configuration_and_tables_by_asking():
    ((finding,),) = [outcome.findings for outcome in judge(everything, doors=Doors())]
    assert finding.detail == "0 high True 2026"


def test_an_outcome_is_as_old_as_its_oldest_fact():
    seen = {Doors: Seen(fact=Doors(), taken=NOW.now), Windows: Seen(fact=Windows(), taken=EARLIER)}
    (outcome,) = evaluate([draught], seen, Config(), NOW)
    assert outcome.taken == EARLIER


def test_a_fact_that_a_check_can_do_without_costs_it_nothing():
    @check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
    def airy(doors: Doors, windows: Windows | Unknown):
        """There is air, as far as can be seen."""
        yield Finding(subject="house", detail="no window was seen" if isinstance(windows, Unknown) else "windows")

    gap = Unknown(reason="a blind")
    for seen, detail in (
        ({}, "no window was seen"),
        ({"windows": gap}, "no window was seen"),
        ({"windows": Windows(gaps=(gap,))}, "windows"),
    ):
        (outcome,) = judge(airy, doors=Doors(), **seen)
        assert ([each.detail for each in outcome.findings], outcome.unknowns) == ([detail], ())


def test_what_a_check_cannot_judge_stands_beside_what_it_found():
    gap = Unknown(reason="painted shut", scope="back")

    @check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
    def ajar(doors: Doors):
        """A door is ajar."""
        yield Finding(subject="front", detail="ajar")
        yield gap

    (outcome,) = judge(ajar, doors=Doors())
    assert ([each.subject for each in outcome.findings], outcome.unknowns) == (["front"], (gap,))


def test_without_advisories_a_check_that_needs_them_is_unknown():
    @check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
    def flawed(doors: Doors, advisories: Advisories):
        """A door has a known flaw."""
        yield Finding(subject="front", detail=str(advisories.shards))

    (outcome,) = judge(flawed, doors=Doors())
    assert (outcome.findings, len(outcome.unknowns)) == ((), 1)


def test_a_newer_edition_of_a_table_stands_and_an_older_one_does_not():
    @check(severity=Severity.LOW, duty=Duty.ACCESS, fix="None.")
    def dated(doors: Doors, systems: OperatingSystems):
        """A table is of some day."""
        yield Finding(subject="table", detail=systems.updated.isoformat())

    own = load(OperatingSystems)
    for day, expected in ((dt.date(2099, 1, 1), "2099-01-01"), (dt.date(2000, 1, 1), own.updated.isoformat())):
        edition = msgspec.json.encode(msgspec.structs.replace(own, updated=day)).decode()
        shard = Shard(
            name="x",
            ecosystems=(),
            built=NOW.now,
            newest=NOW.now,
            records=0,
            sources=(),
            tables={OperatingSystems.file: edition},
        )
        known = Advisories([shard], lambda _ecosystem, _name: ())
        (outcome,) = evaluate([dated], {Doors: Seen(fact=Doors(), taken=NOW.now)}, Config(), NOW, known)
        assert [each.detail for each in outcome.findings] == [expected]
