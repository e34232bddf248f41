"""Which of what Python finds was put there by a Debian package.

Other files of those packages are of no interest here: of dpkg's lists only the lines are looked at that name metadata.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from agent.facts import debian_control
from agent.facts.debian_control import STATUS
from agent.facts.python_distributions import Distribution
from agent.host import MEBIBYTE, Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

INFO = "/var/lib/dpkg/info"
SOURCES = (INFO, STATUS)
"""One of these changes whenever a package is installed or removed."""
_LARGEST_LIST = 64 * MEBIBYTE
"""Ten times the list of google-cloud-cli, the longest that machines of this kind have."""
_ENDINGS = (b".dist-info\n", b".egg-info\n")
_PYTHON = re.compile(r"python(\d+\.\d+)-minimal")
_UPSTREAM = re.compile(r"(?:\d+:)?(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")


class Debian(Value, frozen=True, kw_only=True):
    """What dpkg knows: by directory and name of the metadata the key of its package; releases of Python by ``3.11``."""

    owners: Mapping[str, Mapping[str, str]] = {}
    releases: Mapping[str, str] = {}
    gaps: tuple[Unknown, ...] = ()

    def owned(self, path: str, found: tuple[Distribution, ...]) -> tuple[Distribution, ...]:
        """The distributions at this path with their owners; of a copy that is the owner of its carrier."""
        owners = self.owners.get(path)
        if not owners:
            return found
        locations = {each.name: each.location for each in found if not each.inside}
        return tuple(
            msgspec.structs.replace(each, owner=owners.get(locations.get(each.inside, each.location), ""))
            for each in found
        )


def read_debian(host: Host) -> Debian:
    """What dpkg knows of Python's packages; nothing where there is no dpkg."""
    try:
        brought, gaps = _brought(host)
        installed = _installed(host)
    except AbsentError:
        return Debian()
    except CannotLookError as error:
        return Debian(gaps=(_gap(error),))
    owners: dict[str, dict[str, str]] = {}
    for package, paths in brought.items():
        name, _, architecture = package.partition(":")
        known = architecture or installed.get(name, ("", ""))[0]
        for directory, entry in map(posixpath.split, paths):
            owners.setdefault(directory, {})[entry] = f"deb:{name}:{known}"
    releases = {}
    for name, (_, version) in installed.items():
        if (python := _PYTHON.fullmatch(name)) and (release := _UPSTREAM.match(version)):
            releases[python[1]] = release[1]
    return Debian(owners=owners, releases=releases, gaps=tuple(gaps))


def _brought(host: Host) -> tuple[dict[str, list[str]], list[Unknown]]:
    """The metadata that each package brought, by its name, with the architecture where several can be installed."""
    found: dict[str, list[str]] = {}
    gaps: list[Unknown] = []
    for entry in host.entries(INFO):
        if not entry.name.endswith(".list"):
            continue
        try:
            paths = list(parse_list(host.read(entry.path, limit=_LARGEST_LIST, follow=False)))
        except AbsentError:
            continue  # removed meanwhile
        except CannotLookError as error:
            gaps.append(_gap(error))
            continue
        if paths:
            found[shown(entry.name.removesuffix(".list"))] = paths
    return found, gaps[:1]


def parse_list(text: bytes) -> Iterator[str]:
    """The metadata of distributions in a list of a package's files, as paths from the root."""
    for ending in _ENDINGS:
        at = text.find(ending)
        while at >= 0:
            end = at + len(ending) - 1
            yield text[text.rfind(b"\n", 0, at) + 1 : end].decode("utf-8", "surrogateescape")
            at = text.find(ending, end)


def _installed(host: Host) -> dict[str, tuple[str, str]]:
    """Architecture and version of the packages that are installed, by name."""
    found = {}
    for stanza in _stanzas(host):
        fields = debian_control.fields(stanza)
        name = debian_control.name(fields.get(b"Package", b""))
        architecture = debian_control.name(fields.get(b"Architecture", b""))
        version = debian_control.word(fields.get(b"Version", b""))
        if name and architecture:
            found[name] = (architecture, version)
    return found


def _stanzas(host: Host) -> Iterable[bytes]:
    with contextlib.suppress(debian_control.TruncatedError):  # the probe of the packages says so
        yield from debian_control.stanzas([host.read(STATUS, limit=64 * MEBIBYTE)], STATUS)


def _gap(error: CannotLookError) -> Unknown:
    reason = f"which distributions Debian packages brought cannot be told: {error.reason}"
    return Unknown(reason=reason, hint=error.hint, scope="/usr/lib")
