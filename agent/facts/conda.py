"""Conda environments and the packages that conda put into them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator

import msgspec

from agent.config import Config
from agent.facts import python_memory
from agent.facts.python_memory import Memory
from agent.host import MEBIBYTE, Entry, Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

_LARGEST_RECORD = 32 * MEBIBYTE
"""A record names every file of its package: those of the largest packages, of some 20,000 files, are below 10 MiB."""
_RECORDS, _BYTES = 50_000, 4096 * MEBIBYTE
"""More than any machine has; the bounds keep a directory full of made-up records from holding everything up."""
_GAPS = 10
"""More records of one environment than this that cannot be read are said in one sentence."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!~-]{0,127}")
"""Of a version or a build.

https://docs.conda.io/projects/conda/en/stable/user-guide/concepts/pkg-specs.html
"""
_PLATFORM = re.compile(r"noarch|(linux|osx|win|freebsd|emscripten|wasi|zos)-[a-z0-9_]+")


class CondaPackage(Value, frozen=True, kw_only=True):
    """A package as conda installed it; ``channel`` is where from, as ``conda-forge``, without platform or password."""

    name: str
    version: str
    build: str
    channel: str = ""


class CondaEnvironment(Value, frozen=True, kw_only=True):
    """A directory with a ``conda-meta``; its Python, if it has one, is an environment of its own, below it."""

    prefix: str
    packages: tuple[CondaPackage, ...]


class CondaPackages(Fact, frozen=True, kw_only=True):
    """Every conda environment, by prefix; ``walked`` is when they were last searched to find all."""

    environments: tuple[CondaEnvironment, ...]
    walked: dt.datetime | None = None


@probe(every=dt.timedelta(minutes=5), slow=True)
def conda_packages(host: Host, config: Config) -> CondaPackages:
    """Packages that conda installed, in every environment."""
    memory = python_memory.of(host)
    walk = memory.walk(host, config.python)
    look = _Look(host, memory)
    found = tuple(filter(None, map(look.at, walk.places.prefixes)))
    return CondaPackages(environments=found, walked=walk.at, gaps=(*walk.places.gaps, *look.gaps))


class _Look:
    """One look at all environments: how much may still be read, and what could not be seen."""

    def __init__(self, host: Host, memory: Memory) -> None:
        """Nothing is read yet."""
        self.host = host
        self.memory = memory
        self.records, self.bytes = _RECORDS, _BYTES
        self.gaps: list[Unknown] = []

    def at(self, prefix: str) -> CondaEnvironment | None:
        """The environment under this prefix; None where it is gone."""
        self.host.progress(f"reading {shown(prefix)}/conda-meta")
        folder = f"{prefix}/conda-meta"
        looks: tuple[CondaPackage | Unknown, ...]
        try:
            looks = self.memory.read(
                self.host, (folder,), lambda: tuple(self._read(folder, shown(prefix))), is_whole=_is_whole
            )
        except AbsentError:
            return None
        except CannotLookError as error:
            looks = (Unknown(reason=error.reason, hint=error.hint, scope=f"{shown(prefix)}#"),)
        unread = [each for each in looks if isinstance(each, Unknown)]
        if len(unread) > _GAPS:
            reason = f"{len(unread)} of conda's records cannot be read: {unread[0].reason}"
            unread = [Unknown(reason=reason, hint=unread[0].hint, scope=f"{shown(prefix)}#")]
        self.gaps += unread
        packages = (each for each in looks if isinstance(each, CondaPackage))
        return CondaEnvironment(prefix=shown(prefix), packages=tuple(sorted(packages, key=_order)))

    def _read(self, folder: str, prefix: str) -> Iterator[CondaPackage | Unknown]:
        for entry in self.host.entries(folder):
            if not entry.name.endswith(".json"):
                continue
            if self.records <= 0 or self.bytes <= 0:
                reason = f"more of conda's records on this machine than {_RECORDS}, or than {_BYTES // MEBIBYTE} MiB"
                yield Unknown(reason=reason, scope=f"{prefix}#")
                return
            self.records -= 1
            scope = f"{prefix}#{_name_of(entry)}"
            try:
                text = self.host.read(entry.path, limit=_LARGEST_RECORD, follow=False)
                self.bytes -= len(text)
                yield parse_record(text)
            except AbsentError:
                continue  # removed meanwhile
            except _DamagedError as error:
                yield Unknown(reason=f"{shown(entry.path)} {error.reason}", hint=error.hint, scope=scope)
            except CannotLookError as error:
                self.bytes -= _LARGEST_RECORD
                yield Unknown(reason=error.reason, hint=error.hint, scope=scope)


class _DamagedError(CannotLookError):
    """A record could be looked at, and tells no name and version."""


class _Record(msgspec.Struct):
    name: str
    version: str
    build: str = ""
    channel: str = ""


def parse_record(text: bytes) -> CondaPackage:
    """The package that a record in conda-meta tells of.

    Format: https://schemas.conda.io/repodata-record-1.schema.json, with what became of it when it was installed.

    Raises:
        CannotLookError: it is no such record.
    """
    try:
        said = msgspec.json.decode(text, type=_Record)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _DamagedError("is damaged", "Run `conda list` there, and install the package again.") from None
    if not (_NAME.fullmatch(said.name) and _WORD.fullmatch(said.version)):
        raise _DamagedError("tells no usable name and version", "Install the package again.")
    build = said.build if _WORD.fullmatch(said.build) else ""
    return CondaPackage(name=said.name, version=said.version, build=build, channel=channel(said.channel))


def channel(address: str) -> str:
    """A channel as people call it: ``conda-forge``, ``pkgs/main``, or another server with the last part of the path.

    Whatever lets somebody in, a user with a password, a token in the path or the query, is left out with the rest.
    """
    scheme, is_address, rest = address.rpartition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    server, _, path = rest.partition("/") if is_address else ("", "", rest)
    parts = [part for part in path.split("/") if part]
    if parts and _PLATFORM.fullmatch(parts[-1]):
        parts.pop()
    if scheme == "file" or server not in {"", "conda.anaconda.org", "repo.anaconda.com"}:
        parts = [server or "file:", *parts[-1:]]
    elif parts[:1] == ["t"]:  # https://docs.anaconda.com/anacondaorg/user-guide/howto/#using-tokens
        parts = parts[2:]
    return shown("/".join(parts))[:200]


def _name_of(entry: Entry) -> str:
    """The name of a package as its record's file gives it: ``name-version-build.json``."""
    return shown(entry.name.removesuffix(".json").rsplit("-", 2)[0])


def _is_whole(looks: tuple[CondaPackage | Unknown, ...]) -> bool:
    return all(isinstance(look, CondaPackage) for look in looks)


def _order(package: CondaPackage) -> tuple[str, ...]:
    return (package.name, package.version, package.build, package.channel)
