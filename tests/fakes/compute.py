"""The part of the Compute API that knows images, on a loopback port: as strict as Google's, as faulty as wanted."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.metadata import TOKEN

FAMILY = "common-cu129-ubuntu-2404-nvidia-580"
OLD, NEW = f"{FAMILY}-v20261016", f"{FAMILY}-v20261113"
PROJECT = "deeplearning-platform-release"


def an_image(name: str = OLD, *, state: str = "", family: str = FAMILY) -> dict[str, Any]:
    """An image as images.get shows it, with some of the fields that nobody asks about."""
    image: dict[str, Any] = {"kind": "compute#image", "id": "42", "name": name, "status": "READY", "labels": {}}
    return image | ({"family": family} if family else {}) | ({"deprecated": {"state": state}} if state else {})


class ComputeApi:
    """The server, started by ``with``: it answers below /compute/v1 to whoever has the machine's token."""

    def __init__(self, answers: Mapping[str, Any], *, status: int = 0, body: bytes | None = None) -> None:
        """``answers`` are images by what follows ``global/images/``; ``status`` and ``body`` replace every answer."""
        self.answers = {
            f"/compute/v1/projects/{PROJECT}/global/images/{name}": image for name, image in answers.items()
        }
        self.status = status
        self.body = body
        self.paths: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ComputeApi:  # noqa: PYI034 -- typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    api: ComputeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 -- the name in the standard library
        """Say nothing: the paths are recorded."""

    def do_GET(self) -> None:
        api = self.server.api
        api.paths.append(self.path)
        if api.status or api.body is not None:
            self._answer(api.status or 200, api.body or b"{}")
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b'{"error": {"code": 401, "status": "UNAUTHENTICATED"}}')
        elif self.path in api.answers:
            self._answer(200, json.dumps(api.answers[self.path]).encode())
        else:
            self._answer(404, b'{"error": {"code": 404, "errors": [{"reason": "notFound"}]}}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"{self.server.api.url}/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
