"""The shape of the house: which way imports point, and who may touch the machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "agent").rglob("*.py"))
}
ORDER = (
    ("agent",),
    ("agent.model",),
    ("agent.knowledge",),
    ("agent.host", "agent.host_inside", "agent.state"),
    ("agent.config",),
    ("agent.metadata",),
    ("agent.integrity",),
    ("agent.facts",),
    ("agent.nvml",),
    ("agent.inventory",),
    ("agent.advisories",),
    ("agent.formats",),
    ("agent.checks",),
    ("agent.discovery",),
    ("agent.evaluate", "agent.diff"),
    ("agent.schedule", "agent.pulse", "agent.notify", "agent.kernel_log"),
    ("agent.ledger", "agent.outbox", "agent.ledger_file"),
    ("agent.sinks",),
    ("agent.views",),
    ("agent.collect",),
    ("agent.glances", "agent.keeping"),
    ("agent.watch",),
    ("agent.ship",),
    ("agent.report", "agent.listing"),
    ("agent.session",),
    ("agent.cli_advisories", "agent.cli_gpu", "agent.cli_packages"),
    ("agent.cli",),
)
"""From left to right: a module may import its own room and what stands before it."""


def room(module):
    """The place of a module in the order; the longest name that fits wins."""
    places = [(len(name), place) for place, names in enumerate(ORDER) for name in names if under(module, name)]
    assert places, f"{module} has no place in the order"
    return max(places)[1]


def under(module, name):
    return module == name or module.startswith(f"{name}.")


def imported(path):
    """What a module imports of ours, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if under(alias.name, "agent"))
        elif isinstance(node, ast.ImportFrom) and node.module and under(node.module, "agent"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    wrong = [name for name in imported(MODULES[module]) if room(name) > room(module)]
    assert not wrong, f"{module} imports {wrong}, which stand after it"


TOUCHING = {"open", "os.open", "io.open", "os.scandir", "os.listdir", "os.walk", "os.system", "os.popen", "os.stat"}
TOUCHING |= {"os.readlink", "os.posix_spawn", "os.execv", "os.fork", "Path", "pathlib.Path"}
MODULES_THAT_TOUCH = {"subprocess", "socket", "pickle", "ctypes", "pynvml", "shelve", "multiprocessing"}
DOORS = {"agent.host", "agent.state", "agent.integrity.reading", "agent.kernel_log", "agent.notify"}
DOORS |= {"agent.host_inside", "agent.nvml.__main__", "agent.nvml.asking", "agent.nvml.gpus", "agent.nvml.samples"}
"""Where the machine, our own files, the bulk of model files, the kernel's log, NVML, the service manager and the
roots of containers are touched; nowhere else."""
EXCEPTIONS = {"agent.cli": ("os.open",), "agent.ledger_file": ("os.stat",)}
"""/dev/null in place of a broken pipe; whether our own ledger is there."""


@pytest.mark.parametrize("module", sorted(MODULES.keys() - DOORS))
def test_only_the_doors_touch_files_and_programs(module):
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in TOUCHING:
            allowed = ast.unparse(node.func) in EXCEPTIONS.get(module, ())
            assert allowed, f"{module}:{node.lineno} calls {ast.unparse(node.func)}"
        if isinstance(node, ast.Import):
            assert not MODULES_THAT_TOUCH & {alias.name.partition(".")[0] for alias in node.names}, module
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.partition(".")[0] not in MODULES_THAT_TOUCH, module


ALLOWED_IN_CHECKS = {"__future__", "collections", "datetime", "typing", "re", "ipaddress", "fnmatch", "itertools"}
ALLOWED_IN_CHECKS |= {"shlex"}  # names from the machine, quoted into the command that fixes


PURE = {"agent.integrity.manifest", "agent.inventory", "agent.advisories.advisory", "agent.advisories.matching"}
PURE |= {"agent.advisories.priority", "agent.advisories.suppression", "agent.advisories.findings"}
PURE |= {"agent.advisories.nvidia"}
"""What a check may use besides facts, tables and words: it is pure as they are."""


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("agent.checks.")])
def test_a_check_imports_facts_tables_and_words_alone(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            ours = any(under(name, each) for each in ("agent.model", "agent.facts", "agent.knowledge", "agent.config"))
            ours = ours or any(under(name, each) for each in PURE)
            assert ours or name.partition(".")[0] in ALLOWED_IN_CHECKS, f"{module} imports {name}"


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import subprocess",
        "import pathlib",
        "import socket",
        "import time",
        "from agent import ledger",
        "from agent.ledger import Ledger",
        "print(open('/etc/passwd'))",
        "import datetime; print(datetime.datetime.now(datetime.timezone.utc))",
    ],
)
def test_a_check_that_reaches_out_fails_the_lint(tmp_path, line):
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "-"]
    pytest.importorskip("ruff", reason="the linter is not installed here: pip install '.[lint]'")
    said = subprocess.run(
        [*ruff, "--stdin-filename", "agent/checks/ports.py"],
        input=line,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert re.search("TID251|PTH123", said.stdout), said.stdout + said.stderr


def test_no_module_has_a_name_that_refuses_nothing():
    vague = {
        "util",
        "utils",
        "helper",
        "helpers",
        "common",
        "base",
        "core",
        "manager",
        "handler",
        "service",
        "engine",
        "context",
    }
    assert not [name for name in MODULES if vague & set(name.split("."))]


def test_the_commands_that_must_start_fast_import_nothing_heavy():
    heavy = ["google", "requests", "pynvml", "rich.table", "sqlite3"]
    script = f"import agent.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.strip() == "[]"
