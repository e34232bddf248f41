"""Debian packages: what is installed, which security updates wait, and whether a reboot is due.

Everything is read from the databases of dpkg and apt as they lie on the machine; no package tool changes anything
and nothing is fetched, so pending updates are those that the last ``apt-get update`` made known.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from agent.config import Config
from agent.facts import apt_lists, debian_control
from agent.facts.debian_control import STATUS
from agent.facts.debian_version import order
from agent.facts.machine import parse_os_release
from agent.facts.rpm import DIRECTORIES as RPM_DIRECTORIES
from agent.facts.vendors import vendor
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

JOURNAL = "/var/lib/dpkg/updates"
REBOOT = "/run/reboot-required"

_AUDIT = "Run `sudo dpkg --audit`; /var/backups keeps the database of the days before as dpkg.status.*."
_FETCH = "Run `sudo apt-get update`."
_DAMAGE = 100
_STATES = {
    b"not-installed", b"config-files", b"half-installed", b"unpacked",
    b"half-configured", b"triggers-awaited", b"triggers-pending", b"installed",
}  # fmt: skip
_SOURCE = re.compile(rb"(\S+)(?:\s+\((\S+)\))?")
# 6.1.0-30-cloud-amd64, 6.12.43+deb13-cloud-amd64, 6.1.0-0.deb11.21-cloud-amd64, 6.8.0-1020-gcp
_RELEASE = re.compile(r"\d+(?:\.\d+)+(?:[+~][\w.+~]*)?(?:-\d[\d.a-z]*)?-(?P<flavour>.+)")
# 2.34-0.1ubuntu9.1+esm1, 8.9p1-3ubuntu0.10~esm2: https://documentation.ubuntu.com/pro/
_EXTENDED = re.compile(r"[+~]esm\d")
_IMAGE = re.compile(r"linux-image-(?:unsigned-)?(?P<release>\d.*?)(?:-unsigned)?")


class Package(Value, frozen=True, kw_only=True):
    """A binary package that dpkg knows. ``state`` is dpkg's word; ``config-files`` is one that was removed.

    ``vendor`` is who made it, as its maintainer and version tell: ``Debian``, ``Ubuntu``, ``NVIDIA``; empty where
    nothing does.

    States: https://manpages.debian.org/bookworm/dpkg/dpkg.1.en.html#Package_states
    """

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    state: str
    held: bool = False
    reinstall: bool = False
    vendor: str = ""

    @property
    def subject(self) -> str:
        """The key of findings about it."""
        return f"deb:{self.name}:{self.architecture}"

    @property
    def present(self) -> bool:
        """Whether its files are on the machine."""
        return self.state not in {"not-installed", "config-files"}

    @property
    def is_extended(self) -> bool:
        """Whether it is a build of Ubuntu Pro, which goes on when the free updates of a release have ended."""
        return bool(_EXTENDED.search(self.version))


class Packages(Fact, frozen=True, kw_only=True):
    """The packages that dpkg knows, by name and architecture, those that were removed but not purged included."""

    packages: tuple[Package, ...]


class Update(Value, frozen=True, kw_only=True):
    """A package of which a security archive has a newer version."""

    package: Package
    available: str
    archive: str


class Updates(Fact, frozen=True, kw_only=True):
    """What the lists of the security archives offer beyond what is installed.

    ``architecture`` is the machine's own; ``refreshed`` is when the newest of the security archives was published
    that apt fetched. Updates that no security archive holds (-updates, point releases, third parties) are left out.
    """

    architecture: str
    archives: tuple[str, ...]
    refreshed: dt.datetime
    pending: tuple[Update, ...]


class Kernel(Value, frozen=True, kw_only=True):
    """An installed kernel: its release as ``uname -r`` gives it, and the version of its package."""

    release: str
    version: str


class Reboot(Fact, frozen=True, kw_only=True):
    """What waits for a reboot. ``newest`` is the newest installed kernel of the running one's flavour.

    ``build`` is the package version that the running kernel was built as, where it says so; Debian's do.
    """

    required: bool
    asked_by: tuple[str, ...]
    running: str
    build: str
    newest: Kernel | None


def parse_status(content: bytes, system: str = "") -> Packages:
    """The database of dpkg. A stanza that cannot be read is a gap; one of a package never installed says nothing.

    ``system`` is the ID of os-release, which tells whose of several vendors a package is.
    """
    known: dict[str, Package] = {}
    gaps: list[Unknown] = []
    try:
        for stanza in debian_control.stanzas([content], STATUS):
            read = _package(debian_control.fields(stanza), system)
            if isinstance(read, Package) and known.setdefault(read.subject, read) is not read:
                read = _unreadable(f"{read.name} for {read.architecture} a second time", read.subject)
            if isinstance(read, Unknown):
                gaps.append(read)
            if len(gaps) > _DAMAGE:
                raise CannotLookError(f"{STATUS} is damaged: more than {_DAMAGE} stanzas cannot be read", _AUDIT)
    except debian_control.TruncatedError as error:
        gaps.append(Unknown(reason=error.reason, hint=_AUDIT))
    return Packages(packages=tuple(known[subject] for subject in sorted(known)), gaps=tuple(gaps))


def _package(fields: dict[bytes, bytes], system: str) -> Package | Unknown | None:
    name = debian_control.name(fields.get(b"Package", b""))
    wanted, flag, state = (*fields.get(b"Status", b"").split(), b"", b"", b"")[:3]
    if name and state == b"not-installed":
        return None
    version = debian_control.word(fields.get(b"Version", b""))
    architecture = debian_control.name(fields.get(b"Architecture", b""))
    source = _SOURCE.fullmatch(fields.get(b"Source", name.encode()))
    if not (name and version and architecture and source and state in _STATES):
        return _unreadable(name or "a package without a name", f"deb:{name}" if name else "")
    return Package(
        name=name,
        version=version,
        architecture=architecture,
        source=shown(source[1]),
        source_version=shown(source[2] or version.encode()),
        state=state.decode(),
        held=wanted == b"hold",
        reinstall=flag != b"ok",
        vendor=vendor(fields.get(b"Maintainer", b"").decode("utf-8", "surrogateescape"), version, system),
    )


def _unreadable(what: str, scope: str) -> Unknown:
    return Unknown(reason=f"{STATUS} has a stanza that cannot be read: {what}", hint=_AUDIT, scope=scope)


def _glance(host: Host, _config: Config) -> tuple[tuple[int, ...], ...]:
    """Whether a package was installed or removed, lists were fetched, a reboot was asked for."""
    return tuple(map(host.signature, (STATUS, apt_lists.DIRECTORY, REBOOT)))


@probe(every=dt.timedelta(minutes=15), glance=_glance)
def packages(host: Host, _config: Config) -> Packages:
    """Installed Debian packages; none on a machine whose packages are rpm's."""
    try:
        return read(host)
    except AbsentError:
        if any(host.exists(directory) for directory in RPM_DIRECTORIES):
            return Packages(packages=())
        raise


def read(host: Host) -> Packages:
    """The packages of any machine: this one, a captured one, a container."""
    system = ""
    with contextlib.suppress(CannotLookError):
        system = parse_os_release(host.text("/etc/os-release")).get("ID", "")
    try:
        seen = parse_status(host.read(STATUS, limit=64 * MEBIBYTE), system)
    except AbsentError as error:
        raise AbsentError("this machine has no dpkg database", "Only Debian and Ubuntu packages are read.") from error
    if not seen.packages:
        raise CannotLookError(f"{STATUS} names no package at all", _AUDIT)
    return msgspec.structs.replace(seen, gaps=(*seen.gaps, *_journal(host)))


def _journal(host: Host) -> Iterator[Unknown]:
    """What dpkg has done but not yet written into its database, while it works or after it was interrupted."""
    with contextlib.suppress(AbsentError):
        if any(entry.name.isdigit() for entry in host.entries(JOURNAL)):
            hint = "If no dpkg runs, it was interrupted: run `sudo dpkg --configure -a`."
            yield Unknown(reason=f"dpkg is at work: {JOURNAL} is not empty", hint=hint, scope="deb:")


@probe(every=dt.timedelta(minutes=15), glance=_glance)
def updates(host: Host, config: Config) -> Updates:
    """Security updates that apt knows of and that are not installed."""
    seen = packages(host, config)
    installed: dict[bytes, list[Package]] = {}
    for package in seen.packages:
        if package.present:
            installed.setdefault(package.name.encode(), []).append(package)
    archives = _archives(host)
    pending: dict[str, Update] = {}
    gaps = list(seen.gaps)
    for said in _said(host, archives, installed):
        if isinstance(said, Unknown):
            gaps.append(said)
            continue
        known = pending.get(said.package.subject)
        if known is None or order(said.available) > order(known.available):
            pending[said.package.subject] = said
    return Updates(
        architecture=next((package.architecture for package in installed.get(b"dpkg", ())), ""),
        archives=tuple(archive.name for archive in archives),
        refreshed=max(archive.dated for archive in archives),
        pending=tuple(pending[subject] for subject in sorted(pending)),
        gaps=tuple(dict.fromkeys(gaps)),
    )


def _archives(host: Host) -> tuple[apt_lists.Archive, ...]:
    archives: tuple[apt_lists.Archive, ...] = ()
    with contextlib.suppress(AbsentError):
        archives = apt_lists.security_archives(host)
    if not archives:
        hint = "Run `sudo apt-get update`; the security archive has to be among the apt sources."
        raise CannotLookError("apt has no package list of a security archive", hint)
    return archives


def _said(
    host: Host, archives: Iterable[apt_lists.Archive], installed: Mapping[bytes, Sequence[Package]]
) -> Iterator[Update | Unknown]:
    """What every list of every archive says about the installed packages; a list that cannot be read is a gap."""
    for archive in archives:
        if not archive.lists:
            yield Unknown(reason=f"apt has no package list of {archive.name}", hint=_FETCH, scope="deb:")
        for path in archive.lists:
            yield from _said_by(host, path, archive.name, installed)


def _said_by(
    host: Host, path: str, archive: str, installed: Mapping[bytes, Sequence[Package]]
) -> Iterator[Update | Unknown]:
    try:
        yield from newer(apt_lists.stanzas(host, path), installed, archive)
    except CannotLookError as error:
        yield Unknown(reason=f"{archive}: {error.reason}", hint=error.hint or _FETCH, scope="deb:")


def newer(
    stanzas: Iterable[bytes], installed: Mapping[bytes, Sequence[Package]], archive: str
) -> Iterator[Update | Unknown]:
    """The newer versions that a list has of installed packages, by their names."""
    for stanza in stanzas:
        # A list has tens of thousands of stanzas: only those of installed packages are taken apart.
        end = stanza.find(b"\n")
        quick = end > 0 and stanza.startswith(b"Package: ")
        named = stanza[9:end] if quick else debian_control.fields(stanza).get(b"Package", b"")
        if named in installed:
            yield from _compared(debian_control.fields(stanza), installed[named], archive)
        elif not debian_control.name(named):
            yield Unknown(reason=f"{archive}: a stanza without a package name", hint=_FETCH, scope="deb:")


def _compared(fields: dict[bytes, bytes], installed: Sequence[Package], archive: str) -> Iterator[Update | Unknown]:
    available = debian_control.word(fields.get(b"Version", b""))
    architecture = debian_control.name(fields.get(b"Architecture", b""))
    for package in installed:
        if not (available and architecture):
            reason = f"{archive}: the stanza of {package.name} cannot be read"
            yield Unknown(reason=reason, hint=_FETCH, scope=package.subject)
        elif _fits(package.architecture, architecture) and order(available) > order(package.version):
            yield Update(package=package, available=available, archive=archive)


def _fits(installed: str, available: str) -> bool:
    """A package may become independent of the architecture or cease to be: apt takes both for an update."""
    return installed == available or "all" in {installed, available}


@probe(every=dt.timedelta(minutes=15), glance=_glance)
def reboot(host: Host, config: Config) -> Reboot:
    """Whether a reboot is due: asked for by an update, or by a newer kernel on the disk."""
    seen = packages(host, config)
    running = shown(host.line("/proc/sys/kernel/osrelease"))
    built = re.search(r"\bDebian (\S+)", host.line("/proc/sys/kernel/version"))
    newest = newest_kernel(seen.packages, running)
    gaps = [msgspec.structs.replace(gap, scope="kernel") for gap in seen.gaps]
    if newest is None:
        reason = f"no installed kernel package is of the kind of the running kernel {running}"
        hint = "So it is in a container, and under a kernel of one's own making."
        gaps.append(Unknown(reason=reason, hint=hint, scope="kernel"))
    return Reboot(
        required=host.exists(REBOOT),
        asked_by=_asked_by(host),
        running=running,
        build=shown(built[1]) if built else "",
        newest=newest,
        gaps=tuple(gaps),
    )


def newest_kernel(installed: Iterable[Package], running: str) -> Kernel | None:
    """The newest installed kernel of the running one's flavour, such as ``cloud-amd64`` or ``gcp``."""
    images = ((_IMAGE.fullmatch(package.name), package) for package in installed if package.state == "installed")
    kernels = (Kernel(release=match["release"], version=package.version) for match, package in images if match)
    alike = [kernel for kernel in kernels if flavour(kernel.release) == flavour(running) != ""]
    return max(alike, key=lambda kernel: (order(kernel.release), order(kernel.version)), default=None)


def flavour(release: str) -> str:
    """What is left of a kernel release without its numbers; nothing where it is not of the distributors' form."""
    match = _RELEASE.fullmatch(release)
    return match["flavour"] if match else ""


def _asked_by(host: Host) -> tuple[str, ...]:
    """The packages that asked for a reboot; each may stand there many times."""
    with contextlib.suppress(AbsentError):
        return tuple(
            sorted({shown(line.strip()) for line in host.read(f"{REBOOT}.pkgs", limit=65536).splitlines()} - {""})
        )
    return ()
