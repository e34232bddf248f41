"""Errors of GPUs over time: what is counted, what is carried from look to look, and what ends an error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import collect
from agent.config import Config
from agent.facts.xid import LOG_SUBJECT, Card, GpuErrors, Need, gpu_errors
from agent.host import Host
from agent.model import CannotLookError
from tests.fakes.kernel_log import LOADED, SECOND, log, machine, record
from tests.fakes.nvml import address, uuid
from tests.fakes.trees import plant


def xid(code, *, gpu=0, by="python3", text="something"):
    return f"NVRM: Xid (PCI:{address(gpu)[:-2]}): {code}, pid=4711, name={by}, {text}"


def recovery(number, *, gpu=0):
    words = {0: "None", 1: "GPU Reset Required", 2: "Node Reboot Required"}
    return (
        f"NVRM: Xid (PCI:{address(gpu)[:-2]}): 154, "
        f"GPU recovery action changed from 0x9 (x) to {number:#x} ({words[number]})"
    )


def look(host: Host, earlier: GpuErrors | None = None) -> GpuErrors:
    """One look, and what is kept of it comes back as it went."""
    seen = gpu_errors(host, Config(), earlier)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=GpuErrors) == seen
    return seen


def looks(root, *logs: bytes) -> GpuErrors:
    """One look after the other at logs that follow each other."""
    seen = None
    for number, content in enumerate(logs):
        (root / str(number)).mkdir(parents=True, exist_ok=True)
        seen = look(machine(root / str(number), content, models=("NVIDIA H100", "NVIDIA H100")), seen)
    assert seen is not None
    return seen


def counts(seen: GpuErrors):
    return {(each.address, each.code): each.count for each in (*seen.errors, *seen.switch_errors)}


ONE = (address(0), 79)


def test_a_machine_without_gpu_and_driver_is_not_looked_at(tmp_path):
    device = {"/sys/bus/pci/devices/0000:00:03.0/vendor": "0x1af4\n"}
    assert look(plant(tmp_path, device)) == look(plant(tmp_path, {})) == GpuErrors()


def test_a_machine_whose_gpus_are_well_has_no_errors(tmp_path):
    seen = looks(tmp_path, log("Linux version 6.1", LOADED, "nvidia-modeset: Loading"))
    assert (seen.errors, seen.needs, seen.switch_errors, seen.gaps, seen.cards) == ((), (), (), (), ())


def test_a_gpu_without_driver_or_a_switch_is_enough_to_look(tmp_path):
    host = machine(tmp_path, log(xid(79)))
    (tmp_path / "proc/driver/nvidia/version").unlink()
    assert look(host) == GpuErrors()
    plant(tmp_path, {"/sys/bus/pci/devices/0000:05:00.0/vendor": "0x10de\n"})
    assert counts(look(host)) == {ONE: 1}


def test_an_error_is_counted_with_its_first_and_last_time_and_whom_it_hit(tmp_path):
    seen = looks(tmp_path, log("Linux", xid(31, by="train"), xid(31, by="serve"), xid(31, by="serve")))
    (error,) = seen.errors
    assert (error.address, error.code, error.count, error.pid) == (address(0), 31, 3, 4711)
    assert (error.first, error.last) == (120 * SECOND, 240 * SECOND)
    assert (error.processes, error.process) == (("train", "serve"), "serve")
    assert seen.cards == (Card(address=address(0), uuid=uuid(0), model="NVIDIA H100"),)


def test_errors_of_two_gpus_and_of_a_switch_are_kept_apart(tmp_path):
    switch = "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 79, Fatal, Link 30"
    seen = looks(tmp_path, log(xid(79), xid(79, gpu=1), xid(79), switch))
    assert [(each.address, each.count) for each in seen.errors] == [(address(0), 2), (address(1), 1)]
    assert [(each.address, each.fatal) for each in seen.switch_errors] == [("0000:00:00.0", True)]


def test_a_gpu_that_fell_off_the_bus_is_counted_once_for_the_two_lines_about_it(tmp_path):
    other = f"NVRM: GPU {address(0)}: GPU has fallen off the bus."
    assert counts(looks(tmp_path / "a", log(xid(79), other))) == {ONE: 1}
    assert counts(looks(tmp_path / "b", log(other))) == {ONE: 1}


@pytest.mark.parametrize("facility", [1, 3, 4, 23, 100])
def test_what_programs_write_into_the_log_is_ignored(tmp_path, facility):
    forged = log(xid(79), recovery(2), LOADED, facility=facility)
    assert counts(looks(tmp_path, forged)) == {}
    ending = log(xid(79)) + log(recovery(0), LOADED, begin=1, at=3600 * SECOND, facility=facility)
    assert counts(looks(tmp_path, ending)) == {ONE: 1}


@pytest.mark.parametrize("splits", [(), (1,), (2, 2), (1, 2, 3, 3)])
def test_no_look_counts_an_error_twice_or_misses_one(tmp_path, splits):
    texts = ("Linux", xid(79), xid(31), xid(79))
    whole = [log(*texts[:until]) for until in (*splits, 4, 4)]
    seen = looks(tmp_path, *whole)
    assert counts(seen) == {ONE: 2, (address(0), 31): 1}
    assert seen.gaps == ()


def test_what_the_log_no_longer_holds_is_remembered(tmp_path):
    seen = looks(tmp_path, log(xid(79), "a", "b"), log("c", "d", begin=3), log("e", begin=5))
    assert (counts(seen), seen.gaps) == ({ONE: 1}, ())


def test_silence_ends_nothing(tmp_path):
    quiet = (log(*["nothing"] * 9, begin=1 + 9 * number, at=3600 * SECOND * number) for number in range(1, 9))
    assert counts(looks(tmp_path, log(xid(79), xid(13)), *quiet)) == {ONE: 1, (address(0), 13): 1}


def test_records_that_were_overwritten_unread_are_said_once_and_hide_no_finding_but_their_own(tmp_path):
    first = looks(tmp_path, log(xid(79)), log("late", begin=50, at=7200 * SECOND))
    assert counts(first) == {ONE: 1}
    (gap,) = first.gaps
    assert "first 121 minutes" in gap.reason
    assert gap.scope == LOG_SUBJECT
    again = look(machine(tmp_path / "x", log("late", "later", begin=50, at=7200 * SECOND)), first)
    assert again.gaps == first.gaps


def test_what_was_overwritten_before_the_driver_was_loaded_does_not_matter(tmp_path):
    assert looks(tmp_path, log("late", LOADED, xid(31), begin=4000)).gaps == ()


def test_another_boot_ends_all(tmp_path):
    seen = looks(tmp_path, log(xid(79)))
    after = machine(tmp_path / "after", log("Linux"))
    (tmp_path / "after/proc/sys/kernel/random/boot_id").write_text("another")
    again = look(after, seen)
    assert (again.errors, again.cards, again.boot) == ((), (), "another")


def test_a_driver_that_is_loaded_anew_ends_what_was_before_it(tmp_path):
    switch = "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30"
    seen = looks(tmp_path, log(xid(79), switch, recovery(1), LOADED), log(xid(31), begin=4, at=9000 * SECOND))
    assert (counts(seen), seen.needs) == ({(address(0), 31): 1}, ())


def test_an_error_while_the_driver_is_loaded_is_not_ended_by_that_it_is_loaded(tmp_path):
    content = record(xid(79), sequence=0, at=60 * SECOND) + record(LOADED, sequence=1, at=61 * SECOND)
    assert counts(looks(tmp_path, content)) == {ONE: 1}


def test_a_gpu_that_needs_nothing_any_more_is_well_and_the_others_are_not(tmp_path):
    seen = looks(tmp_path, log(xid(48), recovery(1), xid(13), xid(48, gpu=1), recovery(1, gpu=1), recovery(0)))
    assert counts(seen) == {(address(1), 48): 1}
    assert [(each.address, each.action) for each in seen.needs] == [(address(1), 1)]
    assert [card.key for card in seen.cards] == [uuid(1)]


def test_what_a_gpu_needs_is_what_was_said_last(tmp_path):
    seen = looks(tmp_path, log(recovery(1)), log(recovery(1), recovery(2)))
    assert seen.needs == (Need(address=address(0), action=2, since=120 * SECOND),)
    unclear = f"NVRM: Xid (PCI:{address(0)[:-2]}): 154, GPU recovery action is another one"
    assert looks(tmp_path, log(unclear)).needs == (Need(address=address(0), action=None, since=60 * SECOND),)


def test_a_gpu_that_vanishes_keeps_its_name(tmp_path):
    seen = looks(tmp_path, log(xid(79)))
    gone = look(machine(tmp_path / "gone", log(xid(79), xid(79)), models=()), seen)
    assert gone.cards == seen.cards
    without = machine(tmp_path / "without", log(xid(79), xid(79), xid(79)), models=())
    (tmp_path / "without/proc/driver/nvidia/version").unlink()
    assert counts(look(without, gone)) == {ONE: 3}


def test_a_gpu_that_was_not_opened_yet_is_known_by_its_place(tmp_path):
    host = machine(tmp_path, log(xid(79)))
    path = tmp_path / f"proc/driver/nvidia/gpus/{address(0)}/information"
    path.write_text("Model: \t\t Tesla T4\nGPU UUID: \t GPU-????????-????-????-????-????????????\n")
    (card,) = look(host).cards
    assert (card.key, card.model) == (address(0), "Tesla T4")


def test_a_log_that_cannot_be_read_is_no_answer(tmp_path):
    with pytest.raises(CannotLookError, match="/dev/kmsg"):
        look(machine(tmp_path, None))


def test_a_log_that_cannot_be_read_any_more_costs_no_memory_and_leaves_everything_open(tmp_path):
    seen = looks(tmp_path, log(xid(79)))
    dark = look(machine(tmp_path / "dark", None), seen)
    assert counts(dark) == {ONE: 1}
    assert [gap.scope for gap in dark.gaps] == [""]
    again = look(machine(tmp_path / "again", log(xid(79), xid(79))), dark)
    assert (counts(again), again.gaps) == ({ONE: 2}, ())


def test_the_fact_stays_the_same_while_the_kernel_logs_other_things(tmp_path):
    """Else everything would be judged and shipped anew each time."""
    first = looks(tmp_path, log(xid(79), *["x"] * 50))
    later = look(machine(tmp_path / "later", log(xid(79), *["x"] * 90)), first)
    assert later == first
    rolled = look(machine(tmp_path / "rolled", log(*["x"] * 100, begin=45, at=9000 * SECOND)), later)
    assert (rolled.position, rolled.gaps) == (144, ())


def test_a_flood_is_counted_in_little_space(tmp_path):
    flood = b"".join(
        record(xid(31, by=f"job-{number}"), sequence=number, at=number * 1000) for number in range(100_000)
    )
    seen = looks(tmp_path, flood)
    (error,) = seen.errors
    assert (error.count, error.last, error.process) == (100_000, 99_999_000, "job-99999")
    assert error.processes == ("job-0", "job-1", "job-2", "job-3")
    assert len(msgspec.json.encode(seen)) < 1000


def test_a_flood_of_different_errors_has_a_limit_and_that_is_said(tmp_path):
    seen = looks(tmp_path, log(*(xid(code) for code in range(2000, 4000))))
    assert len(seen.errors) == 1000
    assert [gap.scope for gap in seen.gaps] == [""]


@settings(max_examples=50)
@given(content=st.binary(max_size=300), texts=st.lists(st.sampled_from([xid(79), LOADED, recovery(0), "x"])))
def test_any_log_is_read_without_an_error(tmp_path_factory, content, texts):
    root = tmp_path_factory.mktemp("machine")
    seen = look(machine(root, log(*texts) + content + b"\n" + log(xid(13), begin=10**6)))
    assert (address(0), 13) in counts(seen)


def test_what_is_remembered_passes_through_the_snapshot(tmp_path):
    first = collect.collect([gpu_errors], machine(tmp_path, log(xid(79))), Config())
    text = collect.encode(first)
    later = machine(tmp_path / "later", log("x", begin=1))
    (second,) = collect.collect([gpu_errors], later, Config(), earlier=collect.remembered(text))
    assert isinstance(second.fact, GpuErrors)
    assert counts(second.fact) == {ONE: 1}
