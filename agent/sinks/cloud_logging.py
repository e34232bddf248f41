"""Google Cloud Logging, through Google's own client over REST.

gRPC would cost five times the CPU here for nothing saved on the wire. The client is imported when there is
something to send and not before: it costs 60 MiB and half a second.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import urllib.parse
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.config import CloudLoggingSection
from agent.host import Host
from agent.model import CannotLookError, Event, Listed
from agent.sinks.answer import Answer, answered, doubted, later
from agent.sinks.delivery import Delivery, Identity
from agent.sinks.payload import log_entry

LOG = "dlvmguard-findings"
"""Without a slash, which people would have to write as %2F in every filter."""

SCOPES = ("https://www.googleapis.com/auth/logging.write",)

Write = Callable[..., None]


class CloudLogging:
    """Writes events as log entries of the machine that they are about."""

    name = "cloud-logging"

    def __init__(self, settings: CloudLoggingSection, catalogue: Mapping[str, Listed]) -> None:
        """Nothing is imported, read or connected before the first batch."""
        self._settings = settings
        self._catalogue = catalogue
        self._connection: tuple[str, Write] | None = None

    def send(self, events: Sequence[Event], identity: Identity) -> Delivery:
        """Offer one batch; whatever the network, the token or the server does is in the answer."""
        project = self._settings.project or identity.project_id
        if not project:
            return Delivery(problem="no project to write to", advice="Set sinks.cloud_logging.project.")
        try:
            write = self._connected(project)
        except CannotLookError as error:
            return Delivery(problem=error.reason, advice=error.hint)
        now = dt.datetime.now(dt.timezone.utc)
        entries = [log_entry(event, identity, self._catalogue, now=now) for event in events]
        offer = functools.partial(
            _offer, write, logger_name=f"projects/{project}/logs/{LOG}", resource=resource(identity, project)
        )
        return _delivered([event.sequence for event in events], entries, offer)

    def _connected(self, project: str) -> Write:
        if self._connection is None or self._connection[0] != project:
            self._connection = (project, connect(self._settings, project))
        return self._connection[1]


def resource(identity: Identity, project: str) -> dict[str, Any]:
    """The machine as a monitored resource: https://cloud.google.com/logging/docs/api/v2/resource-list."""
    own = identity.project_id or project
    if identity.zone:
        labels = {"project_id": own, "instance_id": identity.instance_id, "zone": identity.zone}
        return {"type": "gce_instance", "labels": labels}
    node = identity.instance_id or identity.hostname or "unnamed"
    labels = {"project_id": own, "location": "global", "namespace": "dlvmguard", "node_id": node}
    return {"type": "generic_node", "labels": labels}


def connect(settings: CloudLoggingSection, project: str) -> Write:
    """The client's call that writes entries. No request is made yet.

    Raises:
        CannotLookError: the credentials or the endpoint cannot be used; the hint says what would do.
    """
    endpoint = settings.endpoint.rstrip("/")
    address = urllib.parse.urlsplit(endpoint)
    if address.scheme == "http" and settings.credentials != "none" and address.hostname not in _LOOPBACK:
        raise CannotLookError(
            f"the access token would go to {endpoint} unencrypted",
            "Use an https:// address in sinks.cloud_logging.endpoint.",
        )
    with warnings.catch_warnings():
        # That Google will one day no longer support this Python is no news for the journal on every run.
        warnings.simplefilter("ignore", FutureWarning)
        from google.cloud.logging_v2.client import Client  # noqa: PLC0415 -- half a second; only when sending

        client = Client(
            project=project,
            credentials=_credentials(settings.credentials),
            client_options={"api_endpoint": endpoint} if endpoint else None,
            _use_grpc=False,
        )
    api = client.logging_api
    # The call takes no timeout; the one that it passes on to does.
    api.api_request = functools.partial(api.api_request, timeout=settings.timeout_seconds)
    write: Write = api.write_entries
    return write


_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _credentials(chosen: str) -> Any:
    # Imported here for the same reason as the client.
    if chosen == "none":
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415

        return AnonymousCredentials()
    if chosen == "machine":
        from google.auth.compute_engine import Credentials  # noqa: PLC0415

        return Credentials(scopes=SCOPES)
    return _key(chosen)


def _key(path: str) -> Any:
    from google.oauth2.service_account import Credentials  # noqa: PLC0415 -- as above

    content = Host().read(path)
    try:
        return Credentials.from_service_account_info(json.loads(content), scopes=SCOPES)
    # A key of another kind lacks fields; one that is no object has none. Its content is a secret: never quoted.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotLookError(
            f"{path} is not the key of a service account",
            'Set sinks.cloud_logging.credentials to "machine", or to a JSON key made with '
            "`gcloud iam service-accounts keys create`.",
        ) from error


def _offer(write: Write, entries: Sequence[Mapping[str, Any]], **named: Any) -> Answer:
    """One request, and what came of it in words of ours."""
    import requests  # noqa: PLC0415 -- these come with the client
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415

    try:
        write(entries, partial_success=True, **named)
    except GoogleAPICallError as error:
        return answered(
            int(error.code or 0),
            str(error.message),
            details=error.details,
            count=len(entries),
        )
    except GoogleAuthError as error:
        return later(
            f"no access token: {error}", "Check sinks.cloud_logging.credentials, and that the VM has a service account."
        )
    # All but the first are what the client does about an error body of another shape.
    except (requests.exceptions.InvalidJSONError, AttributeError, TypeError, RecursionError) as error:
        return later(f"an answer that is not Cloud Logging's: {error}", "Check sinks.cloud_logging.endpoint.")
    except requests.RequestException as error:
        return later(f"no answer: {error}")
    return Answer()


def _delivered(
    sequences: Sequence[int], entries: Sequence[Mapping[str, Any]], offer: Callable[..., Answer]
) -> Delivery:
    """What became of the entries. A request that is refused whole is halved until what spoils it stands alone."""
    accepted: set[int] = set()
    rejected: dict[int, str] = {}
    problem = advice = ""
    sound = False
    groups = [range(len(entries))] if entries else []
    while groups:
        group = groups.pop()
        answer = offer([entries[index] for index in group])
        if not sound and (answer.refused_whole or answer.rejected):
            sounding = _sounding(offer, answer)
            sound = not sounding.problem
            if sound and answer.refused_whole:
                groups.append(group)  # once more: a refusal is final only when it was heard twice
                continue
            answer = answer if sound else doubted(answer, sounding)
        if answer.refused_whole and len(group) > 1:
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
        elif answer.refused_whole:
            rejected[sequences[group[0]]] = answer.problem
        else:
            problem, advice = problem or answer.problem, advice or answer.advice
            if answer.kept_whole:
                break
            rejected.update({sequences[group[at]]: reason for at, reason in answer.rejected.items()})
            out = answer.rejected.keys() | answer.kept
            accepted.update(sequences[index] for at, index in enumerate(group) if at not in out)
    return Delivery(accepted=frozenset(accepted), rejected=rejected, problem=problem, advice=advice)


def _sounding(offer: Callable[..., Answer], refusal: Answer) -> Answer:
    """Whether the log takes an entry that nothing is wrong with, so that the ones refused are themselves to blame.

    A project that cannot be, or a clock that is days ahead, is answered in the same way as a bad entry, and would
    otherwise cost every event that there is.
    """
    now = dt.datetime.now(dt.timezone.utc).isoformat()
    answer = offer([{"timestamp": now, "jsonPayload": {"message": "Can this log be written?"}}], dry_run=True)
    if answer.refused_whole:
        said = refusal.problem or next(iter(refusal.rejected.values()))
        return later(
            f"every entry is refused: {said}",
            "Check sinks.cloud_logging.project and endpoint, and the machine's clock.",
        )
    return answer
