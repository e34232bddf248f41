"""Kernels that are installed and will not be booted: neither the one that runs nor the newest of its kind.

What is wrong with such a kernel is wrong with nothing that runs; it is to be removed, not to be updated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.facts import rpm_version
from agent.facts.debian_version import order
from agent.facts.packages import Package, flavour
from agent.facts.rpm import RpmPackage

# linux-image-6.1.0-30-cloud-amd64, linux-image-unsigned-6.8.0-1020-gcp, linux-modules-nvidia-570-server-6.8.0-1020-gcp,
# linux-headers-6.1.0-30-common, linux-gcp-6.8-headers-6.8.0-1020. Packages such as linux-image-gcp and
# linux-headers-gcp-6.8 hold no kernel but depend on the newest: their numbers have fewer parts.
_OF_A_KERNEL = re.compile(
    r"linux-(?:[a-z0-9.-]+-)?(?P<kind>image|modules|headers|tools|buildinfo|objects|signatures)"
    r"(?:-[a-z][a-z0-9-]*?)?-(?P<release>\d+\.\d+\.\d+.*)"
)
_NO_FLAVOUR = re.compile(r"-common(?:-.*)?|-unsigned|-dbg(?:sym)?")


def superseded_kernels(packages: Iterable[Package], running: str) -> tuple[Package, ...]:
    """The packages of kernels that are neither the ``running`` one (as ``uname -r`` says) nor the newest of a flavour.

    The newest of each flavour stays, of the flavours that do not run too: which one is booted next is not known here.
    """
    present = [(_release(package.name), package) for package in packages if package.present]
    kernels = [(kind, release, package) for (kind, release), package in present if release]
    newest: dict[str, str] = {}
    for kind, release, package in kernels:
        if kind == "image" and package.state == "installed":
            of = flavour(release)
            newest[of] = max(newest.get(of, release), release, key=order)
    kept = (running, *newest.values())
    return tuple(package for _, release, package in kernels if not any(_belongs(release, each) for each in kept))


def _release(name: str) -> tuple[str, str]:
    """Which part of which kernel a package holds; nothing for all other packages."""
    match = _OF_A_KERNEL.fullmatch(name)
    return (match["kind"], _NO_FLAVOUR.sub("", match["release"])) if match else ("", "")


def _belongs(release: str, kernel: str) -> bool:
    """Whether a package is of this kernel: its headers may be for all flavours of a release, and carry none."""
    return release == kernel or kernel.startswith(f"{release}-")


def superseded_kernel_rpms(packages: Iterable[RpmPackage], running: str) -> tuple[RpmPackage, ...]:
    """The same of RPM packages: the versions of a kernel package that are neither its newest nor the running one.

    A running kernel is called ``VERSION-RELEASE.ARCHITECTURE``, with ``+64k`` and the like behind it.
    """
    versions: dict[tuple[str, str], list[RpmPackage]] = {}
    for package in packages:
        if package.name == "kernel" or package.name.startswith("kernel-"):
            versions.setdefault((package.name, package.architecture), []).append(package)
    runs = running.partition("+")[0]
    return tuple(package for of_one in versions.values() for package in _older(of_one) if _uname(package) != runs)


def _older(versions: Sequence[RpmPackage]) -> list[RpmPackage]:
    return sorted(versions, key=lambda each: rpm_version.order(each.evr))[:-1]


def _uname(package: RpmPackage) -> str:
    return f"{package.version}-{package.release}.{package.architecture}"
