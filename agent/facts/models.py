"""Model directories: where they are, and whether they hold what was approved."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import posixpath
import stat
from collections.abc import Iterable, Iterator

from agent import knowledge, state
from agent.config import Config
from agent.host import MEBIBYTE, Host, shown
from agent.integrity import approval, places, reading
from agent.integrity.approval import Approval, ApprovalError
from agent.integrity.manifest import Difference, FileRecord, Manifest, compare, leading_out, misnamed
from agent.integrity.places import Place
from agent.integrity.reading import Listing, Unread
from agent.knowledge import ModelPlaces
from agent.model import AbsentError, CannotLookError, Fact, Unknown, Value, probe
from agent.state import State, StateError

NAMED = 1_000
"""Differences of one directory that are named one by one; a directory with more was replaced, not tampered with."""
_NAMED_FEW = 20


class ModelApproval(Value, frozen=True, kw_only=True):
    """Who approved a directory, when, and the digest of all that was in it."""

    digest: str
    at: dt.datetime
    by: str


class ModelDirectory(Value, frozen=True, kw_only=True):
    """A directory of models. ``digest`` is that of its manifest, empty while some of it is unread.

    ``writable`` are the first paths that any user may write: absolute ones above it, then those in it, ``.`` for
    itself; ``writable_count`` is how many there are. ``misnamed`` are blobs whose content is not what their name says.
    """

    path: str
    why: str
    present: bool = True
    files: int = 0
    bytes: int = 0
    hashed: int = 0
    digest: str = ""
    writable: tuple[str, ...] = ()
    writable_count: int = 0
    misnamed: tuple[FileRecord, ...] = ()
    approval: ModelApproval | None = None
    differences: tuple[Difference, ...] = ()

    def whole(self, path: str) -> str:
        """A path of this fact as an absolute one."""
        return posixpath.normpath(posixpath.join(self.path, path))


class DamagedApproval(Value, frozen=True, kw_only=True):
    """An approval that is there and cannot be used; ``subject`` is its directory, or its file if that is unknown."""

    subject: str
    reason: str


class Models(Fact, frozen=True, kw_only=True):
    """The model directories of the machine."""

    directories: tuple[ModelDirectory, ...]
    damaged: tuple[DamagedApproval, ...] = ()
    approvals_read: bool = True


def _glance(host: Host, config: Config) -> frozenset[tuple[object, ...]]:
    """What lies at the top of the approved and the configured directories; changes further down are seen later."""
    kept = state.locate(config.state_directory, writing=True)
    found: set[tuple[object, ...]] = set()
    with contextlib.suppress(StateError):
        found.update((path, kept.signature(path)) for path in approval.paths(kept))
    tops = [_approved_directory(str(path), signature, kept) for path, signature in found]
    tops += [place.path for place in places.configured(host, config.models.directories) if isinstance(place, Place)]
    for top in filter(None, tops):
        with contextlib.suppress(CannotLookError):
            names = [top, *(entry.path for entry in host.entries(top)[:_GLANCED])]
            found.update((name, host.signature(name)) for name in names)
    return frozenset(found)


_GLANCED = 500
"""Names at the top of a directory that a glance takes in; it is for the usual handful of large files."""


@functools.lru_cache(100)
def _approved_directory(path: str, _signature: object, kept: State) -> str:
    """The directory of an approval, read once as long as its file stays as it is."""
    try:
        approved = approval.load(path, kept)
    except (ApprovalError, StateError):
        return ""
    return approved.manifest.directory if approved else ""


@probe(every=dt.timedelta(minutes=1), glance=_glance, slow=True)
def models(host: Host, config: Config) -> Models:
    """Model directories, their content against what was approved."""
    look = _Look(host, config)
    found = sorted(look.all(), key=lambda each: each.path)
    return Models(
        unfinished=look.postponed,
        directories=tuple(found),
        damaged=tuple(look.damaged),
        approvals_read=look.approvals_read,
        gaps=tuple(dict.fromkeys(look.gaps)),
    )


class _Look:
    """One look at all model directories: what is approved, what may still be read, and what could not be seen."""

    def __init__(self, host: Host, config: Config) -> None:
        """Read the approvals."""
        self.host = host
        self.settings = config.models
        self.state = state.locate(config.state_directory, writing=True)
        self.gaps: list[Unknown] = []
        self.damaged: list[DamagedApproval] = []
        self.approvals_read = True
        self.postponed = False
        self.reader = reading.Reader(budget=self.settings.hash_bytes_per_scan)
        self.names_left = reading.ENTRIES_PER_SCAN
        self._unusable: dict[str, str] = {}  # approval file to reason
        self._approved: dict[str, Approval] = {}
        # A user without approvals of their own goes by those of the installed agent, where they may read them.
        for place in dict.fromkeys((state.locate(config.state_directory, writing=False), self.state)):
            self._read_approvals(place)
        self._known = self._places()
        self._report_damaged()

    def _read_approvals(self, place: State) -> None:
        try:
            for each in approval.approvals(place):
                if isinstance(each, ApprovalError):
                    self._unusable[each.path] = str(each)
                else:
                    self._approved[each.manifest.directory] = each
        except StateError as error:
            self.approvals_read = False
            self.gaps.append(Unknown(reason=f"the approvals cannot be read: {error}"))

    def _places(self) -> dict[str, Place]:
        """The directories to look at, by path. One found inside another is part of that one."""
        found = {path: Place(path=path, why="approved") for path in self._approved}
        for place in self._without_gaps(places.configured(self.host, self.settings.directories)):
            found[place.path] = place
        if self.settings.discover:
            for place in self._without_gaps(places.discovered(self.host, knowledge.load(ModelPlaces))):
                if place.path in self._approved:
                    found[place.path] = Place(path=place.path, why=place.why)
                elif place.path not in found and not any(above in found for above in _above(place.path)):
                    found[place.path] = place
        return found

    def _without_gaps(self, found: Iterable[Place | Unknown]) -> Iterator[Place]:
        for each in found:
            if isinstance(each, Unknown):
                self.gaps.append(each)
            else:
                yield each

    def _report_damaged(self) -> None:
        """Say which approvals cannot be used, by directory where it is one that we know."""
        names = {posixpath.basename(approval.approved_path(shown(path), self.state)): path for path in self._known}
        for path, reason in self._unusable.items():
            directory = shown(names.get(posixpath.basename(path), ""))
            self.damaged.append(DamagedApproval(subject=directory or path, reason=reason))
            self.gaps.append(Unknown(reason=reason, scope=directory))

    def all(self) -> Iterator[ModelDirectory]:
        """Every directory, those approved first, so that what may be read in one scan is spent on them."""
        for path in sorted(self._known, key=lambda each: (each not in self._approved, each)):
            if directory := self._at(self._known[path]):
                yield directory
        with contextlib.suppress(StateError):  # where nothing can be kept, nothing can be forgotten; that is said
            approval.forget_seen(map(shown, self._known), self.state)

    def _at(self, place: Place) -> ModelDirectory | None:
        approved = self._approved.get(place.path)
        try:
            with reading.opened(place.path, root=self.host.root) as top:
                return self._inside(top, place, approved)
        except AbsentError:
            if approved is None:
                return None  # gone between finding and opening it
            return ModelDirectory(
                path=place.path, why=place.why, present=False, files=len(approved.manifest.files),
                approval=_approval(approved),
            )  # fmt: skip
        except CannotLookError as error:
            self.gaps.append(Unknown(reason=error.reason, hint=error.hint, scope=shown(place.path)))
            return None

    def _inside(self, top: int, place: Place, approved: Approval | None) -> ModelDirectory | None:
        name = shown(place.path)
        last = self._last(name)
        found = reading.listing(top, last, limit=self.names_left)
        self.names_left -= found.names
        if place.suffixes and not any(path.lower().endswith(place.suffixes) for path in found.records):
            self._cannot_judge(name, found.unread)
            return None
        manifest, unread = self._read(top, name, found, last)
        self._cannot_judge(name, unread)
        differences: tuple[Difference, ...] = ()
        if approved:
            differences = tuple(sorted(compare(approved.manifest, manifest), key=_worst_first))
            self._cannot_judge(name, list(self._leading_out(manifest)))
        wrong = tuple(misnamed(manifest.files))
        if len(differences) > NAMED or len(wrong) > NAMED:
            reason = f"{name} is wrong in {max(len(differences), len(wrong))} files; {NAMED} of them are named"
            self.gaps.append(Unknown(reason=reason, scope=name))
        writable = [*self._writable_above(place.path), *sorted(found.writable)]
        regular = [record for record in manifest.files if record.kind == "file"]
        return ModelDirectory(
            path=name,
            why=place.why,
            files=len(regular),
            bytes=sum(record.size for record in regular),
            hashed=sum(not record.unread for record in regular),
            digest=manifest.digest,
            writable=tuple(writable[:_NAMED_FEW]),
            writable_count=len(writable),
            misnamed=wrong[:NAMED],
            approval=_approval(approved) if approved else None,
            differences=differences[:NAMED],
        )

    def _read(self, top: int, name: str, found: Listing, last: Manifest | None) -> tuple[Manifest, list[Unread]]:
        """What the directory holds, reading what is new; even when interrupted, what was read is kept."""
        start = self.reader.done
        total = min(sum(file.size for file in found.waiting), max(0, self.settings.hash_bytes_per_scan - start))
        self.reader.progress = lambda done, _path: self.host.progress(
            f"hashing {name}: {_gibibytes(done - start)} of {_gibibytes(total)}"
        )
        unread = list(found.unread)
        try:
            unread += self.reader.read_all(top, found)
        finally:
            manifest = found.manifest(name)
            if last is None or found.waiting or (manifest.files, manifest.unseen) != (last.files, last.unseen):
                self._keep(manifest)
        return manifest, unread

    def _last(self, name: str) -> Manifest | None:
        try:
            return approval.seen(name, self.state)
        except StateError:
            return None  # then it cannot be kept either, which is said there

    def _keep(self, manifest: Manifest) -> None:
        try:
            approval.save_seen(manifest, self.state)
        except StateError as error:
            reason = f"what was read could not be kept, so the next scan reads it again: {error}"
            self.gaps.append(Unknown(reason=reason, scope=self.state.models))

    def _cannot_judge(self, name: str, unread: list[Unread]) -> None:
        """Make gaps of what was not read: one a file while they are few, else one for the directory."""
        self.postponed = self.postponed or any(each.postponed for each in unread)
        if len(unread) <= _NAMED_FEW:
            for each in unread:
                scope = posixpath.join(name, each.path) if each.path else name
                self.gaps.append(Unknown(reason=f"{scope}: {each.reason}", hint=each.hint, scope=scope))
            return
        waiting = [each.postponed for each in unread if each.postponed]
        others = [each for each in unread if not each.postponed]
        if waiting:
            reason = f"{name}: {len(waiting)} files ({_gibibytes(sum(waiting))}) not read yet; the next scan continues"
            self.gaps.append(Unknown(reason=reason, scope=name))
        if others:
            reason = f"{name}: {len(others)} could not be looked at, first {others[0].path}: {others[0].reason}"
            self.gaps.append(Unknown(reason=reason, hint=others[0].hint, scope=name))

    def _leading_out(self, manifest: Manifest) -> Iterator[Unread]:
        """Links of an approved directory whose target nobody compares."""
        for record in leading_out(manifest):
            target = posixpath.normpath(
                posixpath.join(manifest.directory, posixpath.dirname(record.path), record.target)
            )
            if not any(above in self._approved for above in (target, *_above(target))):
                yield Unread(path=record.path, reason=f"leads out to {target}, which is not approved")

    def _writable_above(self, path: str) -> Iterator[str]:
        """The directories above in which any user may put another one in the place of this."""
        for above in _above(path):
            try:
                mode = self.host.stat(above).st_mode
            except CannotLookError:
                continue  # it was walked a moment ago; if it went away, so did the directory
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                yield shown(above)


def _above(path: str) -> Iterator[str]:
    while path not in {"/", ""}:
        path = posixpath.dirname(path)
        yield path


def _worst_first(difference: Difference) -> tuple[int, str]:
    return (("changed", "removed", "added", "mode").index(difference.how), difference.path)


def _approval(approved: Approval) -> ModelApproval:
    return ModelApproval(digest=approved.digest, at=approved.at, by=approved.by)


def _gibibytes(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 100 * MEBIBYTE else f"{count / MEBIBYTE:.1f} MiB"
