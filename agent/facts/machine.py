"""The machine itself: which system runs on it, since when."""

from __future__ import annotations

import datetime as dt
import hashlib
import re

from agent.config import Config
from agent.host import Host, shown
from agent.model import Fact, probe


class Machine(Fact, frozen=True, kw_only=True):
    """What is running. ``release`` is ``ID VERSION_ID`` of os-release; ``identity`` a hash that names this machine."""

    hostname: str
    release: str
    pretty_name: str
    kernel: str
    boot: str
    identity: str


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of an os-release file; lines of another form are passed over.

    Format: https://www.freedesktop.org/software/systemd/man/latest/os-release.html
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.isidentifier():
            quote = value[:1]
            fields[name] = value[1:-1] if quote in {'"', "'"} and value.endswith(quote) and len(value) > 1 else value
    return fields


_ECOSYSTEMS = (
    (re.compile(r"debian (\d+)"), "Debian:{0}"),
    (re.compile(r"ubuntu (\d?[02468]\.04)"), "Ubuntu:{0}:LTS"),
    (re.compile(r"ubuntu (\d+\.\d\d)"), "Ubuntu:{0}"),
    (re.compile(r"rocky (\d+)(?:\.\d+)*"), "Rocky Linux:{0}"),
    (re.compile(r"almalinux (\d+)(?:\.\d+)*"), "AlmaLinux:{0}"),
)
"""Releases as os-release names them, and as OSV does. Ubuntu's of each second April have long-term support:
https://ubuntu.com/about/release-cycle"""


def ecosystem(release: str) -> str:
    """What OSV calls the packages of a release (``debian 12``); nothing where it has no such ecosystem.

    Names: https://ossf.github.io/osv-schema/#defined-ecosystems
    """
    for known, name in _ECOSYSTEMS:
        if match := known.fullmatch(release):
            return name.format(match[1])
    return ""


@probe(every=dt.timedelta(hours=1))
def machine(host: Host, _config: Config) -> Machine:
    """Operating system, kernel and boot."""
    release = parse_os_release(host.text("/etc/os-release"))
    # The machine id itself is confidential, so it leaves only as a hash bound to us:
    # https://www.freedesktop.org/software/systemd/man/latest/machine-id.html
    secret = host.line("/etc/machine-id") if host.exists("/etc/machine-id") else ""
    return Machine(
        hostname=shown(host.line("/proc/sys/kernel/hostname")),
        release=shown(f"{release.get('ID', '')} {release.get('VERSION_ID', '')}".strip()),
        pretty_name=shown(release.get("PRETTY_NAME", "an unnamed system")),
        kernel=shown(host.line("/proc/sys/kernel/osrelease")),
        boot=host.line("/proc/sys/kernel/random/boot_id"),
        identity=hashlib.sha256(f"dlvmguard {secret}".encode()).hexdigest()[:32] if secret else "",
    )
