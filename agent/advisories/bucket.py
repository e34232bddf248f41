"""A bucket on the network: the manifest and the shards over HTTPS, from a server that may be slow, broken or hostile.

Nothing that comes from here is believed; the limits are on what it may cost to find that out.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import urllib.parse
from collections.abc import Callable, Iterator
from typing import TypeVar

import requests
from requests.auth import AuthBase

from agent.advisories.installed import NotTakenError
from agent.config import ConfigError
from agent.host import shown

T = TypeVar("T")

STORAGE = "storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and for one read
_REDIRECTS = 3
_PIECE = 1 << 16
_FINE, _NOT_MODIFIED = 200, 304
_HINTS = {
    401: '; for a private bucket set advisories.credentials to "machine"',
    403: "; for a private bucket the machine's account needs the role roles/storage.objectViewer",
    404: "; is advisories.url where manifest.json lies?",
}


class Bucket:
    """A bucket at an address, for one ``with``."""

    def __init__(self, url: str, *, token: str = "") -> None:
        """Nothing is asked yet. The token is for Cloud Storage, and shown to nobody else."""
        self._url = address(url)
        self._session = _Session()
        self._session.auth = _Bearer(token)
        # What was published a moment ago should not wait for a cache, and no proxy should pack it anew.
        self._session.headers.update({"Accept-Encoding": "identity", "Cache-Control": "no-cache"})

    def __enter__(self) -> Bucket:  # noqa: PYI034 -- typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def read(self, name: str, *, limit: int) -> bytes:
        """A small file."""
        return b"".join(self.stream(name, limit=limit))

    def read_unless(self, etag: str, name: str, *, limit: int) -> tuple[bytes, str] | None:
        """A small file and its version, or None where it has this version already."""
        with self._answer(name, {"If-None-Match": etag} if etag else {}) as answer:
            if answer.status_code == _NOT_MODIFIED and etag:
                return None
            content = b"".join(_content(answer, name, limit=limit))
            return content, _version(answer.headers.get("ETag", ""))

    def stream(self, name: str, *, limit: int) -> Iterator[bytes]:
        """A file in pieces; one that is longer than the limit is an error."""
        with self._answer(name, {}) as answer:
            yield from _content(answer, name, limit=limit)

    def _answer(self, name: str, headers: dict[str, str]) -> requests.Response:
        url = f"{self._url}/{name}"
        ask = functools.partial(self._session.get, headers=headers, stream=True, timeout=_TIMEOUT)
        for _ in range(1 + _REDIRECTS):
            answer = _attempt(name, functools.partial(ask, url))
            if not answer.is_redirect:
                return answer
            answer.close()
            url = _redirected(url, answer.headers["Location"])
        raise NotTakenError(f"{name}: more than {_REDIRECTS} redirects")


class _Session(requests.Session):
    """A session that leaves redirects to us; requests would read their bodies, however long, also when forbidden."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: this is an answer as others are."""


class _Bearer(AuthBase):
    """The token, for Cloud Storage alone; and never what a .netrc may hold."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        to = urllib.parse.urlsplit(request.url or "")
        if self._token and (to.scheme, to.netloc) == ("https", STORAGE):
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def address(url: str) -> str:
    """The address as HTTP knows it.

    Raises:
        ConfigError: it is neither encrypted nor on this machine.
    """
    if url.startswith("gs://"):
        return f"https://{STORAGE}/{url.removeprefix('gs://').rstrip('/')}"
    if not _is_safe(url):
        raise ConfigError(f"advisories.url: expected https:// or gs://, for {url} is another machine and not encrypted")
    return url.rstrip("/")


def token(chosen: str, url: str) -> str:
    """The machine's own access token if it is to be used, else nothing.

    Raises:
        ConfigError: it would go to somebody else than Cloud Storage.
        NotTakenError: the machine has none.
    """
    if chosen == "none":
        return ""
    if urllib.parse.urlsplit(address(url)).netloc != STORAGE:
        raise ConfigError(
            f'advisories.credentials: "machine" is for gs:// and https://{STORAGE}/ alone; the token goes nowhere else'
        )
    # Only here: slow to import, and for private buckets alone.
    from google.auth.compute_engine import Credentials  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    from google.auth.transport.requests import Request  # noqa: PLC0415

    credentials = Credentials(scopes=[_SCOPE])
    with requests.Session() as session:
        session.trust_env = False  # the metadata server is asked directly, never through a proxy
        try:
            credentials.refresh(Request(session))
        except GoogleAuthError as error:
            raise NotTakenError(f"no access token from the metadata server: {error}") from error
    return str(credentials.token)


def _is_safe(url: str) -> bool:
    """Whether it is encrypted, or stays on this machine."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    return False


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, which is never from one scheme to another, or from this machine to others in clear."""
    with contextlib.suppress(ValueError):
        target = urllib.parse.urljoin(url, location)
        if target.partition(":")[0] == url.partition(":")[0] and _is_safe(target):
            return target
    raise NotTakenError(f"the server redirects to {shown(location)[:200]}, which is not followed")


def _content(answer: requests.Response, name: str, *, limit: int) -> Iterator[bytes]:
    if answer.status_code != _FINE:
        raise NotTakenError(f"{name}: the server answered {answer.status_code}{_HINTS.get(answer.status_code, '')}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise NotTakenError(f"{name}: the server or a proxy packed it, which was not asked for")
    pieces = answer.iter_content(_PIECE)
    read = 0
    while piece := _attempt(name, lambda: next(pieces, b"")):
        read += len(piece)
        if read > limit:
            raise NotTakenError(f"{name}: the server sent more than {limit} bytes")
        yield piece


def _version(etag: str) -> str:
    """An entity tag that can be sent back and kept."""
    return etag if etag.isascii() and etag.isprintable() and len(etag) <= 200 else ""  # noqa: PLR2004 -- longer than any


def _attempt(name: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except requests.Timeout as error:
        raise NotTakenError(f"{name}: the server did not answer in time") from error
    except requests.RequestException as error:
        raise NotTakenError(f"{name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The innermost cause, without the addresses of objects that the outer ones print."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return shown(str(getattr(error, "reason", error)))[:200]
