"""The distributions in one site-packages directory, from their metadata: what they are, and how they came there."""

from __future__ import annotations

import functools
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Mapping

import msgspec

from agent.facts import mounts, python_copies
from agent.facts.python_origin import Built, built, installer
from agent.host import Entry, Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_METADATA = {".dist-info": "METADATA", ".egg-info": "PKG-INFO", ".egg": "EGG-INFO/PKG-INFO"}
"""Where core metadata lies in a directory of this ending.

https://packaging.python.org/en/latest/specifications/recording-installed-packages/
https://setuptools.pypa.io/en/latest/deprecated/python_eggs.html
"""
_LINK = ".egg-link"
"""A file that names the sources of a development install of old.

https://setuptools.pypa.io/en/stable/deprecated/python_eggs.html#egg-links
"""
_EDITABLE = "__editable__."
"""How setuptools begins the name of the file that leads to the sources of an editable install."""
_HEAD, _LONG_HEAD = 4096, 65536
"""Name and version stand in the first lines. Only where they do not is more read, and that is not without end."""
_FIELD = re.compile(rb"[!-9;-~]+:")
"""How a header line begins: https://www.rfc-editor.org/rfc/rfc5322#section-2.2"""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
"""https://packaging.python.org/en/latest/specifications/name-normalization/"""
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_~-]{0,127}")
"""A version of PEP 440 or of the time before it; whoever compares it decides what it means."""


class Distribution(Value, frozen=True, kw_only=True):
    """A package as it was installed. ``location`` is its metadata, relative to the environment.

    With a ``problem`` the metadata told nothing: there is no version, and the name is that of the directory.
    ``installer`` is what it says of itself (``pip``, ``uv``, ``conda``); ``built`` is ``release``, or how it was made
    from sources that may be any: ``editable``, ``vcs``, ``local``; ``owner`` is the key of the system's package that
    brought it (``deb:python3-yaml:all``); ``inside`` is the distribution that carries a copy of it for itself.
    """

    name: str
    version: str = ""
    location: str
    problem: str = ""
    installer: str = ""
    built: Built = "release"
    owner: str = ""
    inside: str = ""


def normalised(name: str) -> str:
    """The one spelling of a name: https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", name).lower()


_Mounted = Callable[[], Mapping[str, str]]
"""The mounts of the machine, read when they are asked for, once."""


def read(host: Host, path: str) -> Iterator[Distribution | Unknown]:
    """Every distribution in this directory, in the order of its metadata's names, then the copies inside of some.

    One whose metadata tells nothing has a problem; one that we may not read is Unknown.
    """
    entries = host.entries(path)
    editable = {_name_of(each.name.removeprefix(_EDITABLE)) for each in entries if each.name.startswith(_EDITABLE)}
    mounted = functools.cache(lambda: mounts.read(host))
    carriers: dict[str, Distribution] = {}
    for entry in entries:
        look = _look(host, entry, mounted)
        if isinstance(look, Distribution):
            if look.name in editable:
                look = msgspec.structs.replace(look, built="editable")
            if look.name in python_copies.PLACES:
                carriers[look.name] = look
        if look:
            yield look
    for name in sorted(carriers):
        yield from _copies(host, path, carriers[name], mounted)


def _look(host: Host, entry: Entry, mounted: _Mounted) -> Distribution | Unknown | None:
    """The distribution that this belongs to; None where it is no metadata, or gone."""
    stem, dot, ending = entry.name.rpartition(".")
    if not stem or (dot + ending not in _METADATA and dot + ending != _LINK):
        return None
    name = _name_of(stem)
    try:
        return _linked(host, entry, mounted) if dot + ending == _LINK else _installed(host, entry, dot + ending)
    except _BrokenError as error:
        if not host.exists(entry.path):
            return None  # it was removed just now, which is nobody's problem
        return Distribution(name=name, location=shown(entry.name), problem=error.reason)
    except CannotLookError as error:
        return Unknown(reason=error.reason, hint=error.hint, scope=f"{shown(posixpath.dirname(entry.path))}#{name}")


def _installed(host: Host, entry: Entry, ending: str) -> Distribution:
    name, version = _identity(host, entry, ending)
    found = Distribution(name=name, version=version, location=shown(entry.name))
    if ending != ".dist-info":
        return found  # made before anything of this was written down
    by = installer(host, entry.path)
    # conda builds its packages from directories, and the record of that comes along with the package.
    return msgspec.structs.replace(found, installer=by, built="release" if by == "conda" else built(host, entry.path))


def _linked(host: Host, entry: Entry, mounted: _Mounted) -> Distribution:
    """A development install, whose metadata lies beside its sources; these are not gone to over links or to servers."""
    if entry.kind != "file":
        raise _BrokenError("is not a regular file")
    lines = host.read_start(entry.path, limit=_HEAD, follow=False).splitlines() or [b""]
    sources = posixpath.normpath(os.fsdecode(lines[0].strip()))
    if not sources.startswith("/"):
        raise _BrokenError("does not say where its sources are")
    stem = entry.name.removesuffix(_LINK).replace("-", "_")
    try:
        mounts.pass_to(host, f"{sources}/{stem}.egg-info", mounted())
    except AbsentError:
        raise _BrokenError("leads to sources that are gone") from None
    name, version = _from_metadata(host, f"{sources}/{stem}.egg-info/PKG-INFO")
    return Distribution(name=name, version=version, location=shown(entry.name), built="editable")


def _copies(host: Host, path: str, carrier: Distribution, mounted: _Mounted) -> Iterator[Distribution | Unknown]:
    """The copies of other distributions that this one carries, installed by whoever installed it."""
    for place in python_copies.PLACES[carrier.name]:
        for look in _copies_at(host, path, place, carrier.name, mounted):
            if isinstance(look, Distribution):
                yield msgspec.structs.replace(look, installer=carrier.installer, built="release", inside=carrier.name)
            else:
                yield look


def _copies_at(host: Host, path: str, place: str, carrier: str, mounted: _Mounted) -> Iterator[Distribution | Unknown]:
    """The copies that lie in a folder, or are named in a file."""
    try:
        mounts.pass_to(host, f"{path}/{place}", mounted(), start=path)
        if place.endswith(".txt"):
            text = host.text(f"{path}/{place}", limit=_LONG_HEAD, follow=False)
            for name, version in python_copies.parse_vendor(text):
                yield Distribution(name=normalised(name), version=version, location=place)
            return
        for entry in host.entries(f"{path}/{place}"):
            look = _look(host, entry, mounted)
            if isinstance(look, Distribution):
                look = msgspec.structs.replace(look, location=f"{place}/{look.location}")
            if look:
                yield look
    except AbsentError:
        return  # this release of the carrier keeps none there
    except CannotLookError as error:
        yield Unknown(reason=error.reason, hint=error.hint, scope=f"{shown(path)}#{carrier}")


class _BrokenError(CannotLookError):
    """The metadata could be looked at, and tells no name and version."""


def _identity(host: Host, entry: Entry, ending: str) -> tuple[str, str]:
    if entry.kind == "link":
        raise _BrokenError("is a symbolic link")
    if entry.name.startswith("~"):
        raise _BrokenError("was left behind by an interrupted pip")  # which renames so what it is about to remove
    if entry.kind == "file" and ending == ".egg":
        return _from_egg_name(entry.name)
    return _from_metadata(host, entry.path if entry.kind == "file" else f"{entry.path}/{_METADATA[ending]}")


def _from_metadata(host: Host, path: str) -> tuple[str, str]:
    for limit in (_HEAD, _LONG_HEAD):
        head = _read_head(host, path, limit)
        name, version = parse_metadata(head if len(head) < limit else head[: head.rfind(b"\n") + 1])
        if _NAME.fullmatch(name) and _VERSION.fullmatch(version):
            return normalised(name), version
        if len(head) < limit:
            break
    raise _BrokenError("has metadata without a usable name and version")


def _read_head(host: Host, path: str, limit: int) -> bytes:
    try:
        return host.read_start(path, limit=limit, follow=False)
    except AbsentError:
        raise _BrokenError("has no metadata") from None
    except CannotLookError:
        if stat.S_ISREG(host.stat(path, follow=False).st_mode):
            raise
        raise _BrokenError("has metadata that is not a regular file") from None


def parse_metadata(head: bytes) -> tuple[str, str]:
    """Name and version from the start of a metadata file, each empty where it is not given.

    The first of several counts. The headers end at the first line that is none.
    Format: https://packaging.python.org/en/latest/specifications/core-metadata/
    """
    fields: dict[bytes, bytes] = {}
    for line in head.splitlines():
        if line[:1] in (b" ", b"\t"):
            continue  # more of the field above
        if not _FIELD.match(line):
            break
        field, _, value = line.partition(b":")
        fields.setdefault(field.lower(), value.strip())
    return shown(fields.get(b"name", b"")), shown(fields.get(b"version", b""))


def _from_egg_name(egg: str) -> tuple[str, str]:
    """Name and version of a zipped egg, which is not opened: ``name-version-py2.7.egg``."""
    name, version, *_ = [*egg.removesuffix(".egg").split("-"), ""]
    if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version)):
        raise _BrokenError("is an egg whose name does not tell a version")
    return normalised(name), version


def _name_of(stem: str) -> str:
    """The name of a distribution as its directory gives it, ``name-version`` in most cases."""
    name = stem.lstrip("~").partition("-")[0]
    return normalised(name) if _NAME.fullmatch(name) else shown(stem)
