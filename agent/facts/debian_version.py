"""The order of Debian version numbers, as dpkg compares them.

Source: https://www.debian.org/doc/debian-policy/ch-controlfields.html#version
"""

from __future__ import annotations

import re

Part = tuple[tuple[tuple[int, ...], tuple[int, str]], ...]
Order = tuple[tuple[int, str], Part, Part]

_PAIRS = re.compile(r"([^0-9]*)([0-9]*)")
_EPOCH = re.compile(r"([0-9]+):(.*)", re.DOTALL)


def order(version: str) -> Order:
    """What sorts as dpkg sorts the versions: smaller, equal and greater as ``dpkg --compare-versions`` says.

    Any text has its place, so that what a hostile list says cannot raise: what is no epoch is part of the version.
    """
    version = version.strip()
    match = _EPOCH.fullmatch(version)
    epoch, rest = (match[1], match[2]) if match else ("", version)
    upstream, hyphen, revision = rest.rpartition("-")
    return (_number(epoch), _part(upstream if hyphen else rest), _part(revision if hyphen else ""))


def _part(text: str) -> Part:
    """The alternating letters and digits; always at least one of each, as an absent number counts as zero.

    The end sorts between a tilde and all else, for which the last pair stands.
    """
    pairs = _PAIRS.findall(text)
    return (*((_letters(letters), _number(digits)) for letters, digits in pairs[:-1] or pairs), ((0,), (0, "")))


def _letters(text: str) -> tuple[int, ...]:
    return (*map(_weight, text), 0)


def _weight(character: str) -> int:
    """A tilde sorts before the end of the part, letters before everything else."""
    if character == "~":
        return -1
    return ord(character) if character.isascii() and character.isalpha() else ord(character) + 256


def _number(digits: str) -> tuple[int, str]:
    """A number of any length, without arithmetic: the longer is the larger, then the digits decide."""
    significant = digits.lstrip("0")
    return (len(significant), significant)
