"""One line on a terminal that says what takes so long; nothing at all in a pipe."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator

_EVERY = 0.1
"""Seconds between two drawings, so that a fast loop does not spend its time in the terminal."""


@contextlib.contextmanager
def line() -> Iterator[Callable[[str], None]]:
    """A function that shows what goes on, on standard error; the line is gone afterwards."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    drawn = 0.0

    def show(text: str) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= _EVERY:
            drawn = now
            sys.stderr.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
