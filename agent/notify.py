"""Telling the service manager how we are.

The protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import os
import socket  # noqa: TID251 -- a message to a socket of the service manager; it cannot leave the machine
import time


class Notifier:
    """The service manager's ear. Where there is none, as for a person in a terminal, nothing is said."""

    def __init__(self) -> None:
        """Take the address from the environment and remove it, so that no program that we start speaks for us."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        pid = os.environ.pop("WATCHDOG_PID", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        is_ours = not pid or pid == str(os.getpid())
        self.watchdog = (
            int(microseconds) / 1e6 if is_ours and microseconds.isascii() and microseconds.isdigit() else 0.0
        )
        """Seconds within which it wants to hear from us; 0: it does not care."""

    def say(self, *lines: str) -> None:
        """Send lines such as ``READY=1``; one that goes unheard is no reason to stop."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(1)
            out.sendto("\n".join(lines).encode(), self._address)

    def reloading(self) -> None:
        """We read our configuration anew; ``READY=1`` ends it."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
