"""Who made a Debian package, from what dpkg keeps of it: the address of its maintainer, and marks in its version.

Which archive a package came from dpkg does not know, and apt only as long as its lists hold that version; they have
50 MB, and containers have none. Maintainers decide well instead: Ubuntu puts an address of its own into every binary
package (https://wiki.ubuntu.com/DebianMaintainerField), and those of Debian's maintainers who use an address from
elsewhere are known from Debian's lists, in ``knowledge/vendors.toml``.
"""

from __future__ import annotations

import functools
import hashlib
import re

from agent import knowledge
from agent.knowledge import Vendors

_ADDRESS = re.compile(r"[^\s<>@,]+@[^\s<>@,]+")
_DOMAIN = re.compile(r"(?:@|://)([a-z0-9.-]+)")


def vendor(maintainer: str, version: str, system: str) -> str:
    """``Debian``, ``Ubuntu``, ``NVIDIA``, …; empty where nothing tells.

    ``system`` is the ID of os-release: people who maintain packages in two distributions maintain this one's.
    """
    known: Vendors = knowledge.load(Vendors)
    for rebuild in known.rebuilds:
        if re.search(rebuild.version, version):
            return rebuild.name
    names = _candidates(maintainer)
    return next((name for name in names if name.lower() == system), names[0] if names else "")


@functools.lru_cache(maxsize=2048)
def _candidates(maintainer: str) -> tuple[str, ...]:
    """The vendors that a maintainer may speak for. A few hundred maintainers make thousands of packages."""
    known: Vendors = knowledge.load(Vendors)
    said = maintainer.lower()
    domains = _DOMAIN.findall(said)
    names = [
        each.name
        for each in known.vendors
        if any(f".{domain}".endswith(f".{ours}") for domain in domains for ours in each.domains)
        or any(address in said for address in each.addresses)
    ]
    if any(fingerprint(address) in _debian_maintainers() for address in _ADDRESS.findall(said)):
        names.append("Debian")
    return tuple(dict.fromkeys(names))


@functools.cache
def _debian_maintainers() -> frozenset[str]:
    return frozenset(knowledge.load(Vendors).debian_maintainers.split())


def fingerprint(address: str) -> str:
    """An address as the table has it: shorter, and not for harvesters. By chance one in three million hits."""
    return hashlib.sha256(address.lower().encode("utf-8", "surrogateescape")).hexdigest()[:8]
