"""Model directories: found, read within the budget, compared with what was approved, and never passed unseen."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys

import msgspec
import pytest

from agent.checks import models as checks
from agent.config import Config, ModelsSection
from agent.evaluate import evaluate
from agent.facts.models import Models, models
from agent.host import Host
from agent.integrity import approval
from agent.integrity.approval import approve
from agent.model import Check, Outcome, Seen, Severity
from agent.state import State
from tests.fakes.trees import NOW, plant

LONG_AGO = 1_600_000_000 * 10**9
HUB = "/home/ann/.cache/huggingface/hub/models--meta--llama"
BLOB = hashlib.sha256(b"weights").hexdigest()
CHECKS = [value for value in vars(checks).values() if isinstance(value, Check)]
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def config(tmp_path):
    return Config(state_directory=str(tmp_path / "state"))


@pytest.fixture
def state(config):
    return State(config.state_directory)


@pytest.fixture
def host(tmp_path):
    files: dict[str, str | bytes] = {"/models/llama/weights.bin": b"weights", "/models/llama/config.json": "{}"}
    return plant(tmp_path / "root", files)


def limited(config: Config, budget: int) -> Config:
    return Config(state_directory=config.state_directory, models=ModelsSection(hash_bytes_per_scan=budget))


def judged(fact: Models) -> dict[str, Outcome]:
    return {
        outcome.check: outcome for outcome in evaluate(CHECKS, {Models: Seen(fact=fact, taken=NOW.now)}, Config(), NOW)
    }


def found(fact: Models) -> list[tuple[str, str]]:
    return [finding.key for outcome in judged(fact).values() for finding in outcome.findings]


def paths(fact: Models) -> dict[str, str]:
    return {directory.path: directory.why for directory in fact.directories}


def test_a_machine_without_models_has_none_and_nothing_is_unknown(tmp_path, config):
    fact = models(plant(tmp_path / "root", {"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/root/": ""}), config)
    assert (fact.directories, fact.gaps, found(fact)) == ((), (), [])


def test_an_approved_directory_is_quiet_and_is_not_read_again(host, config, state):
    approve("/models/llama", state, host=host)
    fact = models(host, config)
    assert (found(fact), fact.gaps) == ([], ())
    (directory,) = fact.directories
    assert (directory.files, directory.bytes, directory.hashed) == (2, 9, 2)
    assert directory.approval is not None
    assert directory.digest == directory.approval.digest


def test_what_is_seen_for_the_first_time_is_unapproved_however_often_it_is_seen(host, config):
    for _ in range(2):
        fact = models(host, config)
        assert found(fact) == [("model-directory-unapproved", "/models/llama")]
    (finding,) = judged(fact)["model-directory-unapproved"].findings
    assert finding.severity is Severity.LOW
    assert finding.fix.endswith("dlvmguard models approve /models/llama")


def test_well_known_places_are_found_in_every_home(tmp_path, config):
    host = plant(
        tmp_path / "root",
        {
            "/etc/passwd": "bob:x:1:1::/srv/bob:/bin/sh\nodd line\nx:x:9:9::/nonexistent:/bin/false\nd:x:1:1::/:\n",
            f"{HUB}/blobs/{BLOB}": b"weights",
            f"{HUB}/snapshots/1/model.safetensors": f"-> ../../blobs/{BLOB}",
            "/home/ann/.cache/huggingface/hub/datasets--squad/blobs/x": b"no model",
            "/srv/bob/.cache/torch/hub/checkpoints/resnet.pth": b"w",
            "/root/.ollama/models/blobs/x": b"w",
            "/usr/share/ollama/.ollama/models/blobs/x": b"w",
            "/models/llama/model.safetensors": b"w",
            "/models/notes/readme.txt": b"not a model",
            "/opt/models/flat.gguf": b"w",
            "/srv/models/deep/er/model.ONNX": b"w",
        },
    )
    assert paths(models(host, config)) == {
        HUB: "Hugging Face cache",
        "/srv/bob/.cache/torch/hub/checkpoints": "torch hub cache",
        "/root/.ollama/models": "Ollama store",
        "/usr/share/ollama/.ollama/models": "Ollama store",
        "/models/llama": "holds model files",
        "/opt/models": "holds model files",
        "/srv/models/deep": "holds model files",
    }


def test_discovery_can_be_left_out_and_directories_can_be_named(tmp_path, config):
    host = plant(
        tmp_path / "root", {"/models/a.bin": b"1", "/data/x/a": b"1", "/home/ann/mine/a": b"1", "/home/bob/": ""}
    )
    named = ModelsSection(discover=False, directories=("/data/x", "~/mine", "~bob/mine", "/data/gone"))
    fact = models(host, Config(state_directory=config.state_directory, models=named))
    assert paths(fact) == {"/data/x": "configured", "/home/ann/mine": "configured"}
    assert [(gap.scope, gap.reason) for gap in fact.gaps] == [("/data/gone", "/data/gone: no such directory")]


def test_what_lies_inside_a_named_directory_is_not_looked_at_twice(host, config):
    named = Config(state_directory=config.state_directory, models=ModelsSection(directories=("/models",)))
    assert paths(models(host, named)) == {"/models": "configured"}


def test_every_way_to_change_an_approved_directory_is_a_finding_of_its_own(host, config, state):
    place = host.place("/models/llama")
    for name in ("tampered", "removed", "moved", "mode", "kind"):
        with open(f"{place}/{name}.bin", "w") as file:
            file.write(name)
    os.symlink("weights.bin", f"{place}/link")
    os.utime(f"{place}/tampered.bin", ns=(LONG_AGO, LONG_AGO))
    approve("/models/llama", state, host=host)
    with open(f"{place}/tampered.bin", "w") as file:
        file.write("TAMPERED")
    os.utime(f"{place}/tampered.bin", ns=(LONG_AGO, LONG_AGO))
    os.unlink(f"{place}/removed.bin")
    os.rename(f"{place}/moved.bin", f"{place}/to.json")
    os.chmod(f"{place}/mode.bin", 0o600)
    os.unlink(f"{place}/kind.bin")
    os.mkfifo(f"{place}/kind.bin")
    os.unlink(f"{place}/link")
    os.symlink("config.json", f"{place}/link")
    with open(f"{place}/loader.py", "w") as file:
        file.write("print()")
    outcomes = judged(models(host, config))
    severities = {
        (finding.check, finding.subject.removeprefix("/models/llama/")): finding.severity
        for outcome in outcomes.values()
        for finding in outcome.findings
    }
    assert severities == {
        ("model-file-changed", "tampered.bin"): Severity.CRITICAL,
        ("model-file-changed", "kind.bin"): Severity.HIGH,
        ("model-file-changed", "link"): Severity.HIGH,
        ("model-file-changed", "mode.bin"): Severity.MEDIUM,
        ("model-file-removed", "removed.bin"): Severity.MEDIUM,
        ("model-file-removed", "moved.bin"): Severity.MEDIUM,
        ("model-file-added", "to.json"): Severity.MEDIUM,
        ("model-file-added", "loader.py"): Severity.HIGH,
    }
    tampered = outcomes["model-file-changed"].findings[0]
    assert tampered.evidence == {
        "approved": hashlib.sha256(b"tampered").hexdigest()[:16], "approved_bytes": 8,
        "present": hashlib.sha256(b"TAMPERED").hexdigest()[:16], "present_bytes": 8,
    }  # fmt: skip


def test_an_approved_directory_that_is_gone_is_one_finding(host, config, state):
    approve("/models/llama", state, host=host)
    os.rename(host.place("/models/llama"), host.place("/elsewhere"))
    assert found(models(host, config)) == [("model-file-removed", "/models/llama")]


def test_an_approved_directory_that_became_a_link_is_gone(host, config, state):
    approve("/models/llama", state, host=host)
    os.rename(host.place("/models/llama"), host.place("/elsewhere"))
    os.symlink("../elsewhere", host.place("/models/llama"))
    assert ("model-file-removed", "/models/llama") in found(models(host, config))


def test_a_thousand_differences_are_named_and_the_rest_is_a_gap(host, config, state, monkeypatch):
    monkeypatch.setattr("agent.facts.models.NAMED", 3)
    approve("/models/llama", state, host=host)
    for name in range(5):
        with open(host.place(f"/models/llama/{name}.txt"), "w"):
            pass
    os.unlink(host.place("/models/llama/weights.bin"))
    fact = models(host, config)
    assert [how.how for how in fact.directories[0].differences] == ["removed", "added", "added"]
    assert [gap.scope for gap in fact.gaps] == ["/models/llama"]


def test_a_link_out_of_an_approved_directory_is_a_gap_unless_its_target_is_approved(host, config, state):
    os.symlink("../qwen/tokenizer.json", host.place("/models/llama/tokenizer.json"))
    os.mkdir(host.place("/models/qwen"))
    approve("/models/llama", state, host=host)
    assert [gap.scope for gap in models(host, config).gaps] == ["/models/llama/tokenizer.json"]
    approve("/models/qwen", state, host=host)
    assert models(host, config).gaps == ()


def test_a_budget_of_nothing_judges_what_it_can_and_says_what_waits(host, config, state):
    approve("/models/llama", state, host=host)
    with open(host.place("/models/llama/weights.bin"), "w") as file:
        file.write("WEIGHTS")
    with open(host.place("/models/llama/config.json"), "w") as file:
        file.write("longer")
    fact = models(host, limited(config, 0))
    assert found(fact) == [("model-file-changed", "/models/llama/config.json")]
    assert [gap.scope for gap in fact.gaps] == ["/models/llama/config.json", "/models/llama/weights.bin"]
    assert all("the next scan continues" in gap.reason for gap in fact.gaps)
    assert ("model-file-changed", "/models/llama/weights.bin") in found(models(host, config))


def test_the_budget_goes_to_approved_directories_first(tmp_path, config, state):
    host = plant(tmp_path / "root", {"/models/a/w.bin": b"x" * 10, "/models/b/w.bin": b"x" * 10})
    approve("/models/b", state, host=host)
    with open(host.place("/models/b/w.bin"), "w") as file:
        file.write("y" * 10)
    fact = models(host, limited(config, 10))
    assert {directory.path: directory.hashed for directory in fact.directories} == {"/models/a": 0, "/models/b": 1}
    fact = models(host, limited(config, 20))
    assert {directory.path: directory.hashed for directory in fact.directories} == {"/models/a": 1, "/models/b": 1}


def test_many_unread_files_are_one_gap_for_their_directory(tmp_path, config):
    host = plant(tmp_path / "root", {f"/models/a/{name}.bin": b"x" for name in range(30)})
    (gap,) = models(host, limited(config, 0)).gaps
    assert (gap.scope, "30 files" in gap.reason) == ("/models/a", True)


def test_more_names_than_one_scan_may_list_are_said_and_approved_directories_come_first(
    tmp_path, config, state, monkeypatch
):
    host = plant(tmp_path / "root", {"/models/a/w.bin": b"1", "/models/b/w.bin": b"1", "/models/c/w.bin": b"1"})
    approve("/models/b", state, host=host)
    monkeypatch.setattr("agent.integrity.reading.ENTRIES_PER_SCAN", 2)
    fact = models(host, config)
    assert list(paths(fact)) == ["/models/a", "/models/b"]
    assert {gap.scope for gap in fact.gaps} == {"/models/a", "/models/c"}


def test_what_was_seen_in_directories_that_are_gone_is_forgotten(host, config, state):
    models(host, config)
    assert len(state.names(f"{state.models}/seen")) == 1
    os.rename(host.place("/models"), host.place("/elsewhere"))
    models(host, config)
    assert state.names(f"{state.models}/seen") == []


def test_progress_is_told(tmp_path, config, host):
    told: list[str] = []
    models(Host(host.root, progress=told.append), config)
    assert told[-1] == "hashing /models/llama: 0.0 MiB of 0.0 MiB"


def test_a_damaged_approval_is_a_finding_and_a_gap_and_not_unapproved(host, config, state):
    approve("/models/llama", state, host=host)
    state.write(approval.approved_path("/models/llama", state), b"{}")
    fact = models(host, config)
    assert found(fact) == [("model-approval-unreadable", "/models/llama")]
    assert any(gap.covers("/models/llama/weights.bin") for gap in fact.gaps)


def test_a_damaged_approval_of_an_unknown_directory_lets_nothing_be_resolved(tmp_path, config, state):
    path = f"{state.models}/approved/{'0' * 32}.json"
    state.write(path, b"")
    fact = models(plant(tmp_path / "root", {}), config)
    assert found(fact) == [("model-approval-unreadable", path)]
    assert any(gap.covers("/anything") for gap in fact.gaps)


def test_approvals_that_cannot_be_read_are_a_gap_and_nothing_is_called_unapproved(host, config, state):
    approve("/models/llama", state, host=host)
    path = approval.approved_path("/models/llama", state)
    os.rename(path, f"{path}.was")
    os.symlink(f"{path}.was", path)
    fact = models(host, config)
    assert found(fact) == []
    assert any("approvals cannot be read" in gap.reason and gap.covers("/models/llama") for gap in fact.gaps)


def test_a_damaged_record_of_what_was_seen_costs_a_reading_and_nothing_else(host, config, state):
    approve("/models/llama", state, host=host)
    (name,) = state.names(f"{state.models}/seen")
    state.write(f"{state.models}/seen/{name}", b"[1")
    fact = models(host, config)
    assert (found(fact), fact.gaps, fact.directories[0].hashed) == ([], (), 2)


def test_a_state_that_cannot_be_written_is_said_and_the_comparison_stands(host, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    fact = models(host, Config(state_directory=str(tmp_path / "file")))
    assert fact.directories[0].hashed == 2
    assert any("could not be kept" in gap.reason for gap in fact.gaps)


@pytest.mark.parametrize(
    ("target", "first", "fix"),
    [
        ("/models/llama", "/models/llama", "chmod -R o-w /models/llama"),
        ("/models/llama/weights.bin", "/models/llama/weights.bin", "chmod -R o-w /models/llama"),
        ("/models", "/models", "chmod o-w /models"),
    ],
)
def test_what_any_user_may_write_is_a_finding_and_worse_when_approved(host, config, state, target, first, fix):
    os.chmod(host.place(target), 0o777)  # noqa: S103 -- that is the finding
    (finding,) = judged(models(host, config))["model-directory-writable"].findings
    assert (finding.subject, finding.evidence["first"], finding.fix) == ("/models/llama", first, fix)
    assert finding.severity is Severity.MEDIUM
    approve("/models/llama", state, host=host)
    (finding,) = judged(models(host, config))["model-directory-writable"].findings
    assert finding.severity is Severity.HIGH


def test_a_sticky_directory_above_is_fine(host, config):
    os.chmod(host.place("/models"), 0o1777)  # noqa: S103 -- as /tmp is
    assert judged(models(host, config))["model-directory-writable"].findings == ()


def test_a_blob_with_another_content_than_its_name_is_found_without_any_approval(tmp_path, config):
    bad = f"{HUB}/blobs/{BLOB}"
    host = plant(tmp_path / "root", {bad: b"WEIGHTS", f"{HUB}/blobs/{'0' * 64}.incomplete": b""})
    assert ("model-blob-mismatch", bad) in found(models(host, config))


@only_root
def test_a_link_in_a_home_leads_only_to_what_its_owner_has(tmp_path, config):
    host = plant(tmp_path / "root", {"/root/secret/w.bin": b"secret", "/data/ann/models--x/w": b"1"})
    for home, target in (("eve", "../../../../root/secret"), ("ann", "../../../../data/ann")):
        place = tmp_path / "root" / "home" / home
        (place / ".cache/huggingface").mkdir(parents=True)
        (place / ".cache/huggingface/hub").symlink_to(target)
        os.chown(place, 1234, -1)
    os.chown(host.place("/data/ann"), 1234, -1)
    os.chown(host.place("/data/ann/models--x"), 1234, -1)
    fact = models(host, config)
    assert paths(fact) == {"/data/ann/models--x": "Hugging Face cache"}
    assert [gap.scope for gap in fact.gaps] == ["/home/eve/.cache/huggingface/hub"]


@not_root
def test_a_closed_home_is_one_gap(tmp_path, config):
    host = plant(tmp_path / "root", {"/home/ann/.ollama/models/w": b"1"})
    os.chmod(host.place("/home/ann"), 0)
    try:
        fact = models(host, config)
    finally:
        os.chmod(host.place("/home/ann"), stat.S_IRWXU)
    assert [(gap.scope, gap.hint) for gap in fact.gaps] == [("/home/ann", "Run it as root to see this.")]


def test_a_model_directory_with_a_hostile_name_is_shown_and_cannot_break_a_line(tmp_path, config):
    host = plant(tmp_path / "root", {"/models/a\n\udcff/w.bin": b"1"})
    ((_, subject),) = found(models(host, config))
    assert subject == "/models/a\\u000a\\xff"
    assert models(host, config).gaps == ()


def test_loops_and_broken_links_in_well_known_places_are_passed_over(tmp_path, config):
    host = plant(tmp_path / "root", {"/models/loop": "-> loop", "/models/broken": "-> nowhere", "/opt/models": "x"})
    fact = models(host, config)
    assert fact.directories == ()
    assert [gap.scope for gap in fact.gaps] == ["/models/loop"]


def test_an_interrupt_keeps_what_was_read_and_the_next_scan_continues(tmp_path, host, config, state):
    os.truncate(host.place("/models/llama/weights.bin"), 1 << 40)
    program = """
import sys
from agent.config import Config, ModelsSection
from agent.facts.models import models
from agent.host import Host
config = Config(state_directory=sys.argv[2], models=ModelsSection(hash_bytes_per_scan=1 << 50))
models(Host(sys.argv[1], progress=lambda text: print(text, flush=True)), config)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, host.root, state.directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(2)
        process.communicate(timeout=60)
    assert process.returncode not in {0, None}
    last = approval.seen("/models/llama", state)
    assert last is not None
    assert [(record.path, record.unread) for record in last.files] == [("config.json", False), ("weights.bin", True)]
    os.truncate(host.place("/models/llama/weights.bin"), 7)
    assert models(host, config).directories[0].hashed == 2


def test_the_fact_survives_its_journey_and_holds_no_content(host, config):
    with open(host.place("/models/llama/config.json"), "w") as file:
        file.write("canary-3fa9")
    wire = msgspec.json.encode(models(host, config))
    assert b"canary" not in wire
    assert isinstance(msgspec.json.decode(wire, type=Models), Models)
