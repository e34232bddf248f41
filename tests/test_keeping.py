"""Keeping what was seen: at once while that is rare, once a minute else, and not at all when nothing changed."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from agent import collect, discovery
from agent.host import Host
from agent.keeping import Keeper
from agent.kernel_log import KernelLog
from agent.model import Fact, Unknown, probe
from agent.state import State
from tests.fakes.trees import plant

DAY = 86400.0
PROBES = {probe.name: probe for probe in discovery.probes()}


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


class Load(Fact, frozen=True, kw_only=True):
    percent: int


@probe(volatile=True)
def load(host, config) -> Load:
    """How busy it is."""
    return Load(percent=0)


def load_of(percent):
    fact = Unknown(reason="dark") if percent is None else Load(percent=percent)
    return collect.Look(probe=load, taken=dt.datetime.now(dt.timezone.utc), seconds=0.0, fact=fact)


def kept_load(state):
    (each,) = [each for each in json.loads(state.read(state.snapshot))["looks"] if each["probe"] == "load"]
    return (each["fact"] or {}).get("percent")


def look(reason, *, name="machine"):
    taken = dt.datetime.now(dt.timezone.utc)
    return collect.Look(probe=PROBES[name], taken=taken, seconds=0.0, fact=Unknown(reason=reason))


def kept(state):
    text = state.read(state.snapshot)
    looks = json.loads(text)["looks"] if text else []
    return {each["probe"]: each["unknown"]["reason"] for each in looks if each["unknown"]}


def see(keeper, now, *looks):
    for each in looks:
        keeper.note(each, now, refresh=DAY)
    keeper.keep(now)


def test_what_is_the_same_is_not_written_again_until_its_time_would_be_old(state):
    keeper = Keeper(state, 0)
    see(keeper, 0, look("a"))
    before = state.signature(state.snapshot)
    for hour in range(1, 24):
        see(keeper, hour * 3600.0, look("a"))
    assert state.signature(state.snapshot) == before
    see(keeper, DAY, look("a"))
    assert state.signature(state.snapshot) != before


def test_what_changed_is_written_at_once_and_what_others_saw_stays(state):
    keeper = Keeper(state, 0)
    see(keeper, 0, look("a"), look("x", name="image"))
    see(keeper, 1, look("b"))
    assert kept(state) == {"machine": "b", "image": "x"}


def test_what_changes_all_the_time_is_written_once_a_minute_and_then_as_it_is(state):
    keeper, writes, before = Keeper(state, 0), 0, ()
    for second in range(600):
        see(keeper, float(second), look(f"{second}"))
        writes += state.signature(state.snapshot) != before
        before = state.signature(state.snapshot)
    assert 10 <= writes <= 15
    see(keeper, 700.0)
    assert kept(state) == {"machine": "599"}


def test_what_changed_and_changed_back_before_it_was_written_is_not_written(state):
    keeper = Keeper(state, 0)
    for number in range(6):
        see(keeper, 0.0, look(f"{number}"))
    before = kept(state)
    see(keeper, 1.0, look(before["machine"]))
    see(keeper, 100.0)
    assert kept(state) == before


def test_what_is_volatile_is_written_seldom_and_along_with_what_is_news(state):
    keeper, writes, before = Keeper(state, 0), 0, ()
    for second in range(0, 3600, 60):
        see(keeper, float(second), load_of(second))
        writes += state.signature(state.snapshot) != before
        before = state.signature(state.snapshot)
    assert writes == 6
    see(keeper, 3601.0, load_of(7), look("a"))
    assert (kept(state), kept_load(state)) == ({"machine": "a"}, 7)


def test_a_volatile_probe_that_remembers_is_handed_what_was_not_written_either(state):
    keeper = Keeper(state, 0)
    see(keeper, 0, load_of(1))
    see(keeper, 1, load_of(2))
    assert (keeper.earlier(load), kept_load(state)) == (Load(percent=2), 1)


def test_that_a_volatile_probe_cannot_look_any_more_is_news(state):
    keeper = Keeper(state, 0)
    for second, percent in enumerate((1, None, 2)):
        see(keeper, float(second), load_of(percent))
        assert kept_load(state) == percent


def test_what_somebody_else_wrote_meanwhile_is_replaced_by_the_next_look(state):
    keeper = Keeper(state, 0)
    see(keeper, 0, look("a"))
    state.write(state.snapshot, collect.encode([look("by a scan")]))
    see(keeper, 1, look("a"))
    assert kept(state) == {"machine": "a"}


def test_a_damaged_snapshot_is_replaced(state):
    state.write(state.snapshot, b"{")
    see(Keeper(state, 0), 0, look("a"))
    assert kept(state) == {"machine": "a"}


def test_a_full_disk_is_told_and_what_could_not_be_kept_is_kept_later(small_disk):
    state = State(str(small_disk / "state"))
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 900_000)
    keeper = Keeper(state, 0)
    see(keeper, 0, look("a" * 500_000))
    assert "no space left" in keeper.problem
    filler.unlink()
    see(keeper, 30)
    assert keeper.problem, "not tried all the time"
    see(keeper, 61)
    assert (keeper.problem, len(kept(state)["machine"])) == ("", 500_000)


def test_the_kernel_log_begins_at_its_end_and_leaves_out_what_programs_write(tmp_path):
    host = plant(tmp_path, {"dev/kmsg": "6,1,1,-;old\n"})
    log = KernelLog(host)
    assert log.lines() == []
    for line in ("6,2,2,-;NVRM: Xid (PCI:0000:00:04): 79\n", "12,3,3,-;NVRM: Xid forged by a user\n", "garbage\n"):
        with (tmp_path / "dev/kmsg").open("a") as file:
            file.write(line)
        found = log.lines()
        assert ("79" in "".join(found)) == ("79" in line)
        assert not any("forged" in each for each in found)
    log.close()
    assert log.lines() == []


def test_a_kernel_log_that_may_not_be_read_has_no_lines(tmp_path):
    log = KernelLog(Host(str(tmp_path)))
    assert (log.is_open, log.lines()) == (False, [])


def test_what_changes_all_the_time_is_kept_seldom_and_its_newest_state_in_the_end(state):
    keeper = Keeper(state, 0)
    settles = PROBES["workloads"].settles.total_seconds()
    see(keeper, 0, look("a", name="workloads"))
    assert kept(state) == {"workloads": "a"}, "what is new is kept at once"
    for minute in range(1, int(settles // 60)):
        see(keeper, minute * 60.0, look(f"{minute}", name="workloads"))
    assert kept(state)["workloads"] == "a"
    see(keeper, settles - 1, look("along", name="workloads"), look("other"))
    assert kept(state)["workloads"] == "along", "it goes along with what is written anyhow"
    see(keeper, 2 * settles, look("b", name="workloads"))
    assert kept(state)["workloads"] == "b"
