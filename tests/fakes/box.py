"""A place where install.sh can be run as root without touching this machine: its directories under overlays.

Every run gets a mount namespace of its own, so nothing is mounted for others to see. What is written is kept in the
box's directory and is there again for the next run. systemd does not run in it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OVER = ("opt", "etc", "var", "usr/local")
_ENTER = """
set -e
mount --make-rprivate /
for each in {over}; do
    mount -t overlay overlay -o "lowerdir=/$each,upperdir={place}/$each/upper,workdir={place}/$each/work" "/$each"
done
mount --bind "{place}/run" /run
cd /
exec "$@"
"""
DEBIAN = 'ID=debian\nVERSION_ID="12"\n'


class Box:
    """A box in a directory, which must lie on a file system that overlays can write to."""

    def __init__(self, place: Path, *, os_release: str = DEBIAN) -> None:
        """Make it, as a machine with this /etc/os-release."""
        self.place = place
        for name in OVER:
            for part in "upper", "work":
                (place / name / part).mkdir(parents=True, exist_ok=True)
        (place / "run").mkdir()
        (place / "etc/upper/os-release").write_text(os_release)
        self.run(
            "rm", "-rf", *(f"/{name}/dlvmguard" for name in ("opt", "etc", "var/lib"))
        )  # this machine's own, hidden

    def command(self, arguments: Sequence[str | Path]) -> list[str]:
        """The command line that runs this in the box."""
        script = _ENTER.format(over=" ".join(OVER), place=self.place)
        return ["unshare", "--mount", "sh", "-c", script, "enter", *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        """A bare environment: that of a startup script, and the Python that the tests run on."""
        kept = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
        python = os.path.realpath(sys.executable)
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DLVMGUARD_PYTHON": python, **kept, **more}

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(arguments), env=self.environment(**environment), capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start it in a group of its own; its process is that of the command itself."""
        return subprocess.Popen(
            self.command(arguments), env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def files(self) -> dict[str, str]:
        """Every path in the box with its kind, mode and content, as seen from inside; only what differs can differ."""
        kinds = (r"-type f -printf 'f %m %U:%G %p\n'", r"-type l -printf 'l %p -> %l\n'", r"-printf 'd %m %U:%G %p\n'")
        listing = rf"find /opt /etc /var /usr/local /run -xdev \( {' -o '.join(kinds)} \) 2>/dev/null"
        lines = self.run("sh", "-c", listing).stdout.splitlines()
        return {line: self._digest(line) for line in lines}

    def _digest(self, line: str) -> str:
        path = line.partition(" /")[2]
        written = next(
            (
                self.place / over / "upper" / path.removeprefix(f"{over}/")
                for over in OVER
                if path.startswith(f"{over}/")
            ),
            None,
        )
        if line.startswith("f") and written and written.is_file() and not path.endswith(".pyc"):
            return hashlib.sha256(written.read_bytes()).hexdigest()
        return ""
