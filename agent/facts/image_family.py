"""Whether the image family of this machine has a newer image, as the Compute API says it. Asked only if configured."""

from __future__ import annotations

import datetime as dt
import re
import typing
import urllib.parse

import msgspec

from agent.config import Config
from agent.facts.image import parse_image_name
from agent.host import Host
from agent.metadata import MetadataServer, within
from agent.model import AbsentError, CannotLookError, Fact, probe

if typing.TYPE_CHECKING:
    import requests

# https://cloud.google.com/compute/docs/reference/rest/v1/images/getFromFamily
_SCOPES = {
    f"https://www.googleapis.com/auth/{name}"
    for name in ("cloud-platform", "cloud-platform.read-only", "compute", "compute.readonly")
}
_HINT = (
    "It needs a service account with the scope compute-ro and the permissions compute.images.get and "
    "compute.images.getFromFamily; set image.compute_api to false to do without."
)
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{0,61}[a-z0-9]")
_LIMIT = 256 << 10
_SECONDS = 10.0  # for one read
_STATES = {"", "ACTIVE", "DEPRECATED", "OBSOLETE", "DELETED"}


class NewestImage(Fact, frozen=True, kw_only=True):
    """What the Compute API knows of the machine's image; nothing where it is not ``asked``, or there is no image.

    ``state`` is ACTIVE, DEPRECATED, OBSOLETE or DELETED; ``newest`` the newest image of its ``family`` that is none of
    the latter three, empty where the family has none any more or the image is of no family.
    """

    asked: bool = False
    project: str = ""
    image: str = ""
    family: str = ""
    state: str = ""
    newest: str = ""


class _Deprecation(msgspec.Struct):
    state: str = ""


class _Image(msgspec.Struct):
    name: str
    family: str = ""
    deprecated: _Deprecation = msgspec.field(default_factory=_Deprecation)


@probe(every=dt.timedelta(hours=24), network=True)
def image_family(_host: Host, config: Config) -> NewestImage:
    """The newest image of the machine's family, by the Compute API if that is configured."""
    if not config.image.compute_api:
        return NewestImage()
    return within(config.instance.timeout_seconds * 2, lambda: _asked(config), who="the Compute API")


def _asked(config: Config) -> NewestImage:
    import requests  # noqa: PLC0415 -- slow to import, which only whoever asks the API should pay

    with requests.Session() as session:
        server = MetadataServer(config.instance.metadata_url, session)
        try:
            made_from = server.value("instance/image")
        except AbsentError:
            return NewestImage(asked=True)  # from a disk or a snapshot
        # A token is asked for only where it can be of use.
        if _SCOPES.isdisjoint(server.words("instance/service-accounts/default/scopes")):
            raise _not_evaluated("the machine's service account has no scope for it")
        token = server.token()
    with requests.Session() as session:
        session.trust_env = False  # a .netrc would put another secret in the token's place
        session.headers.update({"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"})
        return _looked_up(session, config.image.compute_endpoint, made_from)


def _looked_up(session: requests.Session, endpoint: str, made_from: str) -> NewestImage:
    name = parse_image_name(made_from)
    if not (_PROJECT.fullmatch(name.project) and _NAME.fullmatch(name.name)):
        raise _not_evaluated("the metadata server names the image in a way that is not understood")
    images = f"{endpoint}/compute/v1/projects/{urllib.parse.quote(name.project, safe='')}/global/images"
    image = _image(session, f"{images}/{name.name}")
    found = NewestImage(
        asked=True,
        project=name.project,
        image=name.name,
        family=image.family,
        state=image.deprecated.state or "ACTIVE",
    )
    if not image.family:
        return found
    try:
        newest = _image(session, f"{images}/family/{image.family}")
    except AbsentError:
        if found.state == "ACTIVE":
            raise
        return found  # every image of the family is deprecated
    return msgspec.structs.replace(found, newest=newest.name)


def _image(session: requests.Session, url: str) -> _Image:
    """One image; AbsentError where there is none. What the answer says besides is not repeated."""
    import requests  # noqa: PLC0415 -- as above

    try:
        with session.get(url, timeout=_SECONDS, stream=True, allow_redirects=False) as answer:
            if answer.status_code == 404:  # noqa: PLR2004 -- not found
                raise AbsentError(f"the Compute API was not evaluated: it has no {_path(url)}", _HINT)
            if answer.status_code != 200:  # noqa: PLR2004 -- fine
                raise _not_evaluated(f"it answered {answer.status_code} for {_path(url)}")
            body = bytearray()
            for piece in answer.iter_content(8192):
                body += piece
                if len(body) > _LIMIT:
                    raise _not_evaluated(f"it answered more than {_LIMIT} bytes")
    except requests.RequestException as error:
        raise _not_evaluated(f"it could not be reached ({type(error).__name__})") from None
    try:
        image = msgspec.json.decode(bytes(body), type=_Image)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _not_evaluated(f"its answer for {_path(url)} is not understood") from None
    if not _NAME.fullmatch(image.name) or not _NAME.fullmatch(image.family or "a"):
        raise _not_evaluated(f"its answer for {_path(url)} names no image")
    if image.deprecated.state not in _STATES:
        raise _not_evaluated(f"its answer for {_path(url)} has a state that is not known")
    return image


def _path(url: str) -> str:
    return urllib.parse.urlsplit(url).path.removeprefix("/compute/v1/")


def _not_evaluated(why: str) -> CannotLookError:
    return CannotLookError(f"the Compute API was not evaluated: {why}", _HINT)
