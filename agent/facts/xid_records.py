"""One record of the kernel's log: who wrote it, and which error of a GPU (Xid) or an NVSwitch (SXid) it reports.

Only records that begin as the driver begins them are reports: a name that a user chose, such as that of a process
that crashed, may stand within a record of the kernel's, and at its start it is too short to look like one.
"""

from __future__ import annotations

import re

import msgspec

from agent.host import shown
from agent.model import Value

RECOVERY = 154
"""The Xid with which the driver says what a GPU needs to recover."""
_FALLEN = 79


class Record(Value, frozen=True, kw_only=True):
    """A record of the log: who wrote it, its place in the log, microseconds since the boot, and its text.

    Format: https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg
    """

    facility: int
    sequence: int
    at: int
    text: str


class Report(Value, frozen=True, kw_only=True):
    """What the driver says in one record: which device, which error, and whose work it hit, where it says so.

    ``fatal`` is said of NVLink 5 and of switches, ``part``, ``link`` and ``reason`` of NVLink 5; ``action`` is what
    Xid 154 says that the GPU needs, None where that is not understood. ``repeats`` is what comes beside an Xid.
    """

    address: str
    code: int
    switch: bool = False
    fatal: bool = False
    part: str = ""
    link: int | None = None
    reason: int | None = None
    process: str = ""
    pid: int | None = None
    action: int | None = None
    repeats: bool = False


_RECORD = re.compile(rb"(\d{1,9}),(\d{1,18}),(\d{1,18}),[^;\n]*;([^\n]*)")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def parse_record(raw: bytes) -> Record | None:
    """A record without its further lines, which are about devices; None for what is not the beginning of one."""
    found = _RECORD.match(raw)
    if not found:
        return None
    text = _ESCAPED.sub(lambda escaped: bytes([int(escaped[1], 16)]), found[4]) if b"\\" in found[4] else found[4]
    return Record(
        facility=int(found[1]) >> 3,
        sequence=int(found[2]),
        at=int(found[3]),
        text=text.decode("utf-8", "surrogateescape"),
    )


_ADDRESS = r"(?:PCI:)?([0-9a-fA-F]{1,8}):([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})(?:\.([0-7]))?"
# Forms: https://docs.nvidia.com/deploy/xid-errors/working-with-xid-errors.html. A GPU that is divided (MIG) has
# " GPU-I:05" after its address.
_XID = re.compile(rf"NVRM: Xid \({_ADDRESS}(?: [^()]{{0,64}})?\): (\d{{1,5}})(?:, |$)", re.ASCII)
_OFF_THE_BUS = re.compile(rf"NVRM: (?:The NVIDIA )?GPU (?:at )?{_ADDRESS}\b.*fallen off the bus", re.ASCII | re.DOTALL)
_SXID = re.compile(rf"nvidia-nvswitch\d{{1,4}}:? SXid \({_ADDRESS}\): (\d{{1,6}}), (?!Severity |Data )", re.ASCII)
_LOADED = re.compile(r"NVRM: loading NVIDIA UNIX .*Kernel Module", re.ASCII)
_PROCESS = re.compile(
    r"pid='?(?:(\d{1,9})|[^',]{0,32})'?(?:, name='?(.{0,64}?)'?(?=, |$))?(?:, |$)", re.ASCII | re.DOTALL
)
# https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html tells how 144 to 150 are put together, and 154.
_NVLINK_5 = range(144, 151)
_NVLINK = re.compile(
    r"(?P<part>\w[\w/ ]{0,40}?)\s+(?P<degree>Fatal|Non-?fatal)\s+XC ?\d+\s+i ?\d+\s+"
    r"Link (?P<link>\d{1,3}) [(\[]0x(?P<word>[0-9a-fA-F]{1,8})\b[^()\[\]]*[)\]]\s*$",
    re.ASCII,
)
_RECOVERY = re.compile(r"recovery action changed from .* to 0x([0-9a-fA-F]{1,4}) \([^()]*\)\s*$", re.ASCII | re.DOTALL)


PROVOKING = r"^(NVRM: Xid |NVRM: .*fallen off the bus|NVRM: loading NVIDIA UNIX |nvidia-nvswitch\d+:? SXid )"
"""What a watcher of the log looks for: a line that may be a report, or says that the driver is loaded."""


def parse_report(text: str) -> Report | None:
    """What the text of a record reports; None for all that is no error of a GPU or a switch."""
    if found := _XID.match(text):
        return _xid(_address(found), int(found[5]), text[found.end() :])
    if found := _OFF_THE_BUS.match(text):
        return Report(address=_address(found), code=_FALLEN, repeats=True)
    if found := _SXID.match(text):
        rest = text[found.end() :]
        return Report(address=_address(found), code=int(found[5]), switch=True, fatal=rest.startswith("Fatal"))
    return None


def _address(found: re.Match[str]) -> str:
    """The address as the kernel writes it, with the function, which the driver leaves out where it is 0."""
    domain, bus, device = (int(found[number], 16) for number in (1, 2, 3))
    return f"{domain:04x}:{bus:02x}:{device:02x}.{found[4] or 0}"


def _xid(address: str, code: int, text: str) -> Report:
    by = _PROCESS.match(text)
    name = by[2] if by and by[2] and not by[2].startswith("<unknown") else ""
    report = Report(address=address, code=code, process=shown(name), pid=int(by[1]) if by and by[1] else None)
    rest = text[by.end() :] if by else text
    if code == RECOVERY:
        action = _RECOVERY.search(rest)
        return msgspec.structs.replace(report, action=int(action[1], 16) if action else None)
    if code in _NVLINK_5:
        return _nvlink(report, rest)
    return report


def _nvlink(report: Report, text: str) -> Report:
    """An error of NVLink 5. One of another form is fatal unless it says that it is not."""
    found = _NVLINK.search(text)
    if not found:
        return msgspec.structs.replace(report, fatal=not re.search("non-?fatal", text, re.IGNORECASE))
    part = found["part"]
    return msgspec.structs.replace(
        report,
        fatal=found["degree"] == "Fatal",
        part=part,
        link=int(found["link"]),
        # Why the link went down stands in bits 20 to 25 of the first word, before and after R575.
        reason=int(found["word"], 16) >> 20 & 0x3F if part.startswith("NETIR_LINK") else None,
    )


def is_loading(text: str) -> bool:
    """Whether the driver says that it is loaded."""
    return _LOADED.match(text) is not None
