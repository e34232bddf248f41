"""Write requirements.lock: every dependency with one version and the hashes of its wheels.

Run it on the oldest Python, ``make lock PYTHON=python3.10``: what has a version for that one runs on newer ones too,
and no other asks for more. The lock holds for all Pythons and machines of ``release.wheels``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from release.wheels import LOCK, MACHINES, PIP_LOCK, PYTHONS, ROOT, planned, target

_HEADER = "# Made by `make lock PYTHON=python3.10`. What is installed on a machine is this and nothing else.\n"


def pins(requirement: str) -> dict[str, str]:
    """The name and version of everything that installing this asks for."""
    named = {_name(each["metadata"]["name"]): each["metadata"]["version"] for each in planned(requirement)}
    named.pop("dlvmguard", None)
    return named


def lock(pinned: dict[str, str]) -> str:
    """The text of a lock file for these versions."""
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place, "pins.txt")
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()), encoding="utf-8")
        for machine in MACHINES:
            for python in PYTHONS:
                for each in planned(f"--target={place}/target", f"--requirement={wanted}", *target(python, machine)):
                    hashes[_name(each["metadata"]["name"])].add(
                        each["download_info"]["archive_info"]["hashes"]["sha256"]
                    )
    lines = (
        " \\\n".join([f"{name}=={pinned[name]}", *(f"    --hash=sha256:{each}" for each in sorted(hashes[name]))])
        for name in sorted(pinned)
    )
    return _HEADER + "".join(f"{line}\n" for line in lines)


def _name(name: str) -> str:
    """A name as the index has it: https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write both lock files: what is installed, and the pip that the bundle carries to install it."""
    oldest = tuple(int(part) for part in PYTHONS[0].split("."))
    if sys.version_info[:2] != oldest:
        sys.exit(f"the lock is made on the oldest Python: make lock PYTHON=python{PYTHONS[0]}")
    LOCK.write_text(lock(pins(str(ROOT))), encoding="utf-8")
    PIP_LOCK.write_text(lock(pins("pip")), encoding="utf-8")


if __name__ == "__main__":
    main()
