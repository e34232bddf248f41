"""Model directories: whether they hold what somebody approved, and who could change it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from agent.facts.models import ModelDirectory, Models
from agent.facts.workloads import Workloads
from agent.integrity.manifest import Difference, FileRecord
from agent.model import Duty, Finding, Scalar, Severity, Unknown, check

_APPROVE = "dlvmguard models approve"
# What a loader or an interpreter runs: Python itself, native code, and the formats that are pickles inside.
# https://huggingface.co/docs/hub/security-pickle
_RUNS = (".py", ".pyc", ".so", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin")


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Find out who changed it; restore the file from its source, or approve the directory anew if it was meant.",
)
def model_file_changed(models: Models, workloads: Workloads | Unknown) -> Iterator[Finding]:
    """A model file is not the one that was approved.

    A changed model answers differently, and in several formats it runs code when it is loaded. Its content, its
    permissions, or what a link points to differs from the approved manifest. Contents are compared by SHA-256; a
    file that has the size and modification time it had, but another content, was changed by somebody who hides it.
    """
    for directory, difference in _differences(models, {"changed", "mode"}):
        was, now = difference.approved, difference.present
        if was is None or now is None:
            continue
        path = directory.whole(difference.path)
        if difference.how == "mode":
            yield Finding(
                subject=path,
                detail=f"{path}: permissions are {now.mode:04o}, approved were {was.mode:04o}{_open(path, workloads)}",
                evidence={"approved": f"{was.mode:04o}", "present": f"{now.mode:04o}"},
                severity=Severity.MEDIUM,
            )
        else:
            hidden = difference.time_put_back
            yield Finding(
                subject=path,
                detail=f"{path}: {_words(was)} was approved, {_words(now)} is there"
                + (", under the modification time of before" if hidden else "")
                + _open(path, workloads),
                evidence={**_evidence("approved", was), **_evidence("present", now)},
                severity=Severity.CRITICAL if hidden else None,
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Find out where it came from; remove it, or approve the directory anew if it was meant.",
)
def model_file_added(models: Models) -> Iterator[Finding]:
    """An approved model directory holds a file that was not there.

    Loaders pick up what lies in a directory: a Python module or a pickle beside the weights may be run with them,
    which is why those are worse.
    """
    for directory, difference in _differences(models, {"added"}):
        path = directory.whole(difference.path)
        now = difference.present
        if now is not None:
            yield Finding(
                subject=path,
                detail=f"{path}: {_words(now)} was added",
                evidence=_evidence("present", now),
                severity=Severity.HIGH if difference.path.lower().endswith(_RUNS) else None,
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Restore it from its source, or approve the directory anew if it was meant.",
)
def model_file_removed(models: Models) -> Iterator[Finding]:
    """A file of an approved model directory is gone, or the whole directory.

    A missing file can make a loader fall back to another one, or fetch one from the network.
    """
    for directory, difference in _differences(models, {"removed"}):
        path = directory.whole(difference.path)
        if difference.approved is not None:
            yield Finding(
                subject=path,
                detail=f"{path}: {_words(difference.approved)} was approved, nothing is there",
                evidence=_evidence("approved", difference.approved),
            )
    for directory in models.directories:
        if not directory.present:
            yield Finding(
                subject=directory.path,
                detail=f"{directory.path}: the approved directory with {directory.files} files is gone",
                evidence={"files": directory.files},
                fix=f"Restore it, or: dlvmguard models revoke {shlex.quote(directory.path)}",
            )


@check(
    severity=Severity.LOW,
    duty=Duty.APPLICATIONS,
    fix=f"Look at where it came from, then: {_APPROVE} DIRECTORY",
)
def model_directory_unapproved(models: Models) -> Iterator[Finding]:
    """Nobody has approved the content of a model directory.

    Without an approved manifest a change cannot be told from what was meant. To be seen for the first time is no
    approval: what is there may have been tampered with before.
    """
    damaged = {each.subject for each in models.damaged}
    for directory in models.directories:
        # Where the approvals cannot be read, "none" is not known.
        if models.approvals_read and directory.approval is None and directory.path not in damaged:
            yield Finding(
                subject=directory.path,
                detail=f"{directory.path} ({directory.why}) is not approved",
                fix=f"Look at where it came from, then: {_APPROVE} {shlex.quote(directory.path)}",
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.ACCESS,
    fix="Take the right to write from others: chmod -R o-w DIRECTORY",
)
def model_directory_writable(models: Models) -> Iterator[Finding]:
    """Any user of the machine may change a model.

    A file or directory that others may write, or one above it, lets every account and every service that was
    broken into replace a model. It is worse where the directory is approved, because somebody relies on it.
    Judged by the permission bits; access lists for single users are not read.
    """
    for directory in models.directories:
        if directory.writable:
            first = directory.whole(directory.writable[0])
            more = f" and {directory.writable_count - 1} more" if directory.writable_count > 1 else ""
            # What lies above, if anything, is named first.
            above = not f"{first}/".startswith(f"{directory.path}/")
            yield Finding(
                subject=directory.path,
                detail=f"{directory.path}: any user may write {first}{more}",
                evidence={"first": first, "count": directory.writable_count},
                severity=Severity.HIGH if directory.approval else None,
                fix=f"chmod {'' if above else '-R '}o-w {shlex.quote(first if above else directory.path)}",
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Delete the blob and download the model again; if it comes back, the store it came from is at fault.",
)
def model_blob_mismatch(models: Models) -> Iterator[Finding]:
    """A downloaded model blob does not hold the content that its name promises.

    It was damaged or replaced after the download, whether or not anybody approved the directory: Hugging Face and
    Ollama name a finished blob by the SHA-256 of its content, and another content lies under that name.
    """
    for directory in models.directories:
        for record in directory.misnamed:
            path = directory.whole(record.path)
            yield Finding(
                subject=path,
                detail=f"{path}: holds {_words(record)}",
                evidence=_evidence("present", record),
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.APPLICATIONS,
    fix="Find out who wrote to the state directory; compare the model with its source and approve it again.",
)
def model_approval_unreadable(models: Models) -> Iterator[Finding]:
    """The approval of a model directory is damaged.

    What was approved is no longer known, so nothing there can be compared. Only root writes these files, whole and
    synchronised: a damaged one means a failing disk, or that somebody edited it.
    """
    for each in models.damaged:
        yield Finding(subject=each.subject, detail=each.reason)


def _differences(models: Models, how: set[str]) -> Iterator[tuple[ModelDirectory, Difference]]:
    for directory in models.directories:
        for difference in directory.differences:
            if difference.how in how:
                yield directory, difference


def _words(record: FileRecord) -> str:
    """What a record is, in a few words."""
    if record.kind == "link":
        return f"a link to {record.target}"
    if record.kind != "file":
        return f"a {record.kind}"
    return f"{record.sha256[:16] or 'unread content'} ({record.size} bytes)"


def _evidence(prefix: str, record: FileRecord) -> dict[str, Scalar]:
    if record.kind == "link":
        return {prefix: record.target}
    if record.kind != "file":
        return {prefix: record.kind}
    return {prefix: record.sha256[:16], f"{prefix}_bytes": record.size}


def _open(path: str, workloads: Workloads | Unknown) -> str:
    """Which GPU work has the file open: what is in there is in use, not merely on the disk."""
    if isinstance(workloads, Unknown):
        return ""
    found = sorted({f"{each.label} of {each.user or each.uid}" for each in workloads.workloads if path in each.models})
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"; open in {found[0]}{more}" if found else ""
