"""Processes that have a GPU open: in a tree of /proc, and real ones on this machine with a GPU's names in /dev.

A real device node of the driver cannot be opened without the driver, so plain files stand in for the nodes; all that
is read about the processes is the kernel's own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from agent.facts.workload import Workload
from agent.facts.workloads import Workloads

UUID = "GPU-5a2c9d31-7f10-4e6b-9a55-0c1d2e3f4a5b"
MACHINE: dict[str, str | bytes] = {
    "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\n",
    "/proc/driver/nvidia/gpus/0000:00:04.0/information": (
        f"Model: \t\t NVIDIA L4\nGPU UUID: \t {UUID}\nBus Location: \t 0000:00:04.0\nDevice Minor: \t 0\n"
    ),
    "/proc/self/mounts": "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n",
    "/proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
    "/proc/uptime": "100000.00 800000.00\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/bash\n",
}
"""A machine with one GPU, on which nothing but process 1 runs."""
SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
HOST_ROOT = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def mapping(path: str, *, permissions: str = "r-xp") -> str:
    """A line of /proc/PID/maps."""
    return f"7f1b2c000000-7f1b2c021000 {permissions} 00000000 08:01 4711                    {path}\n"


def stat(pid: int, *, comm: str = "python", state: str = "S", parent: int = 1, threads: int = 4, started: int = 9000):
    """A line of /proc/PID/stat."""
    before = " ".join(["0"] * 15)
    return f"{pid} ({comm}) {state} {parent} {before} {threads} 0 {started} {' '.join(['0'] * 30)}\n"


def process(
    pid: int,
    *open_files: str,
    executable: str = "/usr/bin/python3.11",
    command: Iterable[str] = ("python",),
    mapped: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    comm: str = "python",
    groups: str = SESSION,
    uid: int = 1000,
    login: int = 1000,
    state: str = "S",
    mountinfo: str = HOST_ROOT,
) -> dict[str, str | bytes]:
    """A process with these files open."""
    variables = "".join(f"{name}={value}\0" for name, value in (environment or {}).items())
    return {
        f"/proc/{pid}/exe": f"-> {executable}",
        f"/proc/{pid}/cwd": "-> /home/ada/work",
        f"/proc/{pid}/comm": f"{comm}\n",
        f"/proc/{pid}/stat": stat(pid, comm=comm, state=state, threads=1 if state == "Z" else 4),
        f"/proc/{pid}/status": f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmLib:\t   12345 kB\n",
        f"/proc/{pid}/loginuid": f"{login}",
        f"/proc/{pid}/sessionid": "3" if login == 1000 else "4294967295",
        f"/proc/{pid}/cgroup": groups,
        f"/proc/{pid}/mountinfo": mountinfo,
        f"/proc/{pid}/cmdline": "".join(f"{word}\0" for word in command),
        f"/proc/{pid}/environ": variables,
        f"/proc/{pid}/maps": "".join(each if each.endswith("\n") else mapping(each) for each in mapped),
        f"/proc/{pid}/ns/net": "-> net:[4026531840]",
        f"/proc/{pid}/ns/mnt": f"-> mnt:[{4026531840 + (pid if mountinfo != HOST_ROOT else 0)}]",
        f"/proc/{pid}/fd/": "",
        **{f"/proc/{pid}/fd/{number}": f"-> {each}" for number, each in enumerate(open_files)},
    }


INIT = process(1, "/dev/null", executable="/usr/lib/systemd/systemd", comm="systemd", uid=0, login=4294967295)

_MASK = """
set -e
mount -t tmpfs none /mnt
for node in null zero urandom; do cp -a "/dev/$node" /mnt/; done
: > /mnt/nvidia0; : > /mnt/nvidiactl
mount --move /mnt /dev
echo ready
exec sleep 600
"""
_LOOK = """
import sys, msgspec
from agent.config import Config
from agent.facts.workloads import workloads
from agent.host import Host
sys.stdout.buffer.write(msgspec.json.encode(workloads(Host(), Config())))
"""


class GpuMachine:
    """This machine with other names in /dev, for whoever is started in here."""

    def __init__(self, pid: int) -> None:
        """``pid`` holds the mounts."""
        self._enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, environment: Mapping[str, str] | None = None, folder: str = "/") -> int:
        """Start a program with the GPU open as descriptor 7; its pid, once it has said a line."""
        held = ["sh", "-c", 'exec 7</dev/nvidia0; cd "$1"; shift; exec "$@"', "sh", folder, *command]
        process = subprocess.Popen(
            [*self._enter, *held], stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), "it ended"
        return process.pid

    def run(self, *command: str) -> bytes:
        """Run a program to its end; what it printed."""
        return subprocess.run([*self._enter, *command], check=True, stdout=subprocess.PIPE).stdout

    def look(self) -> Workloads:
        """What the probe sees of the real machine, taken by a process of its own."""
        return msgspec.json.decode(self.run(sys.executable, "-c", _LOOK), type=Workloads)

    def seen(self, pid: int) -> Workload:
        """The workload with this pid."""
        return next(each for each in self.look().workloads if each.pid == pid)

    def close(self) -> None:
        """End what was started."""
        while self._started:
            process = self._started.pop()
            process.kill()
            process.communicate()


@contextlib.contextmanager
def gpu_machine() -> Iterator[GpuMachine]:
    """The machine while the block runs. Needs root and the right to mount."""
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", _MASK], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        with contextlib.closing(GpuMachine(holder.pid)) as machine:
            yield machine
    finally:
        holder.kill()
        holder.communicate()
