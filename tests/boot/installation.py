"""dlvmguard on a machine, put there as people do it: by a startup script that runs on every boot."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.boot.cloud import Cloud
from tests.boot.machine import Machine

ROOT = Path(__file__).parents[2]
SERVICES = ("dlvmguard-watch.service", "dlvmguard-report.service", "dlvmguard-advisories.service")
WATCH, REPORT, ADVISORIES = SERVICES
STARTUP = "google-startup-scripts.service"
# What Google's own unit does: https://github.com/GoogleCloudPlatform/guest-agent/blob/main/google-startup-scripts.service
_STARTUP_UNIT = """
[Unit]
After=network-online.target
Wants=network-online.target
[Service]
Type=oneshot
KillMode=process
ExecStart=/bin/bash -c /var/tmp/startup
[Install]
WantedBy=multi-user.target
"""
ARRIVAL_SECONDS = 60
"""From what happens on the machine to its entry in Cloud Logging, installation included, on a slow and busy machine."""


def bundled(tree: Path, place: Path) -> Path:
    """The bundle of a tree of sources, made by its own Makefile and moved to ``place``."""
    done = subprocess.run(["make", "bundle"], cwd=tree, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = sorted((tree / "dist").glob("*-bundle.tar.gz"), key=lambda path: path.stat().st_mtime)[-1:]
    place.mkdir(exist_ok=True)
    return Path(shutil.copy(archive, place))


class Installation:
    """A bundle for a machine. It lies in /shared, where the machine cannot write; nothing is installed yet."""

    def __init__(self, machine: Machine, cloud: Cloud, bundle: Path) -> None:
        self.machine, self.cloud = machine, cloud
        self.hand_over(bundle)
        (machine.shared / "config.toml").write_text(cloud.config)

    def hand_over(self, bundle: Path) -> None:
        """Put this bundle, and the install.sh in it, in place of the one before."""
        shutil.copy(bundle, self.machine.shared / "bundle.tar.gz")
        with tarfile.open(bundle) as archive:
            (name,) = [each for each in archive.getnames() if each.count("/") == 1 and each.endswith("/install.sh")]
            script = archive.extractfile(name)
            assert script
            path = self.machine.shared / "install.sh"
            path.write_bytes(script.read())
            path.chmod(0o755)

    @property
    def command(self) -> str:
        """The line that people put into their startup script."""
        return "/shared/install.sh --wheelhouse /shared/bundle.tar.gz --config /shared/config.toml"

    def at_every_boot(self) -> None:
        """Let the machine run it as its startup script, as Google's guest environment does."""
        self.machine.write("/var/tmp/startup", f"#!/bin/bash\nset -e\n{self.command}\n", mode=0o755)
        self.machine.write(f"/etc/systemd/system/{STARTUP}", _STARTUP_UNIT)
        self.machine.run(f"systemctl enable {STARTUP}")

    def install(self, options: str = "", *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run install.sh on the machine as it is now."""
        return self.machine.run(f"{self.command} {options}", check=check, seconds=300)

    def uninstall(self, options: str = "") -> None:
        self.machine.run(f"/shared/install.sh --uninstall {options}", seconds=120)

    def version(self) -> str:
        return self.machine.run("dlvmguard --version").stdout.strip()

    def status(self) -> dict[str, Any]:
        """What ``dlvmguard status`` says to programs."""
        said: dict[str, Any] = json.loads(self.machine.run("dlvmguard status --format json").stdout)
        return said

    def wait_for_first_finding(self) -> None:
        """Wait for anything at all in Cloud Logging."""
        self.machine.wait_for(self.cloud.logging.visible, seconds=ARRIVAL_SECONDS, what="first finding")

    def wait_for_finding(self, rule: str, subject: str, event: str = "opened") -> dict[str, Any]:
        """The newest entry of Cloud Logging about a finding whose subject contains ``subject``."""

        def arrived() -> dict[str, Any] | None:
            found = [each for each in self.cloud.findings(rule, event) if subject in each["subject"]["name"]]
            return found[-1] if found else None

        found = self.machine.wait_for(arrived, seconds=ARRIVAL_SECONDS, what=f"{rule} {subject} {event}")
        assert found
        return found

    def recorded(self) -> list[str]:
        """The ids of all events in the ledger, oldest first."""
        program = (
            "import sqlite3; c = sqlite3.connect('file:/var/lib/dlvmguard/ledger/ledger.sqlite?mode=ro', uri=True); "
            "(e,), = c.execute('SELECT value FROM meta WHERE key = \"epoch\"'); "
            "print(*(f'{e}-{n:012d}' for n, in c.execute('SELECT sequence FROM events ORDER BY sequence')))"
        )
        return self.machine.python(program, user="dlvmguard").split()

    def assert_all_arrived_once(self) -> None:
        """What the ledger holds is what Logs Explorer shows: nothing lost, nothing twice, nothing else."""
        # While the machine lives its ledger grows; what was lost or doubled keeps the two apart for good.
        self.machine.wait_until(lambda: self._shown() == self.recorded(), seconds=ARRIVAL_SECONDS)
        assert self._shown() == self.recorded()

    def _shown(self) -> list[str]:
        return sorted(entry["insertId"] for entry in self.cloud.logging.visible())
