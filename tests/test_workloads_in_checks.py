"""Other checks say when what they found is part of GPU work."""

from __future__ import annotations

import pytest

from agent import knowledge
from agent.checks.models import model_file_changed
from agent.checks.ports import listener_unexpected, service_exposed
from agent.config import Config
from agent.facts.models import ModelDirectory, Models
from agent.facts.ports import Exposure, Listener, Listeners
from agent.facts.workload import Container, OpenPort, Program, Workload
from agent.facts.workloads import Workloads
from agent.integrity.manifest import Difference, FileRecord
from agent.knowledge import Services
from agent.model import Unknown

SERVICES = knowledge.load(Services)
NOTEBOOK = Listener(
    protocol="tcp", port=8888, address="0.0.0.0", exposure=Exposure.WILDCARD, dynamic=False, uid=1000, user="ada",
    process="jupyter-lab", pid=70,
)  # fmt: skip
OTHER = Listener(
    protocol="tcp", port=4321, address="0.0.0.0", exposure=Exposure.WILDCARD, dynamic=False, uid=1000, user="ada",
    process="python", pid=70,
)  # fmt: skip
PORT = OpenPort(port=8888, address="0.0.0.0", exposure=Exposure.WILDCARD)


def work(pid=70, **fields) -> Workloads:
    return Workloads(workloads=(Workload(pid=pid, started=1, uid=1000, user="ada", **fields),))


def exposed(workloads):
    (finding,) = service_exposed(Listeners(listeners=(NOTEBOOK,)), SERVICES, Config(), workloads)
    return finding.detail


@pytest.mark.parametrize(
    "workloads",
    [
        Unknown(reason="not looked"),
        Workloads(),
        work(71),
        work(71, ports=(PORT,), container=Container(kind="docker", id="ab" * 32)),
    ],
)
def test_a_port_of_nothing_that_uses_a_gpu_is_said_as_ever(workloads):
    assert "GPU" not in exposed(workloads)


def test_a_port_of_gpu_work_is_said_to_be_one():
    assert "uses a GPU with torch" in exposed(work(frameworks=("torch",)))
    assert "uses a GPU;" in exposed(work(71, ports=(PORT,)))
    (finding,) = listener_unexpected(Listeners(listeners=(OTHER,)), SERVICES, Config(), work())
    assert finding.detail.endswith(", which uses a GPU")


def changed(workloads):
    was, now = (
        FileRecord(path="model.safetensors", kind="file", size=size, mode=0o644, sha256=str(size) * 64)
        for size in (1, 2)
    )
    difference = Difference(path="model.safetensors", how="changed", approved=was, present=now)
    directory = ModelDirectory(path="/models/llama", why="configured", present=True, files=1, differences=(difference,))
    (finding,) = model_file_changed(Models(directories=(directory,), approvals_read=True), workloads)
    return finding.detail


def test_a_changed_model_that_is_open_in_gpu_work_is_said_to_be():
    open_in = {"models": ("/models/llama/model.safetensors",), "program": Program(script="/srv/serve.py")}
    assert "open in" not in changed(Workloads())
    assert "open in" not in changed(Unknown(reason="not looked"))
    assert changed(work(**open_in)).endswith("; open in /srv/serve.py of ada")
