"""What lies around the code: scripts that parse, documents whose commands exist, no traces of one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli import cli

ROOT = Path(__file__).parents[1]
PASSED_OVER = {".git", "__pycache__", "build", "dist", "results"}


def files():
    """What is kept in the repository; environments and caches are not."""
    for directory, below, names in os.walk(ROOT):
        below[:] = [
            name
            for name in below
            if name not in PASSED_OVER
            and not name.endswith((".egg-info", "_cache"))
            and name[:5] not in {".venv", ".hypo"}
        ]
        yield from (Path(directory, name) for name in names if not name.endswith(".sqlite"))


def shell_scripts():
    for path in files():
        with path.open("rb") as file:
            first = file.readline(80)
        if re.match(rb"#!.*\b(ba)?sh\s*$", first):
            yield path


def commands(path):
    """The command lines in the fenced blocks of a document, without a prompt, and those quoted in a sentence."""
    text = path.read_text()
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.removeprefix("$ ").removeprefix("sudo ").strip() for line in block.splitlines())
    yield from re.findall(r"`((?:dlvmguard|make|\./)[^`\n]*)`", text)


DOCUMENTS = sorted({path for path in files() if path.suffix == ".md"})
SCRIPTS = sorted(shell_scripts())


def by_name(path):
    return str(path.relative_to(ROOT))


def test_there_are_the_scripts_that_people_start():
    assert {ROOT / "install.sh", ROOT / "tests/run", ROOT / ".ci/run"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_a_shell_script_parses_and_may_be_started(script):
    shell = "bash" if "bash" in script.read_text().partition("\n")[0] else "sh"
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make: sudo apt-get install -y make")
@pytest.mark.parametrize(
    "target",
    ["all", "test", "slow", "format-check", "lint", "types", "fix", "bench", "bundle", "advisories", "lock", "clean"],
)
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_the_commands_in_a_document_exist(document):
    makefile = (ROOT / "Makefile").read_text()
    for line in commands(document):
        first, *rest = line.split() or [""]
        if first.startswith("./"):
            assert (ROOT / first).is_file(), line
        elif first == "make":
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in rest if "=" not in target), line
        elif first == "dlvmguard" and rest and not rest[0].startswith("-"):
            assert rest[0] in cli.commands, line


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="the repository lies too near to the root to be told from other paths")
def test_no_file_names_the_place_where_it_was_written():
    for path in files():
        assert os.fsencode(ROOT) + b"/" not in path.read_bytes(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_what_a_document_links_to_in_the_repository_is_there(document):
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", document.read_text()):
        assert (document.parent / target).exists(), target
