"""Which distribution of an environment a file, a program or a module came with."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from agent.facts.python_distributions import normalised
from agent.host import MEBIBYTE, Host
from agent.model import CannotLookError, Value

_ENDINGS = {".dist-info", ".egg-info"}
_RECORD_BYTES = 8 * MEBIBYTE
"""TensorFlow's, one of the longest, has three."""
_BYTES = 64 * MEBIBYTE
"""Of all records of one environment; 850 distributions have 11 MB."""
_SCRIPTS = "../../../bin/"
"""Where programs lie as seen from the directory of packages: https://docs.python.org/3/library/sysconfig.html"""


class Trace(Value, frozen=True, kw_only=True):
    """Something of an environment in use: a file in it, by relative path, a program beside it, or a module."""

    kind: Literal["file", "program", "module"]
    name: str


def origins(host: Host, path: str, traces: Iterable[Trace]) -> Mapping[Trace, str]:
    """The distribution that each came with, by its normalised name; those that none claims are left out.

    A directory or module called like a distribution is taken to be its own. For others, and for programs, what the
    distributions say that they installed is read; once, for it is remembered until the environment changes.
    """
    known = _known(host, path, host.signature(path))
    new = {trace for trace in traces if trace not in known}
    if new:
        known.update({**dict.fromkeys(new, ""), **_found(host, path, new)})
    return {trace: known[trace] for trace in traces if known[trace]}


@functools.lru_cache(maxsize=64)
def _known(_host: Host, _path: str, _signature: tuple[int, ...]) -> dict[Trace, str]:
    """What was found out about an environment, empty for none; begun anew when it changes."""
    return {}


def _found(host: Host, path: str, traces: Iterable[Trace]) -> dict[Trace, str]:
    metadata = _metadata(host, path)
    names = set(metadata.values())
    found = {trace: name for trace in traces if (name := _own_name(trace)) in names}
    missing = {trace for trace in traces if trace not in found}
    sure, likely = _index(missing, _sure_claims), _index(missing, _likely_claims)
    claimants: dict[Trace, set[str]] = {}
    left = _BYTES
    for folder, name in metadata.items():
        if not missing or left <= 0:
            break
        for claim, size in _claims(host, f"{path}/{folder}"):
            left -= size
            for trace in sure.get(claim, ()):
                found.setdefault(trace, name)
                missing.discard(trace)
            for trace in likely.get(claim, ()):
                claimants.setdefault(trace, set()).add(name)
    # What several share is a namespace, as "google" and "nvidia" are, and tells nothing.
    return {trace: names.pop() for trace, names in claimants.items() if len(names) == 1} | found


def _index(traces: Iterable[Trace], claims: Callable[[Trace], Iterable[str]]) -> dict[bytes, list[Trace]]:
    """The traces by each claim that would be one to them."""
    index: dict[bytes, list[Trace]] = {}
    for trace in traces:
        for claim in claims(trace):
            index.setdefault(os.fsencode(claim), []).append(trace)
    return index


def _metadata(host: Host, path: str) -> dict[str, str]:
    """The names of distributions by the directories that describe them, in which they stand before the version."""
    described = (os.path.splitext(each.name) for each in host.entries(path) if each.kind == "directory")
    return {
        stem + ending: normalised(stem.partition("-")[0])
        for stem, ending in described
        if ending in _ENDINGS and not stem.startswith("~")
    }


def _own_name(trace: Trace) -> str:
    """The distribution that is called like this; programs are rather called like something that they do."""
    first = trace.name.partition("/")[0]
    if trace.kind == "program":
        return ""
    if first.endswith(".egg"):
        return normalised(first.partition("-")[0])
    # Libraries that auditwheel put beside a package lie in a directory with the name of the distribution.
    return normalised(first.removesuffix(".libs").partition(".")[0])


def _sure_claims(trace: Trace) -> tuple[str, ...]:
    """What a distribution says that it installed if this came with it."""
    if trace.kind == "program":
        return (_SCRIPTS + trace.name,)
    if trace.kind == "module":
        return (f"{trace.name}/__init__.py", f"{trace.name}/__main__.py", f"{trace.name}.py")
    return (trace.name,)


def _likely_claims(trace: Trace) -> tuple[str, ...]:
    """What one says that tells no more than the outermost name of what it installed."""
    return () if trace.kind == "program" else (trace.name.partition("/")[0].partition(".")[0],)


def _claims(host: Host, metadata: str) -> Iterator[tuple[bytes, int]]:
    """What the distribution says that it installed: paths, names of modules, programs; and the size of each claim.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    https://packaging.python.org/en/latest/specifications/entry-points/
    """
    with contextlib.suppress(CannotLookError):
        for line in io.BytesIO(host.read(f"{metadata}/RECORD", limit=_RECORD_BYTES, follow=False)):
            yield line.partition(b",")[0], len(line)
    with contextlib.suppress(CannotLookError):
        for line in io.BytesIO(host.read(f"{metadata}/top_level.txt", follow=False)):
            yield line.strip(), len(line)
    with contextlib.suppress(CannotLookError):
        yield from parse_entry_points(host.read(f"{metadata}/entry_points.txt", follow=False))


def parse_entry_points(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The programs that a file of entry points names, as claims."""
    is_program = False
    for line in io.BytesIO(content):
        text = line.strip()
        if text.startswith(b"["):
            is_program = text in {b"[console_scripts]", b"[gui_scripts]"}
        elif is_program and b"=" in text and not text.startswith((b"#", b";")):
            yield os.fsencode(_SCRIPTS) + text.partition(b"=")[0].strip(), len(line)
