"""The header of an RPM package as the database keeps it: a store of values and an index of tags into it.

Format: https://rpm-software-management.github.io/rpm/manual/format_header.html and, with all types,
https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/pkgformat.html#RPMHEADER
Tags: https://rpm-software-management.github.io/rpm/manual/tags.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

NAME, VERSION, RELEASE, EPOCH, VENDOR, ARCH, SOURCERPM, MODULARITYLABEL = 1000, 1001, 1002, 1003, 1011, 1022, 1044, 5096

_WANTED = {NAME, VERSION, RELEASE, EPOCH, VENDOR, ARCH, SOURCERPM, MODULARITYLABEL}
_INT32, _STRING = 4, 6
_ENTRY = struct.Struct(">4I")
_LONGEST = 4096


class HeaderError(ValueError):
    """The bytes are not a header."""


def tags(header: bytes) -> Mapping[int, bytes | int]:
    """The values of the tags that say what package this is; of a tag that stands twice the later, as in rpm.

    Raises:
        HeaderError: the header is damaged.
    """
    if len(header) < 8:  # noqa: PLR2004 -- the two numbers that it begins with
        raise HeaderError("it is too short")
    entries, size = struct.unpack_from(">2I", header)
    store = 8 + entries * _ENTRY.size
    if store + size != len(header):
        raise HeaderError(f"it says {store + size} bytes and has {len(header)}")
    found: dict[int, bytes | int] = {}
    for tag, kind, offset, count in _ENTRY.iter_unpack(header[8:store]):
        if tag in _WANTED:
            found[tag] = _value(header, store + offset, (tag == EPOCH, kind, count))
    return found


def _value(header: bytes, at: int, shape: tuple[bool, int, int]) -> bytes | int:
    if shape == (True, _INT32, 1) and at + 4 <= len(header):
        return int.from_bytes(header[at : at + 4], "big")
    end = header.find(b"\0", at, at + _LONGEST)
    if shape != (False, _STRING, 1) or end < 0:
        raise HeaderError("a value is not of its tag's type, or not in it")
    return header[at:end]
