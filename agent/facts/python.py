"""Python environments: where packages are installed, which Python runs them, who may change them, what is in them."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import posixpath
import re
import stat
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from agent.config import Config
from agent.facts import python_memory, python_release
from agent.facts.python_distributions import Distribution, read
from agent.facts.python_memory import Memory
from agent.facts.python_owners import SOURCES, Debian, read_debian
from agent.facts.python_places import LIBRARY, Places, find
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe

_DISTRIBUTIONS = 50_000
"""More than any machine has; the bound keeps a directory full of made-up names from filling memory."""
_GAPS = 10
"""More distributions of one environment than this that cannot be read are said in one sentence."""
_RELEASE = re.compile(r"\d+\.\d+")

Kind = Literal["system", "venv", "conda", "pyenv", "user", "uv-tool", "pipx", "other"]


class Environment(Value, frozen=True, kw_only=True):
    """One directory of installed packages and the Python that it belongs to.

    ``kind`` says who put it there: system (the distributor's packages), venv, conda, pyenv, user (``pip install
    --user``), uv-tool, pipx, other. ``python`` is ``3.11`` and ``release`` is ``3.11.7``, empty where nothing tells.
    ``interpreter`` is empty where the environment has none of its own, and ``home`` is the directory of the Python that
    it was made from. ``writable`` is the directory through which everybody may change what is installed, itself or one
    above it.
    """

    path: str
    kind: Kind
    python: str
    release: str = ""
    interpreter: str
    home: str
    owner: int
    writable: str
    distributions: tuple[Distribution, ...] = ()


class PythonEnvironments(Fact, frozen=True, kw_only=True):
    """Every environment under the configured roots, by path; ``walked`` is when they were last searched to find all."""

    environments: tuple[Environment, ...]
    walked: dt.datetime | None = None


@probe(every=dt.timedelta(minutes=5), slow=True)
def python_environments(host: Host, config: Config) -> PythonEnvironments:
    """Python environments and the distributions in them."""
    memory = python_memory.of(host)
    walk = memory.walk(host, config.python)
    return msgspec.structs.replace(_at(host, walk.places, memory), walked=walk.at)


def environments(host: Host, roots: Sequence[str], limit: int) -> tuple[tuple[Environment, ...], tuple[Unknown, ...]]:
    """The environments below these places, as in a container, with no memory of them; and what could not be seen."""
    seen = _at(host, find(host, roots, limit=limit), Memory())
    return seen.environments, seen.gaps


def _at(host: Host, places: Places, memory: Memory) -> PythonEnvironments:
    """The environments at these places; of those that ``memory`` knows, only what changed is read."""
    debian = memory.read(host, SOURCES, lambda: read_debian(host), is_whole=lambda seen: not seen.gaps)
    gaps, found, room = [*places.gaps, *debian.gaps], list[Environment](), _DISTRIBUTIONS
    mode = functools.cache(lambda path: host.stat(path).st_mode)
    for path in places.directories:
        host.progress(f"reading {shown(path)}")
        environment = _environment_or_gap(host, path, mode, gaps)
        if environment:
            seen = _installed(host, path, memory, room=room, gaps=gaps)
            room -= len(seen)
            distributions = debian.owned(path, seen)
            found.append(msgspec.structs.replace(environment, distributions=distributions))
    return PythonEnvironments(environments=_with_releases(host, found, debian), gaps=tuple(gaps))


def _environment_or_gap(host: Host, path: str, mode: Callable[[str], int], gaps: list[Unknown]) -> Environment | None:
    try:
        return _environment(host, path, mode)
    except AbsentError:
        return None  # removed since the walk came by
    except CannotLookError as error:
        gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(path)))
        return None


def _installed(host: Host, path: str, memory: Memory, *, room: int, gaps: list[Unknown]) -> tuple[Distribution, ...]:
    """The distributions of one environment; those that cannot be read, and those beyond the bound, become gaps."""
    looks: tuple[Distribution | Unknown, ...]
    try:
        looks = memory.read(
            host,
            (path,),
            lambda: tuple(itertools.islice(read(host, path), room + 1)),
            is_whole=lambda looks: len(looks) <= room and all(map(_is_sound, looks)),
        )
    except CannotLookError as error:
        looks = (Unknown(reason=error.reason, hint=error.hint, scope=shown(path)),)
    unread = [look for look in looks if isinstance(look, Unknown)]
    if len(unread) > _GAPS:
        reason = f"{len(unread)} distributions cannot be read: {unread[0].reason}"
        unread = [Unknown(reason=reason, hint=unread[0].hint, scope=shown(path))]
    if len(looks) > room:
        unread.append(Unknown(reason=f"more than {_DISTRIBUTIONS} distributions on this machine", scope=shown(path)))
    gaps += unread
    return tuple(look for look in looks if isinstance(look, Distribution))[:room]


def _is_sound(look: Distribution | Unknown) -> bool:
    return isinstance(look, Distribution) and not look.problem


def _with_releases(host: Host, found: list[Environment], debian: Debian) -> tuple[Environment, ...]:
    """The environments with the release of their Python: a virtual one has that of the Python it was made from."""

    @functools.cache
    def release(home: str, python: str) -> str:
        prefix = posixpath.dirname(home)
        told = python_release.of_installation(host, prefix, python)
        return told or (debian.releases.get(python, "") if prefix == "/usr" else "")

    # Only where we walked anyway: a pyvenv.cfg may name any place as its home.
    known = {each.home for each in found if each.home and each.home == posixpath.dirname(each.interpreter)}
    return tuple(
        msgspec.structs.replace(each, release=release(each.home, each.python) or each.release)
        if each.home in known
        else each
        for each in found
    )


def _environment(host: Host, path: str, mode: Callable[[str], int]) -> Environment | None:
    """What this directory of packages is; None for a package of conda's store, which is no environment."""
    library = posixpath.dirname(path)
    has_library = bool(LIBRARY.search(library))
    prefix = posixpath.dirname(posixpath.dirname(library)) if has_library else library
    is_conda = host.exists(f"{prefix}/conda-meta")
    venv = _venv(host, prefix)
    if not is_conda and venv is None and host.exists(f"{prefix}/info/index.json"):
        return None  # https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html
    kind = "conda" if is_conda else _kind(path, prefix, is_venv=venv is not None)
    interpreter = _interpreter(host, path, prefix) if has_library and kind != "user" else ""
    python, said = _python(host, posixpath.basename(library), interpreter), python_release.of_venv(venv or {})
    return Environment(
        path=shown(path),
        kind=kind,
        python=python,
        interpreter=shown(interpreter),
        release=said if python_release.is_of(said, python) else "",
        home=shown((venv or {}).get("home", "") or posixpath.dirname(interpreter)),
        owner=host.stat(path).st_uid,
        writable=shown(_writable(path, mode)),
    )


def _kind(path: str, prefix: str, *, is_venv: bool) -> Kind:
    if is_venv:
        return "uv-tool" if "/uv/tools/" in path else "pipx" if "/pipx/venvs/" in path else "venv"
    if prefix.endswith("/.local"):
        return "user"
    if "pyenv/versions/" in path:
        return "pyenv"
    return "system" if prefix == "/usr" else "other"


def _venv(host: Host, prefix: str) -> dict[str, str] | None:
    """The settings of a virtual environment; None where this is none.

    Format: https://docs.python.org/3/library/site.html
    """
    path = f"{prefix}/pyvenv.cfg"
    try:
        return parse_venv(host.text(path, limit=65536, follow=False))
    except CannotLookError:
        return {} if host.exists(path) else None  # it is one, which is all that can be told


def parse_venv(text: str) -> dict[str, str]:
    """The settings in a pyvenv.cfg, their names in small letters; lines of another form are passed over."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}


def _interpreter(host: Host, path: str, prefix: str) -> str:
    """The program that uses this directory, of the same name as the library; empty where it is gone."""
    program = posixpath.basename(posixpath.dirname(path))
    # The distributor's Python looks into /usr/local too: Debian under dist-packages, others as site-packages.
    prefixes = [prefix] if prefix != "/usr/local" else ["/usr"] if path.endswith("/dist-packages") else [prefix, "/usr"]
    return next((each for each in (f"{above}/bin/{program}" for above in prefixes) if host.exists(each)), "")


def _python(host: Host, library: str, interpreter: str) -> str:
    """The release, from the library's name; /usr/lib/python3 has none, there /usr/bin/python3 is a link to it."""
    release = _RELEASE.search(library)
    if not release and interpreter:
        with contextlib.suppress(CannotLookError):  # no link: then nothing tells
            release = _RELEASE.search(host.link(interpreter))
    return release[0] if release else ""


def _writable(path: str, mode: Callable[[str], int]) -> str:
    """The first directory on the way to ``path`` through which everybody may put code there; empty for none.

    What is writable behind a door that not everybody may pass does not count, nor does a directory above whose
    sticky bit (as on /tmp) keeps others from renaming what is in it.
    """
    steps = [step for step in itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}") if step]
    for step in steps:
        bits = mode(step)
        if not bits & stat.S_IXOTH:
            return ""
        if bits & stat.S_IWOTH and (step == path or not bits & stat.S_ISVTX):
            return step
    return ""
