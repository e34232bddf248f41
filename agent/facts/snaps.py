"""Snaps: what is installed, by name and version.

Without snapd's socket, from what it keeps on the disk: the file of each revision, a link to the one in use, and the
description in it.
"""

from __future__ import annotations

import datetime as dt
import re

from agent.config import Config
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

FILES = "/var/lib/snapd/snaps"
MOUNTS = ("/snap", "/var/lib/snapd/snap")
"""Where snaps are mounted on Debian and Ubuntu, and on others."""

# NAME_REVISION.snap; x1, x2, … are revisions of people's own: https://snapcraft.io/docs/reference/administration/install-modes/
_FILE = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*(?:_[a-z0-9]+)?)_(?P<revision>x?\d+)\.snap")
_REVISION = re.compile(r"x?\d+")
# A line of its own at the left edge, as snapcraft writes it: https://snapcraft.io/docs/reference/development/yaml-schemas/the-snap-format/
_VERSION = re.compile(
    rb"^version:[ \t]*(?:'([^'\n]{1,64})'|\"([^\"\n\\]{1,64})\"|([\w.+~-][^\n#]{0,63}?))[ \t]*(?:#.*)?$", re.MULTILINE
)


class Snap(Value, frozen=True, kw_only=True):
    """An installed snap at its current revision."""

    name: str
    version: str
    revision: str


class Snaps(Fact, frozen=True, kw_only=True):
    """The installed snaps, by name; none where snapd is not there."""

    snaps: tuple[Snap, ...] = ()


def _glance(host: Host, _config: Config) -> tuple[tuple[int, ...], ...]:
    """Whether a revision came or went, or another is used."""
    return tuple(map(host.signature, (FILES, *MOUNTS)))


@probe(every=dt.timedelta(hours=1), glance=_glance)
def snaps(host: Host, _config: Config) -> Snaps:
    """Installed snaps."""
    try:
        names = {match["name"] for entry in host.entries(FILES) if (match := _FILE.fullmatch(entry.name))}
    except AbsentError:
        return Snaps()
    seen = [_snap(host, name) for name in sorted(names)]
    return Snaps(
        snaps=tuple(each for each in seen if isinstance(each, Snap)),
        gaps=tuple(each for each in seen if isinstance(each, Unknown)),
    )


def _snap(host: Host, name: str) -> Snap | Unknown | None:
    """The revision in use; none of a snap that is there but disabled."""
    try:
        mounts = (f"{mount}/{name}" for mount in MOUNTS)
        mount = next((mount for mount in mounts if host.exists(f"{mount}/current")), "")
        return _current(host, name, mount) if mount else None
    except CannotLookError as error:
        return Unknown(reason=error.reason, hint=error.hint, scope=f"snap:{name}")


def _current(host: Host, name: str, mount: str) -> Snap:
    revision = host.link(f"{mount}/current")
    if not _REVISION.fullmatch(revision):
        raise CannotLookError(f"{mount}/current points to {shown(revision)}, which is no revision")
    description = f"{mount}/{revision}/meta/snap.yaml"
    version = parse_version(host.read(description, follow=False))
    if not version:
        raise CannotLookError(f"{description} names no version")
    return Snap(name=name, version=version, revision=revision)


def parse_version(description: bytes) -> str:
    """The version that a snap.yaml names, or nothing."""
    match = _VERSION.search(description)
    return shown(next(filter(None, match.groups())).strip()) if match else ""
