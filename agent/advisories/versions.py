"""The order of versions in each ecosystem, and which versions a range holds. Pure."""

from __future__ import annotations

import functools
import re
from typing import Any

from agent.advisories.advisory import Advisory, Range
from agent.facts import debian_version, rpm_version

_NUMBERS = re.compile(r"\d+(\.\d+)*")
_BEGINNING = {"", "0"}
"""From the first version on, whatever it is: `0` sorts below all, https://ossf.github.io/osv-schema/#affectedrangesevents-fields"""


class NotOrderedError(ValueError):
    """A version that its ecosystem does not allow, or an ecosystem whose order is not known."""


def family(ecosystem: str) -> str:
    """The ecosystem without its release, which decides the order: ``Debian`` for ``Debian:12``."""
    return ecosystem.partition(":")[0]


@functools.lru_cache(maxsize=8192)
def order(ecosystem: str, version: str) -> Any:
    """What sorts as the ecosystem's own tools sort its versions.

    A local part (``2.1.0+cu121``) is left out: it says how a version was built, and advisories speak of the version.

    Raises:
        NotOrderedError: the version is none there.
    """
    kind = family(ecosystem)
    if kind == "PyPI":
        return _python(version)
    if kind in {"Debian", "Ubuntu"} and version:
        return debian_version.order(version)
    if kind in {"Rocky Linux", "AlmaLinux"} and version:
        return rpm_version.order(version)
    if kind == "NVIDIA" and _NUMBERS.fullmatch(version):
        return tuple(map(int, version.split(".")))
    raise NotOrderedError(f"{version or 'no version'} cannot be compared with versions of {kind}")


def _python(version: str) -> Any:
    # Not for commands that compare nothing; the order itself is https://peps.python.org/pep-0440/
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415 -- costs 20 ms, which --help has not

    try:
        parsed = Version(version)
        return Version(parsed.public) if parsed.local else parsed
    except InvalidVersion:
        raise NotOrderedError(f"{version or 'no version'} is not a version of PEP 440") from None


def is_release(version: str) -> bool:
    """Whether a Python version names one published release, and is not what a build from sources calls itself.

    ``0.0.0`` is what build tools write where they find no version.
    """
    try:
        parsed = order("PyPI", version)
    except NotOrderedError:
        return False
    return "+" not in version and not parsed.is_prerelease and any(parsed.release)


def is_affected(ecosystem: str, advisory: Advisory, version: str) -> bool | None:
    """Whether the version has the flaw; None where a bound that nobody understands decides it.

    Raises:
        NotOrderedError: the version itself cannot be compared.
    """
    if any(each.introduced in _BEGINNING and not (each.fixed or each.last_affected) for each in advisory.ranges):
        return True  # whatever the version: so it is with most malicious packages
    place = order(ecosystem, version)
    # A listed version that no tool can compare is not this one, which can be.
    if any(_order_or_none(ecosystem, each) == place for each in advisory.versions):
        return True
    held = {_holds(ecosystem, bounds, place) for bounds in advisory.ranges}
    if True in held:
        return True
    return None if advisory.unclear or None in held else False


def _order_or_none(ecosystem: str, version: str) -> Any:
    try:
        return order(ecosystem, version)
    except NotOrderedError:
        return None


def _holds(ecosystem: str, bounds: Range, place: Any) -> bool | None:
    """Whether what sorts at that place lies in the range; None where one of its bounds cannot be compared."""
    try:
        if bounds.introduced not in _BEGINNING and place < order(ecosystem, bounds.introduced):
            return False
        if bounds.fixed and place >= order(ecosystem, bounds.fixed):
            return False
        return not (bounds.last_affected and place > order(ecosystem, bounds.last_affected))
    except NotOrderedError:
        return None


def nearest_fix(ecosystem: str, advisory: Advisory, version: str) -> str:
    """The first later version that the advisory names as fixed, and that has the flaw in no other range either."""
    place = order(ecosystem, version)
    known = {each.fixed: _order_or_none(ecosystem, each.fixed) for each in advisory.ranges if each.fixed}
    later = {fixed: at for fixed, at in known.items() if at is not None and at > place}
    ascending = sorted(later, key=later.__getitem__)
    return next((each for each in ascending if is_affected(ecosystem, advisory, each) is False), "")


def last_affected(ecosystem: str, advisory: Advisory, version: str) -> str:
    """The last version with the flaw where the advisory names no fixed one but an end: what is later is without it.

    Empty where no end is named, or a later range begins after it.
    """
    place = order(ecosystem, version)
    held = [each for each in advisory.ranges if _holds(ecosystem, each, place)]
    if advisory.unclear or not held or not all(each.last_affected for each in held):
        return ""
    last = max((each.last_affected for each in held), key=lambda each: order(ecosystem, each))
    begins = (
        _order_or_none(ecosystem, each.introduced) for each in advisory.ranges if each.introduced not in _BEGINNING
    )
    return "" if any(each is None or each > place for each in begins) else last


def same_major(ecosystem: str, one: str, other: str) -> bool:
    """Whether both are of one major version, so that moving from one to the other breaks little."""
    if family(ecosystem) == "PyPI":
        first, second = order(ecosystem, one), order(ecosystem, other)
        return bool((first.epoch, first.major) == (second.epoch, second.major))
    return one.partition(".")[0] == other.partition(".")[0]
