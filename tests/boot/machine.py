"""A Debian that really boots: systemd as process 1 in a container of its own, without any network but ours.

    with Network() as network, Machine(rootfs.built("bookworm"), place, network) as machine:
        machine.boot()
        print(machine.run("systemctl status").stdout)
        machine.reboot()

The container's disk is an overlay over a folder that is never written to. Mounts live in a mount namespace and
processes in a process namespace that end with this process, however it ends; only ``place`` is left to be removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import shlex
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, linux/sched.h
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP; linux/sockios.h, net/if.h
_FANOTIFY = "fanotify_init fanotify_mark name_to_handle_at open_by_handle_at"
_REBOOTED = 133  # with --keep-unit the container's program leaves the restart to its caller; systemd-nspawn(1)
BOOT_SECONDS = 90
"""Longer than any boot that ends well; on a quiet machine it takes three to five."""


class Network:
    """A network with nothing but loopback, which lives as long as this object and its machines."""

    def __enter__(self) -> Network:  # noqa: PYI034 -- typing.Self needs Python 3.11
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = -1
        thread = threading.Thread(target=self._make)
        thread.start()
        thread.join()
        if self.descriptor < 0:
            raise OSError("a network of our own was refused")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes inside are the machine's own; they stay so when their threads are others."""
        with open("/proc/thread-self/ns/net") as before:
            self._enter(self.descriptor)
            try:
                yield
            finally:
                self._enter(before.fileno())

    def _make(self) -> None:
        """Leave the network of the process, in this thread alone, and keep the one that is found instead."""
        if self._libc.unshare(_NEW_NETWORK):
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            name, empty = b"lo".ljust(16, b"\0"), b"\0" * 22
            asked = fcntl.ioctl(any_socket, _GET_FLAGS, name + struct.pack("H", 0) + empty)
            flags = struct.unpack_from("H", asked, 16)[0] | _UP
            fcntl.ioctl(any_socket, _SET_FLAGS, name + struct.pack("H", flags) + empty)
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _enter(self, descriptor: int) -> None:
        if self._libc.setns(descriptor, _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "cannot enter the network of the machine")


class Machine:
    """One machine, off until ``boot``. What it writes is kept below ``place``."""

    def __init__(self, lower: Path, place: Path, network: Network) -> None:
        self._lower, self._place, self._network = lower, place, network
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0
        self.shared = place / "shared"
        """A folder of ours that is /shared in the machine; read-only there."""
        for name in ("upper", "work", "root", "shared"):
            (place / name).mkdir(parents=True)

    def __enter__(self) -> Machine:  # noqa: PYI034 -- typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.pull_the_plug()
        shutil.rmtree(self._place)

    @property
    def root(self) -> Path:
        """The machine's own root directory, while it is on."""
        return Path(f"/proc/{self._init}/root")

    @property
    def console(self) -> str:
        """The last that the machine printed."""
        return (self._place / "console").read_text(errors="replace")[-4000:]

    def boot(self, *, wait: bool = True) -> None:
        """Switch it on, and wait until systemd says that everything that starts at boot has started."""
        layers = f"lowerdir={self._lower},upperdir={self._place}/upper,workdir={self._place}/work"
        container = [
            *("systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--hostname=gpu-1"),
            *(f"--directory={self._place}/root", f"--bind-ro={self.shared}:/shared"),
            *(
                f"--network-namespace-path=/proc/self/fd/{self._network.descriptor}",
                "--resolv-conf=off",
                "--timezone=off",
            ),
            *("--capability=all", "--drop-capability=CAP_SYS_MODULE,CAP_SYS_TIME", f"--system-call-filter={_FANOTIFY}"),
            # systemd 256 and newer start on a host with the first version of control groups only when told so here.
            "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        ]
        # The container's program leaves folders behind in /run where that is no tmpfs, so it gets one.
        script = 'mount -t tmpfs tmpfs /run && mount -t overlay -o "$1" overlay "$2" && shift 2 && exec "$@"'
        # It does not end the container when it is killed, so it is process 1 of a namespace that ends with it.
        namespaces = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]
        with (self._place / "console").open("wb") as console:
            self._container = subprocess.Popen(
                [*namespaces, "sh", "-c", script, "sh", layers, f"{self._place}/root", *container],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=[self._network.descriptor],
            )
        self._init = self.wait_for(self._find_init, seconds=BOOT_SECONDS, what="process 1")
        if wait:
            self.wait_until_up()

    def wait_until_up(self) -> None:
        """Wait until systemd says that everything that starts at boot has started."""
        self.wait_for(self._is_up, seconds=BOOT_SECONDS, what="the end of booting")

    def run(self, script: str, *, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine, as root."""
        done = subprocess.run(
            [*self._inside(), "sh", "-c", script],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
        )
        if check and done.returncode:
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def python(self, program: str, *, user: str = "root") -> str:
        """What a Python program prints that runs in the machine, with its own Python."""
        words = f"runuser -u {user} -- python3 -I -c {shlex.quote(program)}"
        return self.run(words).stdout

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Put a file of root's into the machine, with all directories above it."""
        directory, quoted = shlex.quote(os.path.dirname(path)), shlex.quote(path)
        self.run(f"mkdir -p {directory} && printf %s {shlex.quote(text)} >{quoted} && chmod {mode:o} {quoted}")

    def started(self, script: str) -> subprocess.Popen[str]:
        """Start a shell script in the machine, as root, and do not wait for it."""
        return subprocess.Popen(
            [*self._inside(), "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def show(self, unit: str, key: str) -> str:
        """A property of a unit, as systemctl shows it."""
        return self.run(f"systemctl show --value --property={key} {unit}").stdout.strip()

    def journal(self, unit: str = "") -> str:
        """The journal of this boot, of one unit or of all."""
        chosen = f"--unit={unit}" if unit else ""
        return self.run(f"journalctl --boot --no-pager --quiet --lines=300 {chosen}", check=False).stdout

    def wait_until(self, question: Callable[[], bool], *, seconds: float) -> None:
        """Wait until it is so, or that long; what follows says what is not."""
        end = time.monotonic() + seconds
        while not question() and time.monotonic() < end:
            time.sleep(0.5)

    def wait_for(self, question: Callable[[], T], *, seconds: float, what: str) -> T:
        """The first answer that is not nothing; an error with the journal when none comes in time."""
        end = time.monotonic() + seconds
        while not (answer := question()):
            if self._container is None or self._container.poll() is not None:
                raise AssertionError(f"the machine went off while waiting for {what}:\n{self.console}")
            if time.monotonic() > end:
                said = self.journal() if self._init else self.console
                raise AssertionError(f"no {what} within {seconds} s:\n{said[-4000:]}")
            time.sleep(0.1)
        return answer

    def reboot(self) -> None:
        """Restart it as a person does, and wait until it is up again."""
        assert self._container
        self.run("systemctl reboot", check=False)  # what asks may be killed before it hears that all is well
        status = self._container.wait(timeout=BOOT_SECONDS)
        assert status == _REBOOTED, f"instead of rebooting it ended with {status}:\n{self.console}"
        self.boot()

    def pull_the_plug(self) -> None:
        """Switch it off without a word, as a power cut does, apart from what was not written to disk yet."""
        if self._container is not None:
            self._container.kill()
            self._container.wait(timeout=30)
            self._container, self._init = None, 0

    def _inside(self) -> list[str]:
        return ["nsenter", "-t", str(self._init), "-a", "env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]

    def _is_up(self) -> bool:
        said = self.run("systemctl is-system-running", check=False).stdout.strip()
        if said == "degraded":
            failed = self.run("systemctl --failed --no-legend --plain", check=False).stdout
            raise AssertionError(f"units failed at boot:\n{failed}{self.journal()[-4000:]}")
        return said == "running"

    def _find_init(self) -> int:
        """The process that is systemd and process 1 in the innermost namespace; 0 while there is none."""
        if self._container is None:
            return 0
        found = list(_children(self._container.pid))
        with contextlib.suppress(OSError):
            for child in itertools.chain.from_iterable(map(_children, found)):
                status = Path(f"/proc/{child}/status").read_text()
                *outer, inner = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if inner == "1" and len(outer) > 1 and os.path.basename(os.readlink(f"/proc/{child}/exe")) == "systemd":
                    return child
        return 0


def _children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
