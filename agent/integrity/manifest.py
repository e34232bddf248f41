"""What a model directory held at one time, and how two such times differ.

A trained model is nothing but bytes: the one statement that can be made about it later is that they are, or are
not, those that somebody looked at and approved. A manifest is that statement for a whole directory; comparing two
of them is the verification. Everything here is pure.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from agent.model import Value


class FileRecord(Value, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One name in a model directory that is not itself a directory.

    ``path`` is relative and as ``shown``; ``mode`` holds the permission bits. ``sha256`` is empty for what was not
    read and for what is never read: a link has its ``target``, anything irregular has only its kind.
    """

    path: str
    kind: Literal["file", "link", "fifo", "socket", "device"]
    mode: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    sha256: str = ""
    target: str = ""

    @property
    def stamp(self) -> tuple[int, int, int, int, int]:
        """What changes when the content does, unless the clock or the disk itself was tampered with."""
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode, self.device)

    def looks_like(self, other: FileRecord) -> bool:
        """Whether all but the content is known to be the same."""
        return (self.stamp, self.kind, self.mode, self.target) == (other.stamp, other.kind, other.mode, other.target)

    @property
    def unread(self) -> bool:
        """Whether this is a file of which the content is not known."""
        return self.kind == "file" and not self.sha256


class Manifest(Value, frozen=True, kw_only=True):
    """A directory at one time. ``files`` is sorted by path; ``taken_ns`` is when looking began.

    ``unseen`` holds what could not be listed: relative directories, or an empty name for "more than was listed".
    """

    directory: str
    taken_ns: int
    files: tuple[FileRecord, ...]
    unseen: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything in the directory was listed and read."""
        return not self.unseen and not any(record.unread for record in self.files)

    @property
    def digest(self) -> str:
        """One SHA-256 for names, sizes, permissions and contents together; empty while something is unread.

        It is taken over one JSON array a file, ``[path,kind,size,mode,content]``, each on a line, in order of path.
        """
        if not self.complete:
            return ""
        whole = hashlib.sha256()
        for record in self.files:
            size = record.size if record.kind == "file" else 0
            content = record.sha256 or record.target
            whole.update(msgspec.json.encode((record.path, record.kind, size, record.mode, content)) + b"\n")
        return whole.hexdigest()


class Difference(Value, frozen=True, kw_only=True):
    """One path at which two manifests differ. ``changed`` is content, link target or kind; ``mode`` only that."""

    path: str
    how: Literal["changed", "mode", "added", "removed"]
    approved: FileRecord | None = None
    present: FileRecord | None = None

    @property
    def time_put_back(self) -> bool:
        """Whether the content differs although size and modification time say that nothing happened."""
        if self.how != "changed" or self.approved is None or self.present is None:
            return False
        return _appearance(self.approved) == _appearance(self.present)


def _appearance(record: FileRecord) -> tuple[str, int, int]:
    """What a listing shows of a file, and what its owner can set at will."""
    return (record.kind, record.size, record.mtime_ns)


def compare(approved: Manifest, seen: Manifest) -> tuple[Difference, ...]:
    """Where a directory is not what was approved, in order of path.

    Content decides: another time stamp or inode is no difference. What was not read or not listed is not judged,
    except that a file of another size cannot have the content it had.
    """
    before = {record.path: record for record in approved.files}
    differences = []
    for present in seen.files:
        was = before.pop(present.path, None)
        if was is None:
            differences.append(Difference(path=present.path, how="added", present=present))
        elif _is_other_content(was, present):
            differences.append(Difference(path=present.path, how="changed", approved=was, present=present))
        elif was.mode != present.mode:
            differences.append(Difference(path=present.path, how="mode", approved=was, present=present))
    differences += (
        Difference(path=path, how="removed", approved=was)
        for path, was in before.items()
        if not _lies_in(path, seen.unseen)
    )
    return tuple(sorted(differences, key=lambda each: each.path))


def _is_other_content(approved: FileRecord, present: FileRecord) -> bool:
    if approved.kind != present.kind or approved.target != present.target:
        return True
    if approved.kind != "file":
        return False
    if approved.size != present.size:
        return True
    return bool(approved.sha256 and present.sha256) and approved.sha256 != present.sha256


def _lies_in(path: str, directories: tuple[str, ...]) -> bool:
    return any(not directory or path == directory or path.startswith(f"{directory}/") for directory in directories)


def leading_out(manifest: Manifest) -> Iterator[FileRecord]:
    """The links whose target lies outside the directory: what they point to is not part of the manifest."""
    inside = manifest.directory.rstrip("/") + "/"
    for record in manifest.files:
        if record.kind == "link":
            place = posixpath.join(inside, posixpath.dirname(record.path), record.target)
            if not f"{posixpath.normpath(place)}/".startswith(inside):
                yield record


# Both stores name a finished blob by the SHA-256 of its content:
# https://huggingface.co/docs/huggingface_hub/guides/manage-cache (files in LFS; others by a git hash of 40 digits)
# https://github.com/ollama/ollama/blob/main/docs/faq.mdx (sha256-<digest>; partial downloads have a suffix)
_BLOB = re.compile(r"(?:.*/)?blobs/(?:sha256-)?([0-9a-f]{64})")


def misnamed(files: Iterable[FileRecord]) -> Iterator[FileRecord]:
    """The blobs of a content-addressed store that do not hold the content their name says."""
    for record in files:
        if record.sha256 and (match := _BLOB.fullmatch(record.path)) and match[1] != record.sha256:
            yield record
