"""Which files processes have mapped into their memory, as /proc/PID/maps tells it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from agent.model import Value

# https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html: range, permissions, offset, device, inode, path. Inode 0
# is memory without a file. Of the characters in a path the kernel escapes the line feed alone.
_LINE = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ [r-][w-]([x-])[sp-] [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ ([1-9]\d{0,19}) +(/[^\n]*)$", re.MULTILINE
)
DELETED = " (deleted)"
_MARKS = (b"-packages/", b" (deleted)\n", b"/dev/nvidia")
"""What a path has that tells something of interest. Most processes have none, and their lines are not taken apart."""
_LONGEST_LINE = 64 << 10
"""A path of PATH_MAX bytes, each of them escaped, is a quarter of this."""


class Mapped(Value, frozen=True, kw_only=True):
    """A file in the memory of a process. ``deleted`` is the kernel's word that the path leads there no more."""

    path: str
    inode: int
    executable: bool
    deleted: bool


def parse_maps(blocks: Iterable[bytes], marks: Sequence[bytes] = _MARKS) -> Iterator[Mapped]:
    """The files whose path has one of the marks, from blocks of a /proc/PID/maps; a line feed stands for its end.

    Without other marks these are files of Python packages, those deleted, and the GPU devices. Each is told once for
    each kind of mapping that it has. Lines of another form are passed over.
    """
    told = set[tuple[bytes, ...]]()
    for chunk in _whole_lines(blocks):
        if any(mark in chunk for mark in marks):
            for match in _LINE.finditer(chunk):
                known = match.groups()
                if known not in told and any(mark in match[3] + b"\n" for mark in marks):
                    told.add(known)
                    yield _mapped(*known)


def _mapped(permission: bytes, inode: bytes, path: bytes) -> Mapped:
    name = os.fsdecode(path.replace(rb"\012", b"\n"))
    return Mapped(
        path=name.removesuffix(DELETED),
        inode=int(inode),
        executable=permission == b"x",
        deleted=name.endswith(DELETED),
    )


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, cut where lines end; of a line without an end only the end is kept."""
    rest = b""
    for block in blocks:
        text = rest + block
        end = text.rfind(b"\n") + 1
        if end:
            yield text[:end]
        rest = text[end:][-_LONGEST_LINE:]
    if rest:
        yield rest + b"\n"
