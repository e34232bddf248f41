"""Which wheels a release is made for, and asking pip for them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PIP_LOCK = ROOT / "release/pip.lock"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""Ubuntu 22.04, Debian 12, Ubuntu 24.04 and Debian 13, in this order."""
MACHINES = ("x86_64", "aarch64")
_GLIBC = range(35, 16, -1)
"""Minor versions of the C library that wheels are made for: up to 2.35, that of Ubuntu 22.04."""


def here() -> str:
    """The kind of machine that this is."""
    return platform.machine()


def target(python: str, machine: str) -> list[str]:
    """The options of pip that choose wheels for another Python and machine."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    names = [*platforms, f"manylinux2014_{machine}", f"linux_{machine}"]
    options = ["--only-binary=:all:", "--no-deps", "--implementation=cp", f"--python-version={python}"]
    return [*options, *(f"--platform={name}" for name in names)]


def pip(*arguments: str) -> str:
    """Run the pip of this environment and return what it prints."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout


def planned(*arguments: str) -> Iterable[dict[str, Any]]:
    """What pip would install, as its report has it: https://pip.pypa.io/en/stable/reference/installation-report/."""
    said = pip("install", "--quiet", "--dry-run", "--ignore-installed", "--report=-", *arguments)
    installs: list[dict[str, Any]] = json.loads(said)["install"]
    return installs
