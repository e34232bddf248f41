"""The distributions in one site-packages directory: name and version from the head of their metadata."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from typing import Literal

from agent.host import Entry, Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_METADATA = {".dist-info": "METADATA", ".egg-info": "PKG-INFO", ".egg": "EGG-INFO/PKG-INFO"}
"""Where core metadata lies in a directory of this ending.

https://packaging.python.org/en/latest/specifications/recording-installed-packages/
https://setuptools.pypa.io/en/latest/deprecated/python_eggs.html
"""
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
    built: Literal["release", "editable", "vcs", "local"] = "release"
    owner: str = ""
    inside: str = ""


def normalised(name: str) -> str:
    """The one spelling of a name: https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(host: Host, path: str) -> Iterator[Distribution | Unknown]:
    """Every distribution in this directory, in the order of its metadata's names.

    One whose metadata tells nothing has a problem; one that we may not read is Unknown.
    """
    for entry in host.entries(path):
        stem, dot, ending = entry.name.rpartition(".")
        if not stem or dot + ending not in _METADATA:
            continue
        try:
            name, version = _identity(host, entry, dot + ending)
            yield Distribution(name=name, version=version, location=shown(entry.name))
        except _BrokenError as error:
            if host.exists(entry.path):  # else it was removed just now, which is nobody's problem
                yield Distribution(name=_name_of(stem), location=shown(entry.name), problem=error.reason)
        except CannotLookError as error:
            yield Unknown(reason=error.reason, hint=error.hint, scope=f"{shown(path)}#{_name_of(stem)}")


class _BrokenError(CannotLookError):
    """The metadata could be looked at, and tells no name and version."""


def _identity(host: Host, entry: Entry, ending: str) -> tuple[str, str]:
    if entry.kind == "link":
        raise _BrokenError("is a symbolic link")
    if entry.name.startswith("~"):
        raise _BrokenError("was left behind by an interrupted pip")  # which renames so what it is about to remove
    if entry.kind == "file" and ending == ".egg":
        return _from_egg_name(entry.name)
    path = entry.path if entry.kind == "file" else f"{entry.path}/{_METADATA[ending]}"
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
