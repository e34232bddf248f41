"""Where model directories are: those configured, and those found in well-known places, offline."""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Iterator
from typing import NamedTuple

from agent.host import Host, shown
from agent.knowledge import ModelPlace, ModelPlaces
from agent.model import AbsentError, CannotLookError, Unknown, Value

_PASSWD_FIELDS = 7  # https://man7.org/linux/man-pages/man5/passwd.5.html
_NOBODY = -1


class Place(Value, frozen=True, kw_only=True):
    """A directory to look at, no link in its path, and why. With ``suffixes`` it counts only if it holds one of them.

    The path is as the file system has it, not as shown.
    """

    path: str
    why: str
    suffixes: tuple[str, ...] = ()


class Home(NamedTuple):
    """A home, whose it is by name, and whose by owner."""

    user: str
    path: str
    owner: int


def configured(host: Host, directories: tuple[str, ...]) -> Iterator[Place | Unknown]:
    """The directories that the configuration names; ``~`` is every home, ``~name`` that of one user."""
    for directory in directories:
        if not directory.startswith("~"):
            missing = Unknown(reason=f"{shown(directory)}: no such directory", scope=shown(directory))
            yield _resolved(host, directory, why="configured", owner=None) or missing
            continue
        user, _, below = directory[1:].partition("/")
        for home in _homes(host):
            if isinstance(home, Unknown):
                yield home
            elif user in {"", home.user}:
                place = _resolved(host, f"{home.path}/{below}", why="configured", owner=home.owner)
                yield from [place] if place else []


def discovered(host: Host, table: ModelPlaces) -> Iterator[Place | Unknown]:
    """What is in the well-known places. A place that may not be looked at is an Unknown."""
    for place in table.places:
        if not place.path.startswith("~"):
            yield from _inside(host, place, place.path, None, table.suffixes)
    in_homes = [place for place in table.places if place.path.startswith("~")]
    for home in _homes(host):
        if isinstance(home, Unknown):
            yield home
            continue
        for place in in_homes:
            yield from _inside(host, place, home.path + place.path[1:], home.owner, table.suffixes)


def _inside(
    host: Host, place: ModelPlace, path: str, owner: int | None, suffixes: tuple[str, ...]
) -> Iterator[Place | Unknown]:
    """The place itself, or each model directory in it."""
    top = _resolved(host, path, why=place.why, owner=owner)
    if not isinstance(top, Place) or not place.each:
        if top:
            yield top
        return
    try:
        entries = host.entries(top.path)
        status = host.stat(top.path)
    except CannotLookError as error:
        yield Unknown(reason=error.reason, hint=error.hint, scope=shown(top.path))
        return
    if place.holding and any(entry.kind == "file" and entry.name.lower().endswith(suffixes) for entry in entries):
        yield top
        return
    owner = _NOBODY if status.st_mode & stat.S_IWOTH else status.st_uid
    for entry in entries:
        if entry.kind in {"directory", "link"} and fnmatch.fnmatchcase(entry.name, place.each):
            found = _resolved(host, entry.path, why=place.why, owner=owner, suffixes=suffixes if place.holding else ())
            if found:
                yield found


def _resolved(
    host: Host, path: str, *, why: str, owner: int | None, suffixes: tuple[str, ...] = ()
) -> Place | Unknown | None:
    """The directory at a path, or None where there is none.

    Where a user may have put a link it is followed only to what is theirs: otherwise anyone could have root list
    and hash any directory. ``owner`` is that user; root, or None, may point anywhere.
    """
    try:
        real = host.resolve(path)
        status = host.stat(real)
    except AbsentError:
        return None
    except CannotLookError as error:
        name = shown(path)
        return Unknown(reason=error.reason.replace(f"{name}/.", name), hint=error.hint, scope=name)
    if real != path and owner and status.st_uid != owner:
        return Unknown(
            reason=f"{shown(path)} is a link to {shown(real)}, which belongs to somebody else",
            hint="If it is meant, name that directory in models.directories.",
            scope=shown(path),
        )
    return Place(path=real, why=why, suffixes=suffixes) if stat.S_ISDIR(status.st_mode) else None


def _homes(host: Host) -> Iterator[Home | Unknown]:
    """Each home once: those of /etc/passwd, root's, and what lies in /home. A closed one is an Unknown."""
    named = {"/root": "root"}
    try:
        for line in host.text("/etc/passwd").splitlines():
            fields = line.split(":")
            if len(fields) == _PASSWD_FIELDS and fields[5].startswith("/"):
                named.setdefault(fields[5].rstrip("/"), fields[0])
    except AbsentError:
        pass
    except CannotLookError as error:
        yield Unknown(reason=error.reason, hint=error.hint)
    try:
        for entry in host.entries("/home"):
            named.setdefault(entry.path, entry.name)
    except AbsentError:
        pass
    except CannotLookError as error:
        yield Unknown(reason=error.reason, hint=error.hint, scope="/home")
    named.pop("", None)  # "/" is the home of users that have none
    for path, user in named.items():
        if home := _home(host, path, user):
            yield home


def _home(host: Host, path: str, user: str) -> Home | Unknown | None:
    try:
        return Home(user, path, host.stat(f"{path}/.").st_uid)  # "/." so that a closed one is noticed here, once
    except AbsentError:
        return None
    except CannotLookError as error:
        name = shown(path)
        return Unknown(reason=error.reason.replace(f"{name}/.", name), hint=error.hint, scope=name)
