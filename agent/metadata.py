"""The door to the metadata server: single questions with limits, to a server that may be none or hostile.

A token is asked for by ``token`` alone, and errors name the key, never what was answered: the values of attributes are
where people put passwords.
"""

from __future__ import annotations

import queue
import re
import threading
import time
import typing
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.model import AbsentError, CannotLookError, Unknown, attempt

if typing.TYPE_CHECKING:
    import requests

T = TypeVar("T")

ROOT = "/computeMetadata/v1/"
# A value is at most 256 KiB: https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#limitations
_LIMIT = 256 << 10
_SECONDS = 2.0  # for one read; the server is on the same host and answers within milliseconds
_PAUSES = (0.1, 0.4)  # before the second and the third try of a request
_TROUBLESHOOTING = "https://cloud.google.com/compute/docs/troubleshooting/troubleshoot-metadata-server"
_BUSY = {429, 503}  # the answers after which that page says to try again
_MANY = 1000  # service accounts, scopes, attributes: real machines have a handful
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@-]{1,300}")

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")  # https://www.rfc-editor.org/rfc/rfc6750#section-2.1


class _Token(msgspec.Struct):
    access_token: str


class MetadataError(CannotLookError):
    """No usable answer: ``again`` if a second try may get one, ``stranger`` if it was no metadata server that spoke."""

    def __init__(self, reason: str, *, again: bool = False, stranger: bool = False) -> None:
        """Keep the reason, as said of the metadata server."""
        super().__init__(f"the metadata server {reason}", f"See {_TROUBLESHOOTING}")
        self.again = again
        self.stranger = stranger


class MetadataServer:
    """A metadata server at an address, over a session of requests that the caller closes."""

    def __init__(self, url: str, session: requests.Session) -> None:
        """Prepare the session; nothing is asked yet."""
        self._root = url.rstrip("/") + ROOT
        self._session = session
        # Neither the proxies nor the .netrc of whoever runs this may see or answer the questions.
        session.trust_env = False
        # requests would read the body of a redirect, however long, even where it is not to follow it.
        session.get_redirect_target = lambda _answer: None  # type: ignore[assignment, method-assign]
        session.headers.update({"Metadata-Flavor": "Google", "Accept-Encoding": "identity"})

    def value(self, key: str) -> str:
        """The one-line value of a key, made of the characters that names, paths and ids have."""
        words = self.words(key)
        if len(words) != 1:
            raise MetadataError(f"gave an answer of unexpected form for {key}")
        return words[0]

    def words(self, key: str) -> tuple[str, ...]:
        """The lines of a key, each made of the characters that names, paths and ids have."""
        words = tuple(self.text(key).split())
        if len(words) > _MANY or not all(map(_PLAIN.fullmatch, words)):
            raise MetadataError(f"gave an answer of unexpected form for {key}")
        return words

    def names(self, directory: str) -> tuple[str, ...]:
        """What a directory holds, sorted; nothing where there is no such directory."""
        try:
            return tuple(sorted(name.rstrip("/") for name in self.words(f"{directory}/")))
        except AbsentError:
            return ()

    def text(self, key: str) -> str:
        """The text of a key, asked for again while the server is busy; AbsentError where there is no such key."""
        for pause in _PAUSES:
            try:
                return self.once(key)
            except MetadataError as error:  # noqa: PERF203 -- three tries at most
                if not error.again:
                    raise
                time.sleep(pause)
        return self.once(key)

    def token(self) -> str:
        """An access token of the machine's service account, for the header of a request and for nothing else."""
        key = "instance/service-accounts/default/token"
        try:
            token = msgspec.json.decode(self.text(key), type=_Token).access_token
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise MetadataError(f"gave an answer of unexpected form for {key}") from None
        if not _TOKEN.fullmatch(token):
            raise MetadataError(f"gave an answer of unexpected form for {key}")
        return token

    def once(self, key: str, *, seconds: float = _SECONDS) -> str:
        """The text of a key, asked for once."""
        import requests  # noqa: PLC0415 -- slow to import, which only a machine that may be Google's should pay

        try:
            with self._session.get(self._root + key, timeout=seconds, stream=True, allow_redirects=False) as answer:
                return _accepted(key, answer)
        except requests.Timeout as error:
            raise MetadataError(f"gave no answer for {key}", stranger=True) from error
        except requests.RequestException as error:
            raise MetadataError(f"could not be reached for {key}", again=True, stranger=True) from error


def _accepted(key: str, answer: requests.Response) -> str:
    """The text of an answer, of bounded size, given that a metadata server gave it."""
    if answer.headers.get("Metadata-Flavor") != "Google":
        raise MetadataError(f"is another web server, by its answer ({answer.status_code}) for {key}", stranger=True)
    if answer.status_code == 404:  # noqa: PLR2004 -- not found
        raise AbsentError(f"the metadata server has no {key}")
    if answer.status_code != 200:  # noqa: PLR2004 -- fine
        raise MetadataError(f"answered {answer.status_code} for {key}", again=answer.status_code in _BUSY)
    body = bytearray()
    for piece in answer.iter_content(8192):
        body += piece
        if len(body) > _LIMIT:
            raise MetadataError(f"answered more than {_LIMIT} bytes for {key}")
    return body.decode("utf-8", "backslashreplace")


def within(seconds: float, call: Callable[[], T], *, who: str = "the metadata server") -> T:
    """The result of a talk with a server that may be hostile, or CannotLookError once the time is up.

    The timeouts of requests are those of single reads: a server that drips bytes could hold us for hours. So the
    talk has a thread of its own, which is left behind when the time is up and never keeps the program alive.
    """
    answers: queue.SimpleQueue[T | Unknown] = queue.SimpleQueue()
    threading.Thread(
        target=lambda: answers.put(attempt(call, what=f"asking {who}")), daemon=True, name="metadata"
    ).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise CannotLookError(f"{who} did not answer in full within {seconds:g} s") from None
    if isinstance(answer, Unknown):
        raise CannotLookError(answer.reason, answer.hint)
    return answer
