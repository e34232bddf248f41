"""Approved manifests: somebody looked at a model directory and said "this is the one I mean".

Kept in the state directory, one file a model directory, beside the manifest of what was seen last, which spares
reading unchanged files again. Whoever is root can rewrite both; the digest that is shipped when a directory is
approved is the witness of what it was.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import pwd
from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent.host import Host, shown
from agent.integrity import reading
from agent.integrity.manifest import Manifest
from agent.model import CannotLookError, Value
from agent.state import State

_SUFFIX = ".json"


class Approval(Value, frozen=True, kw_only=True):
    """Which content of a directory was approved, by whom and when. ``digest`` is the manifest's own."""

    manifest: Manifest
    digest: str
    at: dt.datetime
    by: str
    note: str = ""


class ApprovalError(Exception):
    """A directory cannot be approved, or its approval cannot be used; the text says why and what to do."""

    def __init__(self, text: str, *, path: str = "") -> None:
        """Keep the words, and the file of an approval that is damaged."""
        super().__init__(text)
        self.path = path


def approve(
    directory: str,
    state: State,
    *,
    note: str = "",
    progress: Callable[[int, str], None] | None = None,
    host: Host | None = None,
) -> Approval:
    """Read a directory whole, now, and keep it as approved; what was approved before is replaced.

    Raises:
        ApprovalError: it is not a directory, cannot be read whole, or changes meanwhile.
        StateError: the approval cannot be kept.
    """
    host = host or Host()
    try:
        place = host.resolve(os.path.abspath(os.path.expanduser(directory)))
        if shown(place) != place:
            raise ApprovalError(f"{shown(place)}: a name that does not print plainly cannot be approved; rename it")
        with reading.opened(place, root=host.root) as top:
            manifest = _read_whole(top, place, reading.Reader(progress=progress))
    except CannotLookError as error:
        raise ApprovalError(" ".join(filter(None, (error.reason + ".", error.hint)))) from error
    approval = Approval(
        manifest=manifest,
        digest=manifest.digest,
        at=dt.datetime.now(dt.timezone.utc).replace(microsecond=0),
        by=_whoever(),
        note=shown(note),
    )
    save(approval, state)
    save_seen(manifest, state)
    return approval


def _read_whole(top: int, place: str, reader: reading.Reader) -> Manifest:
    """The manifest of everything in a directory that stays as it is while it is read."""
    found = reading.listing(top)
    unread = found.unread + reader.read_all(top, found)
    if unread:
        first = "; ".join(f"{os.path.join(place, each.path)}: {each.reason}" for each in unread[:10])
        more = f"; and {len(unread) - 10} more" if len(unread) > 10 else ""  # noqa: PLR2004 -- as many as named above
        raise ApprovalError(f"{place} cannot be approved because not all of it could be read: {first}{more}")
    records, again = found.records, reading.listing(top).records
    moved = sorted(
        path
        for path in records.keys() | again.keys()
        if path not in records or path not in again or not records[path].looks_like(again[path])
    )
    if moved:
        raise ApprovalError(
            f"{place} changed while it was read: {', '.join(moved[:10])}. Approve it when nothing writes there."
        )
    return found.manifest(place)


def _whoever() -> str:
    """Who runs this; with sudo also for whom, which is what they say of themselves and no proof."""
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"uid {user}"
    before = os.environ.get("SUDO_USER", "")
    return shown(f"{name} (sudo by {before[:64]})" if before else name)


def approved(directory: str, state: State) -> Approval | None:
    """The approval of a directory, or None where there is none.

    Raises:
        ApprovalError: there is one, but it cannot be used; that is not the same as none.
        StateError: it cannot be read.
    """
    return load(approved_path(directory, state), state)


def load(path: str, state: State) -> Approval | None:
    """The approval in one file; see ``approved`` for errors."""
    content = state.read(path)
    if content is None:
        return None
    try:
        approval = msgspec.json.decode(content, type=Approval)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApprovalError(f"{path} is not an approval ({error})", path=path) from error
    if not approval.digest or approval.digest != approval.manifest.digest:
        raise ApprovalError(f"{path} was altered: its digest does not match its files", path=path)
    if path != approved_path(approval.manifest.directory, state):
        raise ApprovalError(f"{path} is the approval of another directory, {approval.manifest.directory}", path=path)
    return approval


def save(approval: Approval, state: State) -> None:
    """Keep an approval."""
    state.write(approved_path(approval.manifest.directory, state), msgspec.json.encode(approval))


def revoke(directory: str, state: State) -> bool:
    """Forget the approval of a directory, damaged or not; whether there was one."""
    path = approved_path(directory, state)
    there = state.read(path, limit=1) is not None
    state.remove(path)
    return there


def approvals(state: State) -> Iterator[Approval | ApprovalError]:
    """Every approval there is, and an error for each that cannot be used."""
    for path in paths(state):
        approval = _usable(path, state)
        if approval:
            yield approval


def _usable(path: str, state: State) -> Approval | ApprovalError | None:
    try:
        return load(path, state)
    except ApprovalError as error:
        return error


def paths(state: State) -> list[str]:
    """The files of all approvals."""
    directory = f"{state.models}/approved"
    names = state.names(directory)
    return [f"{directory}/{name}" for name in names if name.endswith(_SUFFIX) and not name.startswith(".")]


def seen(directory: str, state: State) -> Manifest | None:
    """What was seen last. A damaged record is as good as none: everything is read again."""
    content = state.read(_seen_path(directory, state))
    try:
        return msgspec.json.decode(content, type=Manifest) if content is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def save_seen(manifest: Manifest, state: State) -> None:
    """Keep what was seen."""
    state.write(_seen_path(manifest.directory, state), msgspec.json.encode(manifest))


def forget_seen(known: Iterable[str], state: State) -> None:
    """Remove what was seen in directories other than these, which are gone; users make and remove them at will."""
    kept = {_seen_path(directory, state) for directory in known}
    for name in state.names(f"{state.models}/seen"):
        if (path := f"{state.models}/seen/{name}") not in kept:
            state.remove(path)


def approved_path(directory: str, state: State) -> str:
    """Where the approval of a directory is kept."""
    return f"{state.models}/approved/{_name(directory)}{_SUFFIX}"


def _seen_path(directory: str, state: State) -> str:
    return f"{state.models}/seen/{_name(directory)}{_SUFFIX}"


def _name(directory: str) -> str:
    return hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]
