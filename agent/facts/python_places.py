"""Where Python packages are installed: the directories called site-packages or dist-packages, and conda's prefixes."""

from __future__ import annotations

import itertools
import posixpath
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from agent.facts import mounts
from agent.host import Host, shown
from agent.model import AbsentError, CannotLookError, Unknown, Value

_NAMES = {"site-packages", "dist-packages"}
_ENDINGS = tuple(f"/{name}" for name in _NAMES)
LIBRARY = re.compile(r"/lib(64)?/(python|pypy)\d+(\.\d+)?t?$")
"""A standard library: of what lies in it, only the packages are of interest."""
_PRUNED = {"__pycache__", "node_modules", ".git", ".hg", ".svn"}
"""Never the way to an environment, and large."""
_WIDE = 1000
"""A directory with more directories than this is most likely data; it waits until all others have been searched."""
_GAPS = 100
"""More directories than this that cannot be listed are said in one sentence."""
_TOLD = 1000
"""After so many directories we say that the search goes on."""


class Places(Value, frozen=True, kw_only=True):
    """The directories found, as the operating system knows them, and what was not searched.

    ``directories`` hold Python packages; ``prefixes`` are conda's environments, with Python or without. ``complete``
    says that no limit ended the search.
    """

    directories: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    gaps: tuple[Unknown, ...] = ()
    complete: bool = True


def find(host: Host, roots: Sequence[str], *, limit: int, seconds: float = 60.0) -> Places:
    """Walk below ``roots``, shallow directories first and wide ones last, within both limits.

    No link is followed, except where a root itself is one. ``limit`` is the number of directories.
    """
    return _Walk(host, distinct(roots), mounts.read(host), limit=limit, seconds=seconds).places()


def search(host: Host, roots: Sequence[str], *, limit: int, seconds: float) -> Places:
    """Find what is below ``roots``, on a whole machine, of which they leave out disks and other machines' storage."""
    mounted, tops = mounts.read(host), distinct(roots)
    places = _Walk(host, tops, mounted, limit=limit, seconds=seconds).places()
    left_out = (_elsewhere(place, mounted) for place in mounts.elsewhere(tops, mounted))
    return msgspec.structs.replace(places, gaps=(*places.gaps, *itertools.islice(left_out, _GAPS)))


def revisit(host: Host, places: Places, roots: Sequence[str]) -> Places:
    """What another walk would find of these places, without a walk for more of them.

    Those to which it would not come any more, because they are gone or a link or a mount lies on the way, are left out.
    """
    mounted, tops, gaps = mounts.read(host), distinct(roots), list(places.gaps)

    def is_there(path: str) -> bool:
        start = next(top for top in tops if mounts.is_below(path, top))
        try:
            mounts.pass_to(host, path, mounted, start=start)
        except mounts.BarredError as error:
            if error.kind != "link":
                gaps.append(_not_searched(error.place, error.kind))
            return False
        except AbsentError:
            return False
        except CannotLookError:
            pass  # whoever reads there says so
        return True

    return msgspec.structs.replace(
        places,
        directories=tuple(filter(is_there, places.directories)),
        prefixes=tuple(filter(is_there, places.prefixes)),
        gaps=tuple(dict.fromkeys(gaps)),
    )


class _Walk:
    """One walk: what is still ahead, what was found, and what was left out."""

    def __init__(
        self, host: Host, roots: Sequence[str], mounted: Mapping[str, str], *, limit: int, seconds: float
    ) -> None:
        """Begin at the roots."""
        self.host = host
        self.roots = roots
        self.mounts = mounted
        self.limit, self.seconds, self.until = limit, seconds, time.monotonic() + seconds
        self.known, self.ahead, self.wide = len(roots), deque(roots), deque[str]()
        self.found, self.prefixes, self.gaps = list[str](), list[str](), list[Unknown]()
        self.cut: dict[str, Unknown] = {}  # by the root that was not searched to the end

    def places(self) -> Places:
        """Walk to the end, or to a limit."""
        visited = 0
        while self.ahead or self.wide:
            if visited and time.monotonic() > self.until:
                self._stop()
                break
            is_put_off = not self.ahead
            self._visit((self.wide if is_put_off else self.ahead).popleft(), is_put_off=is_put_off)
            visited += 1
            if not visited % _TOLD:
                self.host.progress(f"searching for Python environments: {visited} directories")
        return Places(
            directories=tuple(sorted(self.found)),
            prefixes=tuple(sorted(self.prefixes)),
            gaps=(*_bounded(self.gaps), *(self.cut[root] for root in sorted(self.cut))),
            complete=not self.cut,
        )

    def _visit(self, path: str, *, is_put_off: bool) -> None:
        place = mounts.above(path, self.mounts) if path in self.roots else path
        if kind := mounts.barring(place, self.mounts):
            self.gaps += [] if kind in mounts.KERNEL else [_not_searched(path, kind)]
            return
        if path.endswith(_ENDINGS):
            self.found.append(path)
            return
        names = self._names(path)
        below = _ahead(path, names)
        if len(below) > _WIDE and not is_put_off:
            self.wide.append(path)
            return
        if "conda-meta" in names:
            self.prefixes.append(path)
        room = max(0, self.limit - self.known)
        if len(below) > room:
            hint = "Raise python.directories, or name fewer places in python.roots."
            self._cut_short(path, f"more than {self.limit} directories", hint)
        self.ahead += below[:room]
        self.known += len(below[:room])

    def _names(self, path: str) -> list[str]:
        """The directories in this one; one that cannot be listed becomes a gap."""
        try:
            return self.host.directories(path, follow=path in self.roots)
        except AbsentError:
            return []  # a root that this machine does not have, or a directory removed meanwhile
        except CannotLookError as error:
            self.gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(path)))
            return []

    def _stop(self) -> None:
        """The time is up: what is still ahead is not searched."""
        hint = "Raise python.seconds, or name fewer places in python.roots; the next look searches anew."
        for path in (*self.ahead, *self.wide):
            self._cut_short(path, f"it took longer than {self.seconds:g} s", hint)

    def _cut_short(self, path: str, why: str, hint: str) -> None:
        root = next(root for root in self.roots if mounts.is_below(path, root))
        reason = f"{shown(root)} was not searched to the end for Python environments: {why}"
        self.cut[root] = Unknown(reason=reason, hint=hint, scope=shown(root))


def _ahead(path: str, names: list[str]) -> list[str]:
    """The directories in this one that the walk goes on to."""
    start = path if path == "/" else f"{path}/"
    if names and LIBRARY.search(path):
        return [start + name for name in names if name in _NAMES]
    pruned = _PRUNED | {"pkgs", "conda-meta"} if _is_conda(path, names) else _PRUNED
    return [start + name for name in names if name not in pruned]


def _is_conda(path: str, names: Iterable[str]) -> bool:
    """Whether ``pkgs`` in here is conda's store of unpacked packages, each of which looks like an environment."""
    return not {"conda-meta", "envs"}.isdisjoint(names) or posixpath.basename(path) in {".conda", ".mamba"}


def distinct(roots: Iterable[str]) -> list[str]:
    """The roots in one spelling, without those that lie below another."""
    spelt = sorted({posixpath.normpath(root) for root in roots})
    return [root for root in spelt if not any(root != other and mounts.is_below(root, other) for other in spelt)]


def _not_searched(path: str, kind: str) -> Unknown:
    return Unknown(
        reason=f"{shown(path)} is not searched for Python environments: it is a mount of type {shown(kind)}",
        hint="Environments on a shared or remote file system are judged where it is local.",
        scope=shown(path),
    )


def _elsewhere(path: str, mounted: Mapping[str, str]) -> Unknown:
    """A mount outside the roots: a disk could be made one of them, a remote file system would not be entered then."""
    if kind := mounts.barring(path, mounted):
        return _not_searched(path, kind)
    return Unknown(
        reason=f"{shown(path)} is not searched for Python environments: this mount is not in python.roots",
        hint="Add it to python.roots if Python runs from there.",
        scope=shown(path),
    )


def _bounded(gaps: list[Unknown]) -> Iterator[Unknown]:
    """The first gaps, and one that stands for the rest and so for everything."""
    yield from gaps[:_GAPS]
    if len(gaps) > _GAPS:
        rest = gaps[_GAPS]
        yield Unknown(reason=f"{len(gaps) - _GAPS} more directories cannot be searched: {rest.reason}", hint=rest.hint)
