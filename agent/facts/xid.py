"""Errors of GPUs (Xid) and NVSwitches (SXid), as the driver writes them into the kernel's log.

Only the kernel's own records count: what programs write into the log has another facility.

An error stays until something is known to have ended it: another boot, a driver that was loaded anew, or the driver
itself, which says with Xid 154 that a GPU needs nothing any more. That no more errors come ends nothing. The log
overwrites its oldest records, so that what was seen since the boot is carried from look to look.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator

import msgspec

from agent.config import Config
from agent.facts.gpu import parse_fields
from agent.facts.xid_records import PROVOKING, RECOVERY, Record, Report, is_loading, parse_record, parse_report
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

LOG_SUBJECT = "kernel-log"
"""The scope of what the log no longer holds; errors that are known are judged all the same."""
_MOST_BYTES = 64 * MEBIBYTE
_MOST_KINDS = 1000
_MOST_NAMES = 4
"""A GPU that fails for many processes is no better known by more of their names."""
_LOADING = 10_000_000
"""The driver says that it is loaded after it looked at its GPUs; errors of these microseconds before are from then."""
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class DeviceError(Value, frozen=True, kw_only=True):
    """Errors of one kind of one device. Times are microseconds since the boot, link and reason those of the first.

    ``processes`` are the names of the first few that were hit, ``process`` and ``pid`` are the last one.
    """

    address: str
    code: int
    fatal: bool = False
    part: str = ""
    link: int | None = None
    reason: int | None = None
    first: int
    last: int
    count: int = 1
    processes: tuple[str, ...] = ()
    process: str = ""
    pid: int | None = None


class Need(Value, frozen=True, kw_only=True):
    """What a GPU needs to recover, by the number that the driver gives it; None where that is not understood."""

    address: str
    action: int | None
    since: int


class Card(Value, frozen=True, kw_only=True):
    """A GPU that had errors, as the driver calls it."""

    address: str
    uuid: str = ""
    model: str = ""

    @property
    def key(self) -> str:
        """The subject of findings about it."""
        return self.uuid or self.address


class GpuErrors(Fact, frozen=True, kw_only=True):
    """What the driver reported since this boot, and not yet as over.

    ``position`` is a record of the log up to which all were read, ``complete_from`` the time since which none was
    missed; 0 where none that matters was.
    """

    boot: str = ""
    position: int = -1
    complete_from: int = 0
    cards: tuple[Card, ...] = ()
    errors: tuple[DeviceError, ...] = ()
    needs: tuple[Need, ...] = ()
    switch_errors: tuple[DeviceError, ...] = ()


class _Account:
    """What was reported and is not over, record by record."""

    def __init__(self, known: GpuErrors) -> None:
        """Go on from what is known."""
        self.before = known.position
        self.position = known.position
        self.oldest: int | None = None
        self.complete_from = known.complete_from
        self.moved = False
        self.needs = {each.address: each for each in known.needs}
        self.errors = {_kind(each, switch=False): each for each in known.errors}
        self.errors.update((_kind(each, switch=True), each) for each in known.switch_errors)

    def read(self, records: Iterable[bytes]) -> None:
        """Take in the records that were not read before."""
        for raw in records:
            record = parse_record(raw)
            if not record:
                continue
            if self.oldest is None:
                self.oldest = record.sequence
            if record.sequence <= self.position:
                continue
            if record.sequence > self.position + 1:
                self.complete_from, self.moved = record.at, True
            self.position = record.sequence
            if record.facility == 0:
                self._take(record)

    def _take(self, record: Record) -> None:
        if report := parse_report(record.text):
            self._count(report, record.at)
        elif is_loading(record.text):
            self._loaded(record.at)
        else:
            return
        self.moved = True

    def _loaded(self, at: int) -> None:
        """The driver was loaded anew: it has reset the GPUs, and will report what is still wrong with them."""
        since = at - _LOADING
        self.errors = {kind: each for kind, each in self.errors.items() if each.last >= since}
        self.needs = {address: each for address, each in self.needs.items() if each.since >= since}
        self.complete_from = 0

    def _count(self, report: Report, at: int) -> None:
        if report.code == RECOVERY and not report.switch:
            self._recover(report, at)
            return
        kind = _kind(report, switch=report.switch)
        known = self.errors.get(kind)
        if known is None:
            if len(self.errors) < _MOST_KINDS:
                self.errors[kind] = _first(report, at)
        elif not report.repeats:
            self.errors[kind] = _again(known, report, at)

    def _recover(self, report: Report, at: int) -> None:
        """What the GPU needs now; where it is nothing, all that was reported of it is over."""
        if report.action != 0:
            self.needs[report.address] = Need(address=report.address, action=report.action, since=at)
            return
        self.needs.pop(report.address, None)
        over = [kind for kind, each in self.errors.items() if each.address == report.address and not kind[0]]
        for kind in over:
            del self.errors[kind]

    def kept_position(self) -> int:
        """Where to go on. It is moved as seldom as will do, because a fact that is another one is judged anew.

        It must move past what was counted, and before the record at which it stands is overwritten.
        """
        lagging = self.oldest is not None and self.before < (self.oldest + self.position) // 2
        return self.position if self.moved or lagging else self.before


def _first(report: Report, at: int) -> DeviceError:
    return DeviceError(
        address=report.address, code=report.code, fatal=report.fatal, part=report.part, link=report.link,
        reason=report.reason, first=at, last=at, processes=(report.process,) if report.process else (),
        process=report.process, pid=report.pid,
    )  # fmt: skip


def _again(known: DeviceError, report: Report, at: int) -> DeviceError:
    names = known.processes
    if report.process and report.process not in names and len(names) < _MOST_NAMES:
        names = (*names, report.process)
    return msgspec.structs.replace(
        known, last=at, count=known.count + 1, processes=names, process=report.process, pid=report.pid
    )


def _kind(each: Report | DeviceError, *, switch: bool) -> tuple[bool, str, int, bool, str, int | None]:
    return (switch, each.address, each.code, each.fatal, each.part, each.reason)


@probe(every=dt.timedelta(minutes=10), kernel_log=PROVOKING)
def gpu_errors(host: Host, _config: Config, earlier: GpuErrors | None) -> GpuErrors:
    """Errors of GPUs and NVSwitches that the driver reported in the kernel's log since the boot."""
    if not (earlier and earlier.boot) and not _has_nvidia(host):
        return GpuErrors()
    boot = shown(host.line("/proc/sys/kernel/random/boot_id"))
    known = earlier if earlier and earlier.boot == boot else None
    account, gaps = _Account(known or GpuErrors()), []
    try:
        account.read(host.kernel_log(limit=_MOST_BYTES))
    except CannotLookError as error:
        if account.position < 0:
            raise
        gaps.append(Unknown(reason=error.reason, hint=error.hint))
    gaps += _missed(account)
    errors = [each for kind, each in account.errors.items() if not kind[0]]
    return GpuErrors(
        boot=boot,
        position=account.kept_position(),
        complete_from=account.complete_from,
        cards=tuple(_cards(host, {each.address for each in errors} | account.needs.keys(), known)),
        errors=tuple(errors),
        needs=tuple(account.needs.values()),
        switch_errors=tuple(each for kind, each in account.errors.items() if kind[0]),
        gaps=tuple(gaps),
    )


def _has_nvidia(host: Host) -> bool:
    """Whether NVIDIA's driver or a device of NVIDIA's is there, a GPU or a switch."""
    if host.exists("/proc/driver/nvidia/version"):
        return True
    try:
        devices = host.entries("/sys/bus/pci/devices")
    except AbsentError:  # a kernel without PCI
        return False
    return any(_vendor(host, device.path) == "0x10de" for device in devices)


def _vendor(host: Host, path: str) -> str:
    try:
        return host.line(f"{path}/vendor")
    except AbsentError:  # unplugged meanwhile
        return ""


def _missed(account: _Account) -> Iterator[Unknown]:
    if account.complete_from:
        minutes = account.complete_from // 60_000_000 + 1
        yield Unknown(
            reason=f"GPU errors of the first {minutes} minutes after the boot: the kernel's log was overwritten",
            hint="Only a restart begins a new log; sudo journalctl -k may still have the old records.",
            scope=LOG_SUBJECT,
        )
    if len(account.errors) >= _MOST_KINDS:
        yield Unknown(reason=f"more than {_MOST_KINDS} kinds of GPU errors were reported, further ones are not counted")


def _cards(host: Host, addresses: Iterable[str], known: GpuErrors | None) -> Iterator[Card]:
    """The GPUs at these addresses. One that is gone keeps the name under which it was known."""
    remembered = {card.address: card for card in known.cards} if known else {}
    for address in sorted(addresses):
        before = remembered.get(address, Card(address=address))
        try:
            fields = parse_fields(host.text(f"/proc/driver/nvidia/gpus/{address}/information"))
        except CannotLookError:  # lost with its GPU, or there is no driver any more
            yield before
            continue
        uuid = fields.get("GPU UUID", "")
        yield Card(
            address=address,
            uuid=uuid if _UUID.fullmatch(uuid) else before.uuid,
            model=before.model or shown(fields.get("Model", ""))[:64],
        )
