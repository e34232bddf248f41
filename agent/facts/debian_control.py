"""Debian control data: the stanzas of dpkg's database and of apt's package lists.

Format: https://www.debian.org/doc/debian-policy/ch-controlfields.html#syntax-of-control-files
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agent.host import MEBIBYTE, shown
from agent.model import CannotLookError

STATUS = "/var/lib/dpkg/status"
"""The database of dpkg."""
LARGEST_STANZA = 4 * MEBIBYTE
"""The largest of Debian and Ubuntu are below 100 kB."""

_FIELDS = re.compile(rb"^(Package|Status|Version|Architecture|Source|Maintainer):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9+._-]{0,199}")
_WORD = re.compile(rb"[!-~]{1,200}")


class TruncatedError(CannotLookError):
    """The file ends in the middle of a stanza, as after a full disk or a crash."""


def stanzas(blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """The stanzas of a file that comes in blocks; ``path`` is for the errors, which come when all else is read."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n\n")
        if len(rest) > LARGEST_STANZA:
            raise CannotLookError(f"{shown(path)} has a stanza of more than {LARGEST_STANZA} bytes")
        for stanza in whole:
            if stanza := stanza.strip(b"\n"):
                yield stanza
    if rest.strip(b"\n"):
        raise TruncatedError(f"{shown(path)} ends in the middle of a stanza")


def fields(stanza: bytes) -> dict[bytes, bytes]:
    """The fields that say what package this is; the other fields are not looked at."""
    return dict(_FIELDS.findall(stanza))


def name(value: bytes) -> str:
    """A package name, or nothing where it is not one. What dpkg allows: letters, digits and ``-+._``."""
    return value.decode("ascii") if _NAME.fullmatch(value) else ""


def word(value: bytes) -> str:
    """A version or an architecture: printable and without spaces, or nothing where it is not."""
    return value.decode("ascii") if _WORD.fullmatch(value) else ""
