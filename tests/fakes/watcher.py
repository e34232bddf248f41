"""A real watcher in a process of its own, over a small tree, with a service manager that listens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

from agent.pulse import Pulse
from agent.pulse import load as load_pulse
from agent.state import State
from tests.fakes.trees import plant

STANZA = "Package: {0}\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\n\n"
TREE = {
    "etc/os-release": "ID=debian\nVERSION_ID=12\nPRETTY_NAME='Debian 12'\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "proc/sys/kernel/hostname": "gpu-1\n",
    "proc/sys/kernel/osrelease": "6.1.0\n",
    "proc/sys/kernel/version": "#1 SMP\n",
    "proc/sys/kernel/random/boot_id": "b\n",
    "proc/self/net/tcp": "  sl  local_address\n",
    "proc/self/net/udp": "  sl  local_address\n",
    "sys/bus/pci/devices/": "",
    "dev/kmsg": "6,1,1,-;booted\n",
    "var/lib/dpkg/status": STANZA.format("bash"),
    "var/lib/dpkg/updates/": "",
    "usr/": "",
}
ADD_PROBES = "import sys, agent.facts; agent.facts.__path__.append(sys.argv.pop(1)); from agent.cli import main; main()"
"""The program with one more folder of probes, which it finds as it finds its own."""


class Watching:
    """A watcher's site: machine, configuration, state, and what the service manager heard."""

    def __init__(self, path, *, abstract=False):
        self.path = path
        self.root = path / "machine"
        plant(self.root, TREE)
        self.state = State(str(path / "state"))
        self.config = path / "config.toml"
        self.configure()
        self.environment = {}
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@dlvmguard-{os.getpid()}-{id(self)}" if abstract else str(path / "notify")
        self.ear.bind(f"\0{self.address[1:]}" if abstract else self.address)
        self.ear.settimeout(0.1)
        self.heard = []
        self.process = None

    def configure(self, text="", *, directories=()):
        self.config.write_text(
            f"{text}\n[models]\ndiscover = false\ndirectories = {json.dumps(list(map(str, directories)))}\n"
        )

    def start(self, *, live=False, probes=None):
        options = ["--config", self.config, "--state-dir", self.state.directory]
        options += [] if live else ["--root", self.root]
        program = ["-c", ADD_PROBES, probes] if probes else ["-m", "agent.cli"]
        self.process = subprocess.Popen(
            [sys.executable, *program, *options, "watch"],
            env={**os.environ, "NOTIFY_SOCKET": self.address, **self.environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.until(lambda: "READY=1" in self.heard)
        return self

    def end(self, number=signal.SIGTERM):
        """Send a signal; how many seconds it took, and what was said meanwhile."""
        assert self.process is not None
        start = time.monotonic()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        took = time.monotonic() - start
        self.listen()
        return took, said

    def listen(self):
        try:
            while True:
                self.heard += self.ear.recv(65536).decode().splitlines()
        except TimeoutError:
            pass

    def until(self, is_so, *, seconds=60):
        """Wait until something is so; that it takes so long at most is no promise, only an end to waiting."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.listen()
            if answer := is_so():
                return answer
            assert self.process is None or self.process.poll() is None, self.process.communicate()[1]
        raise AssertionError(f"it never came to be; heard {self.heard[-5:]}, pulse {self.pulse()}")

    def pulse(self) -> Pulse | None:
        return load_pulse(self.state)

    def beat(self, probe):
        said = self.pulse()
        return next((each for each in said.beats if each.probe == probe), None) if said else None

    def fact(self, probe):
        """What was kept of one probe: the fact or the unknown."""
        text = self.state.read(self.state.snapshot)
        looks = json.loads(text)["looks"] if text else []
        return next((look["fact"] or look["unknown"] for look in looks if look["probe"] == probe), None)

    def is_settled(self):
        """Whether every probe has looked and nothing is running."""
        said = self.pulse()
        return said is not None and all(each.last and not each.running for each in said.beats)

    def program(self, *words):
        command = [sys.executable, "-m", "agent.cli", "--config", self.config, "--state-dir", self.state.directory]
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=90)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.ear.close()
