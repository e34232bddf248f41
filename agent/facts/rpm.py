"""RPM packages: what is installed, from the database itself or from rpm."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping

from agent.config import Config
from agent.facts import rpm_header, sqlite_rows
from agent.facts.debian_control import STATUS
from agent.facts.rpm_header import ARCH, EPOCH, MODULARITYLABEL, NAME, RELEASE, SOURCERPM, VENDOR, VERSION
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

DIRECTORIES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
"""Where the database is, and where the newer distributions keep it:
https://fedoraproject.org/wiki/Changes/RelocateRPMToUsr"""
DATABASE = "rpmdb.sqlite"

_OTHERS = ("Packages", "Packages.db")
"""The databases of rpm before 4.16 (Berkeley DB), and of SUSE (ndb), which rpm alone reads."""
_RPM = "/usr/bin/rpm"
_TAGS = (NAME, EPOCH, VERSION, RELEASE, ARCH, SOURCERPM, VENDOR, MODULARITYLABEL)
_FORMAT = r"%{NAME}\t%{EPOCH}\t%{VERSION}\t%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{VENDOR}\t%{MODULARITYLABEL}\n"
_VERIFY = "Run `sudo rpm --verifydb`; `sudo rpm --rebuilddb` repairs it."
_DAMAGE = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._-]{0,199}")
_WORD = re.compile(r"[!-~]{1,200}")
_SOURCE = re.compile(r"(.+)-[^-]+-[^-]+\.(?:no)?src\.rpm")
_MODULE = re.compile(r"([^:]+:[^:]+)(?::.*)?")


class RpmPackage(Value, frozen=True, kw_only=True):
    """An installed package. ``source`` is the name of its source package, ``module`` as ``nodejs:18``."""

    name: str
    epoch: int
    version: str
    release: str
    architecture: str
    source: str
    vendor: str = ""
    module: str = ""

    @property
    def subject(self) -> str:
        """The key of findings about it."""
        return f"rpm:{self.name}:{self.architecture}"

    @property
    def evr(self) -> str:
        """Its version as rpm compares it: ``epoch:version-release``, without an epoch of zero."""
        return f"{f'{self.epoch}:' if self.epoch else ''}{self.version}-{self.release}"


class RpmPackages(Fact, frozen=True, kw_only=True):
    """The packages that rpm knows, by name and architecture; several versions of a kernel are several."""

    packages: tuple[RpmPackage, ...]


def _glance(host: Host, _config: Config) -> tuple[tuple[int, ...], ...]:
    """Whether a package was installed or removed."""
    names = (DATABASE, f"{DATABASE}-wal", *_OTHERS)
    return tuple(host.signature(f"{directory}/{name}") for directory in DIRECTORIES for name in names)


@probe(every=dt.timedelta(minutes=15), glance=_glance)
def rpm_packages(host: Host, _config: Config) -> RpmPackages:
    """Installed RPM packages; none on a machine whose packages are dpkg's."""
    try:
        return read(host)
    except AbsentError:
        if host.exists(STATUS):
            return RpmPackages(packages=())
        raise


def read(host: Host) -> RpmPackages:
    """The packages of any machine: this one, a captured one, a container."""
    for directory in DIRECTORIES:
        if host.exists(f"{directory}/{DATABASE}"):
            return _complete(host, f"{directory}/{DATABASE}", _stored(host, f"{directory}/{DATABASE}"))
    for directory in DIRECTORIES:
        for name in _OTHERS:
            if host.exists(f"{directory}/{name}"):
                return _complete(host, f"{directory}/{name}", _told(host, f"{directory}/{name}"))
    raise AbsentError("this machine has no rpm database")


def _complete(host: Host, path: str, said: Iterable[RpmPackage | Unknown | None]) -> RpmPackages:
    packages, gaps = list[RpmPackage](), list[Unknown]()
    for each in said:
        if isinstance(each, RpmPackage):
            packages.append(each)
        elif each:
            gaps.append(each)
        if len(gaps) > _DAMAGE:
            raise CannotLookError(f"{path} is damaged: more than {_DAMAGE} packages cannot be read", _VERIFY)
    # Debian's rpm, the tool, has a database of its own, which stays empty.
    if not (packages or gaps or host.exists("/var/lib/dpkg/status")):
        raise CannotLookError(f"{path} names no package at all", _VERIFY)
    packages.sort(key=lambda each: (each.name, each.architecture, each.evr))
    return RpmPackages(packages=tuple(packages), gaps=tuple(dict.fromkeys(gaps)))


def _stored(host: Host, path: str) -> Iterator[RpmPackage | Unknown | None]:
    """What the database holds: the header of each package, under its number."""
    for row in sqlite_rows.rows(host, path, "Packages"):
        header = row[1] if len(row) == 2 else None  # noqa: PLR2004 -- its number and its header
        try:
            yield package(rpm_header.tags(header if isinstance(header, bytes) else b""), path)
        except rpm_header.HeaderError as error:
            yield _unreadable(path, f"a header: {error}")


def _told(host: Host, path: str) -> Iterator[RpmPackage | Unknown | None]:
    """What rpm says about a database that it alone can read; it is asked on the machine that it is made for."""
    if not host.is_live:
        raise CannotLookError(f"{path} is in a format that only rpm reads")
    try:
        answer = host.run((_RPM, "-qa", "--qf", _FORMAT), deadline=60, limit=16 * MEBIBYTE)
    except AbsentError as error:  # the packages are there all the same
        raise CannotLookError(f"{path} is in a format that only rpm reads, and {error.reason}") from error
    if answer.status:
        raise CannotLookError(f"{_RPM} -qa failed with status {answer.status}: {shown(answer.errors[:200].strip())}")
    return parse_answer(answer.output, path)


def parse_answer(output: bytes, path: str) -> Iterator[RpmPackage | Unknown | None]:
    """What ``rpm -qa`` printed: a line for each package, with a word for each tag that it does not have."""
    for line in output.splitlines():
        values = line.split(b"\t")
        said = {tag: value for tag, value in zip(_TAGS, values, strict=False) if value != b"(none)"}
        epoch = said.pop(EPOCH, b"0")
        if len(values) != len(_TAGS) or not re.fullmatch(rb"\d{1,10}", epoch):
            yield _unreadable(path, "a line of rpm's answer")
        else:
            yield package({**said, EPOCH: int(epoch)}, path)


def package(said: Mapping[int, bytes | int], path: str) -> RpmPackage | Unknown | None:
    """A package from its tags. Keys that signatures are checked with are kept among the packages and are none."""
    text = {tag: value.decode("utf-8", "surrogateescape") for tag, value in said.items() if isinstance(value, bytes)}
    name, version, release = text.get(NAME, ""), text.get(VERSION, ""), text.get(RELEASE, "")
    if name == "gpg-pubkey":
        return None
    architecture = text.get(ARCH, "noarch")
    if not (_NAME.fullmatch(name) and all(map(_WORD.fullmatch, (version, release, architecture)))):
        return _unreadable(path, shown(name[:200]) or "a package without a name")
    source = _SOURCE.fullmatch(text.get(SOURCERPM, ""))
    module = _MODULE.fullmatch(text.get(MODULARITYLABEL, ""))
    epoch = said.get(EPOCH, 0)
    return RpmPackage(
        name=name,
        epoch=epoch if isinstance(epoch, int) else 0,
        version=version,
        release=release,
        architecture=architecture,
        source=shown(source[1]) if source else "",
        vendor=shown(text.get(VENDOR, "")[:200]),
        module=shown(module[1]) if module else "",
    )


def _unreadable(path: str, what: str) -> Unknown:
    return Unknown(reason=f"{path} has a package that cannot be read: {what}", hint=_VERIFY, scope="rpm:")
