"""What a process works with, by the files that it has mapped and open: frameworks, NVIDIA's libraries, models."""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from agent import knowledge
from agent.facts.mapped_files import Mapped, parse_maps
from agent.host import MEBIBYTE, Host, shown
from agent.knowledge import Frameworks, ModelPlaces
from agent.model import Value

_MAPS_BYTES = 16 * MEBIBYTE
"""65,530 mappings at most by default, 8 MB of text: https://docs.kernel.org/admin-guide/sysctl/vm.html#max-map-count"""
_BLOCK = 64 << 10
_FILES = 10_000
_MODELS = 100
_ENVIRONMENT = re.compile(r"(/.*?/(?:site|dist)-packages)/", re.DOTALL)
_SYSTEM = ("/usr/", "/lib", "/etc/", "/sys/", "/snap/")
"""Files that end like a model's are something else here."""


class Traces(Value, frozen=True, kw_only=True):
    """What mapped files tell: environments, frameworks and libraries by their ids, models; ``truncated`` is as ever."""

    environments: frozenset[str] = frozenset()
    frameworks: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    truncated: bool = False


def mapped(host: Host, place: str) -> Traces:
    """The traces of the process with this directory in /proc.

    Raises:
        CannotLookError: it ended, or may not be looked into.
    """
    size = 0

    def blocks() -> Iterator[bytes]:
        nonlocal size
        for block in host.stream(f"{place}/maps", limit=_MAPS_BYTES + _BLOCK, block=_BLOCK):
            size += len(block)
            yield block
            if size >= _MAPS_BYTES:
                return

    files = list(itertools.islice(parse_maps(blocks(), _marks()), _FILES + 1))
    paths = [each.path for each in files]
    found = models(paths)
    return Traces(
        environments=frozenset(match[1] for path in paths if (match := _ENVIRONMENT.match(path))),
        frameworks=frozenset(name for path in _libraries(files) for name in frameworks_of_file(path)),
        libraries=frozenset(name for path in _libraries(files) for name in libraries_of_file(path)),
        models=frozenset(found),
        truncated=size >= _MAPS_BYTES or len(files) > _FILES,
    )


def _libraries(files: Iterable[Mapped]) -> set[str]:
    return {each.path for each in files if each.executable}


@functools.cache
def _marks() -> tuple[bytes, ...]:
    places = (f"{fragment}/".encode() for fragment in _places())
    endings = (f"{suffix}\n".encode() for suffix in knowledge.load(ModelPlaces).suffixes)
    return (b".so", b"-packages/", *places, *endings)


@functools.lru_cache(4096)
def frameworks_of_file(path: str) -> tuple[str, ...]:
    """The frameworks that a mapped library belongs to."""
    return tuple(
        each.id
        for each in knowledge.load(Frameworks).frameworks
        if any(fnmatchcase(path, f"*/{pattern}") for pattern in each.files)
    )


@functools.lru_cache(4096)
def libraries_of_file(path: str) -> tuple[str, ...]:
    """NVIDIA's libraries that a mapped file is one of."""
    name = posixpath.basename(path)
    libraries = knowledge.load(Frameworks).libraries
    return tuple(key for key, patterns in libraries.items() if any(fnmatchcase(name, each) for each in patterns))


def frameworks_by_name(programs: Iterable[str], module: str) -> frozenset[str]:
    """The frameworks whose program or module is called so; anybody may call anything so."""
    names = {posixpath.basename(each) for each in programs if each}
    package = module.partition(".")[0]
    return frozenset(
        each.id
        for each in knowledge.load(Frameworks).frameworks
        if (package and package in each.modules)
        or any(fnmatchcase(name, pattern) for name in names for pattern in each.programs)
    )


def models(paths: Iterable[str]) -> set[str]:
    """Those that are model files, by where they lie or how their names end."""
    suffixes = knowledge.load(ModelPlaces).suffixes
    return {
        path
        for path in paths
        if _in_a_place().search(path)
        or (path.lower().endswith(suffixes) and not path.startswith(_SYSTEM) and "-packages/" not in path)
    }


@functools.cache
def _places() -> tuple[str, ...]:
    """What paths of well-known places have in them; a place known by custom alone says nothing."""
    return tuple(each.path.removeprefix("~") for each in knowledge.load(ModelPlaces).places if not each.holding)


@functools.cache
def _in_a_place() -> re.Pattern[str]:
    return re.compile("|".join(re.escape(f"{fragment}/") for fragment in _places()))


def first_models(paths: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Models in order as text, and whether there are more."""
    names = sorted(set(map(shown, paths)))
    return tuple(names[:_MODELS]), len(names) > _MODELS
