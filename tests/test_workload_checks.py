"""Misuse of GPUs: what stays quiet, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from agent.checks.workloads import gpu_process_mines, process_concealed
from agent.facts.workload import Program, Workload
from agent.facts.workloads import Workloads


def work(path="/opt/conda/bin/python3.11", **said):
    ordinary: dict[str, Any] = {"pid": 7, "started": 9, "uid": 1000, "user": "ann", "program": Program(path=path)}
    return Workload(**(ordinary | said))


@pytest.mark.parametrize(
    "workloads",
    [
        Workloads(),
        Workloads(workloads=(work(frameworks=("torch",)), work("/usr/bin/hashcat"), work("/opt/gromacs/bin/gmx"))),
        Workloads(complete=False, ending=(12,)),
    ],
    ids=["no GPU work", "training, a pentest and a simulation", "not all seen"],
)
def test_ordinary_work_is_quiet(workloads):
    assert [*gpu_process_mines(workloads), *process_concealed(workloads)] == []


def test_a_miner_is_one_finding_however_many_processes_it_has():
    miner = work("/tmp/x", named=("stratum",))
    (finding,) = gpu_process_mines(Workloads(workloads=(miner, work("/tmp/x", pid=8, named=("miner-flag",)), work())))
    assert finding.subject == "program:/tmp/x:ann"
    assert finding.detail == "/tmp/x of user ann bears the marks of a miner: miner-flag, stratum"


def test_the_same_program_of_two_users_is_two_findings():
    found = Workloads(workloads=(work("/x", named=("stratum",)), work("/x", user="", uid=33, named=("stratum",))))
    assert [each.subject for each in gpu_process_mines(found)] == ["program:/x:ann", "program:/x:33"]


def test_a_concealed_process_is_told_without_its_number():
    (finding,) = process_concealed(Workloads(hidden=(4711,)))
    assert finding.subject == "processes"
    assert "4711" not in finding.detail
