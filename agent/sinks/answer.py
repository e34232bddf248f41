"""What an answer of Cloud Logging means for the entries that were sent. Pure.

Codes and details: https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/write
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from agent.model import Value

PARTIAL = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors"

_INVALID_ARGUMENT = 3  # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUS_OF = {5: 404, 7: 403, 16: 401}  # of the same codes, those that somebody can do something about

_SCOPE = (
    "Give the VM the access scope https://www.googleapis.com/auth/logging.write: stop it, then "
    "`gcloud compute instances set-service-account INSTANCE --scopes=cloud-platform`."
)
_ADVICE: dict[int | str, str] = {
    # Reasons that the server names: https://cloud.google.com/apis/design/errors#error_info
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": _SCOPE,
    "SERVICE_DISABLED": "Enable the API: `gcloud services enable logging.googleapis.com`.",
    401: 'Check sinks.cloud_logging.credentials: "machine" needs a service account on the VM.',
    403: "Give the VM's service account the role roles/logging.logWriter on the project "
    "(`gcloud projects add-iam-policy-binding`), and the VM the access scope logging.write.",
    404: "Check that the project in sinks.cloud_logging.project exists.",
}


class Answer(Value, frozen=True, kw_only=True):
    """What became of one request's entries, by their index; without a problem the server has them all."""

    rejected: Mapping[int, str] = {}
    kept: frozenset[int] = frozenset()
    kept_whole: bool = False
    refused_whole: bool = False
    problem: str = ""
    advice: str = ""


def later(problem: str, advice: str = "") -> Answer:
    """Nothing was taken, and the entries are not to blame."""
    return Answer(kept_whole=True, problem=_line(problem), advice=advice)


def doubted(answer: Answer, reason: Answer) -> Answer:
    """The same answer where its refusals are not the entries' fault, for that reason."""
    if answer.refused_whole:
        return reason
    return Answer(kept=answer.kept | answer.rejected.keys(), problem=reason.problem, advice=reason.advice)


def answered(code: int, message: str, *, details: Sequence[Any], count: int) -> Answer:
    """The meaning of an error from the server about ``count`` entries.

    Only what is said of a single entry, or of a request as a malformed one, can be its entries' fault.
    """
    said = _line(message.partition("prettyPrint=false: ")[2] or message)  # the client puts its own request in front
    failures = _failures(details, count)
    if failures:
        return _partial(failures)
    if code in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
        return Answer(refused_whole=True, problem=said)
    return later(f"{code}: {said}", _ADVICE.get(_reason(details)) or _ADVICE.get(code, ""))


def _partial(failures: Mapping[int, tuple[int, str]]) -> Answer:
    rejected = {index: said for index, (code, said) in failures.items() if code == _INVALID_ARGUMENT}
    kept = {index: failure for index, failure in failures.items() if index not in rejected}
    code, said = next(iter(kept.values()), (0, ""))
    return Answer(
        rejected=rejected, kept=frozenset(kept), problem=said, advice=_ADVICE.get(_STATUS_OF.get(code, 0), "")
    )


def _failures(details: Sequence[Any], count: int) -> dict[int, tuple[int, str]]:
    """Code and message by index; empty where the server says nothing of single entries, or makes no sense."""
    for detail in details:
        if isinstance(detail, Mapping) and detail.get("@type") == PARTIAL:
            try:
                failures = {
                    int(index): (int(status.get("code", 0)), _line(str(status.get("message", "no reason given"))))
                    for index, status in detail["logEntryErrors"].items()
                }
            except (KeyError, ValueError, TypeError, AttributeError):
                return {}
            return failures if all(0 <= index < count for index in failures) else {}
    return {}


def _reason(details: Sequence[Any]) -> str:
    """The reason that an ErrorInfo gives: https://cloud.google.com/apis/design/errors#error_info."""
    for detail in details:
        if isinstance(detail, Mapping) and str(detail.get("@type")).endswith("google.rpc.ErrorInfo"):
            return str(detail.get("reason", ""))
    return ""


def _line(text: str) -> str:
    """The beginning of an answer on one line; some are a page of HTML."""
    return " ".join(text.split())[:300]
