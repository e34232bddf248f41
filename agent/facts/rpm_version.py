"""The order of RPM versions, as rpm compares them.

Source: https://rpm-software-management.github.io/rpm/man/rpm-version.7
"""

from __future__ import annotations

import re

Piece = tuple[int, int, str]
Part = tuple[Piece, ...]
Order = tuple[tuple[int, str], Part, Part]

_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|[~^]")  # all else parts them and does not count
_EPOCH = re.compile(r"([0-9]*):(.*)", re.DOTALL)
_BEFORE_THE_END, _END, _AFTER_THE_END, _LETTERS, _DIGITS = range(5)


def order(evr: str) -> Order:
    """What sorts as rpm sorts ``epoch:version-release``; an epoch or a release that is not there is zero, or nothing.

    Any text has its place, so that what a hostile database says cannot raise: what is no epoch is part of the version.
    """
    evr = evr.strip()
    match = _EPOCH.fullmatch(evr)
    epoch, rest = (match[1], match[2]) if match else ("", evr)
    version, hyphen, release = rest.rpartition("-")
    return (_number(epoch), part(version if hyphen else rest), part(release if hyphen else ""))


def part(text: str) -> Part:
    """What sorts as rpm sorts versions, and releases, alone."""
    return (*map(_piece, _PIECES.findall(text)), (_END, 0, ""))


def _piece(text: str) -> Piece:
    """A tilde sorts before the end, a caret right after it, then letters, then numbers."""
    if text in "~^":
        return (_BEFORE_THE_END if text == "~" else _AFTER_THE_END, 0, "")
    return (_DIGITS, *_number(text)) if text[0].isdigit() else (_LETTERS, 0, text)


def _number(digits: str) -> tuple[int, str]:
    """A number of any length, without arithmetic: the longer is the larger, then the digits decide."""
    significant = digits.lstrip("0")
    return (len(significant), significant)
