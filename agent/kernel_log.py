"""Following the kernel's log: the lines that it writes itself, from now on."""

from __future__ import annotations

import os

from agent.host import KERNEL_LOG, KERNEL_RECORD, Host

_AT_ONCE = 1000
"""Records in one go, so that a kernel that logs without end does not hold us."""
_FACILITY = 3
"""The bits of a priority below the facility, https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg"""


class KernelLog:
    """An open /dev/kmsg; where it may not be read there are no lines, and ``is_open`` says so."""

    def __init__(self, host: Host) -> None:
        """Begin at the end of what is there."""
        self._handle = -1
        try:
            self._handle = os.open(host.place(KERNEL_LOG), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            os.lseek(self._handle, 0, os.SEEK_END)
        except OSError:
            self.close()

    @property
    def is_open(self) -> bool:
        """Whether it can be followed."""
        return self._handle >= 0

    def lines(self) -> list[str]:
        """What the kernel wrote since the last call; what programs wrote into its log is left out."""
        found: list[str] = []
        for _ in range(_AT_ONCE if self.is_open else 0):
            try:
                record = os.read(self._handle, KERNEL_RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # some were overwritten before we came; the next read goes on after them
                continue
            except OSError:
                self.close()
                break
            if not record:
                break
            head, _, text = record.partition(b";")
            priority = head.partition(b",")[0]
            if priority.isdigit() and int(priority) >> _FACILITY == 0:
                found.append(text.decode("utf-8", "backslashreplace"))
        return found

    def close(self) -> None:
        """Follow no more."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
