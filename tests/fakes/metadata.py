"""A metadata server on a loopback port: as strict as Google's, and as faulty as a test wants it."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

ROOT = "/computeMetadata/v1/"
ACCOUNT = "281234567890-compute@developer.gserviceaccount.com"
TOKEN = "ya29.a-token-of-the-fake-metadata-server"
SCOPES = ("https://www.googleapis.com/auth/logging.write", "https://www.googleapis.com/auth/monitoring.write")
VALUES: Mapping[str, str] = {
    "project/project-id": "vision-lab",
    "project/numeric-project-id": "281234567890",
    "instance/id": "9007199254740993123",
    "instance/name": "gpu-1",
    "instance/hostname": "gpu-1.c.vision-lab.internal",
    "instance/zone": "projects/281234567890/zones/us-central1-a",
    "instance/machine-type": "projects/281234567890/machineTypes/a2-highgpu-1g",
    "instance/image": (
        "projects/deeplearning-platform-release/global/images/common-cu129-ubuntu-2404-nvidia-580-v20261016"
    ),
    "instance/network-interfaces/0/ip": "10.128.0.2",
    "instance/network-interfaces/0/mtu": "1460",
    **{
        f"instance/service-accounts/{name}/{key}": value
        for name in ("default", ACCOUNT)
        for key, value in {"aliases": "default", "email": ACCOUNT, "scopes": "\n".join(SCOPES)}.items()
    },
}
"""What the server knows unless a test says otherwise: a Deep Learning VM in good order, by key below the root."""

_LISTS = {"aliases", "scopes", "ipv6s", "tags", "dns-servers", "forwarded-ips"}
_NUMBERS = {"id", "numeric-project-id", "mtu"}


@dataclass
class Fault:
    """What goes wrong: with which requests (a prefix of the key), and how many of them before all is well."""

    kind: Literal["status", "hang", "drip", "drip-headers", "html", "no-flavor", "huge", "redirect", "reset"]
    below: str = ""
    times: int = 1_000_000
    status: int = 503


class MetadataServer:
    """The server, started by ``with``; ``url`` is for us, ``host`` for GCE_METADATA_HOST and GCE_METADATA_IP."""

    def __init__(self, values: Mapping[str, str] = VALUES, *, fault: Fault | None = None) -> None:
        self.values = dict(values)
        self.fault = fault
        self.paths: list[str] = []
        """Every path that was asked for, refused ones too, with its query."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.metadata = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> MetadataServer:  # noqa: PYI034 -- typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def faulty(self, key: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        with self._lock:
            if not self.fault or not self.fault.times or not key.startswith(self.fault.below):
                return None
            self.fault.times -= 1
            return self.fault

    def below(self, directory: str) -> dict[str, str]:
        """The values in a directory (which ends in /, or is empty), by the rest of their key."""
        return {key[len(directory) :]: value for key, value in self.values.items() if key.startswith(directory)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    metadata: MetadataServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the second should not wait for an acknowledgement
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 -- the name in the standard library
        """Say nothing: the paths are recorded."""

    def do_GET(self) -> None:
        known = self.server.metadata
        known.paths.append(self.path)
        url = urlsplit(self.path)
        key = url.path.removeprefix(ROOT)
        if fault := known.faulty(key):
            self._fail(fault)
        elif self.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in self.headers:
            self._answer(403, "Missing Metadata-Flavor:Google header.", kind="text/html")
        elif url.path == "/":
            self._answer(200, "computeMetadata/\n")
        elif not url.path.startswith(ROOT):
            self._answer(404, "")
        else:
            self._look_up(key, recursive="recursive" in parse_qs(url.query))

    def _look_up(self, key: str, *, recursive: bool) -> None:
        known = self.server.metadata
        account, _, last = key.rpartition("/")
        directory = key if key.endswith("/") or not key else f"{key}/"
        if last == "token" and f"{account}/email" in known.values:
            token = {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}
            self._answer(200, json.dumps(token), kind="application/json")
        elif key in known.values:
            self._answer(200, known.values[key])
        elif not (inside := known.below(directory)):
            self._answer(404, "The requested URL was not found on this server.", kind="text/html")
        elif recursive:
            self._answer(
                200, json.dumps(_tree(inside, keep=directory.endswith("attributes/"))), kind="application/json"
            )
        elif key != directory:
            self._answer(301, "", location=f"{ROOT}{directory}")
        else:
            names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in inside}
            self._answer(200, "".join(f"{name}\n" for name in sorted(names)))

    def _answer(
        self, status: int, text: str, *, kind: str = "application/text", flavor: str = "Google", location: str = ""
    ) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (("Metadata-Flavor", flavor), ("Location", location)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "status":
            self._answer(fault.status, "busy")
        elif fault.kind == "html":
            self._answer(200, "<html><title>Sign in to the network</title></html>", kind="text/html")
        elif fault.kind == "no-flavor":
            self._answer(200, "vision-lab", flavor="")
        elif fault.kind == "redirect":
            self._answer(302, "", location=f"{self.server.metadata.url}/elsewhere")
        elif fault.kind == "reset":
            # Closing with a linger time of nought sends a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self._never_end(fault)

    def _never_end(self, fault: Fault) -> None:
        """Send nothing, a byte now and then, or as much as the client takes, until it goes or the test ends."""
        self.close_connection = True
        head = b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n"
        if fault.kind == "hang":
            self.server.metadata.closing.wait()
            return
        self.wfile.write(head + (b"X-Drip: " if fault.kind == "drip-headers" else b"\r\n"))
        pause, piece = (0, b"x" * 65536) if fault.kind == "huge" else (0.05, b"x")
        while not self.server.metadata.closing.wait(pause):
            self.wfile.write(piece)


def _tree(values: Mapping[str, str], *, keep: bool) -> Any:
    """A directory as recursive=true shows it: names in camel case but for attributes, numbered ones as lists."""
    tree: dict[str, Any] = {}
    for name in dict.fromkeys(key.partition("/")[0] for key in values):
        inside = {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(f"{name}/")}
        shown = name if keep else re.sub(r"-(\w)", lambda match: match[1].upper(), name)
        tree[shown] = _tree(inside, keep=name == "attributes") if inside else _leaf(name, values[name])
    return list(tree.values()) if tree and all(name.isdigit() for name in tree) else tree


def _leaf(name: str, value: str) -> Any:
    if name in _LISTS:
        return value.split()
    return int(value) if name in _NUMBERS else value
