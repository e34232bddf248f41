"""A bucket with a published advisory database on a loopback port: strict about requests, faulty as a test wants it.

with BucketServer(publication(place, serial=2)) as server:
    server.fault = Fault("truncated", below="shards/", times=1)
    ...  # advisories.url = server.url
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.advisories import publishing
from agent.advisories.advisory import Advisory, Range, Shard
from agent.advisories.manifest import Manifest, believed, encoded, public_key, signed
from agent.advisories.shards import packed
from agent.host import Host

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.timezone.utc)
SHARDS: Mapping[str, tuple[str, ...]] = {
    "pypi": ("PyPI",),
    "nvidia": ("NVIDIA",),
    "debian-12": ("Debian:12",),
    "ubuntu-22.04": ("Ubuntu:22.04:LTS", "Ubuntu:Pro:22.04:LTS"),
}


@functools.cache
def key(name: str = "ours") -> Ed25519PrivateKey:
    """A private key, the same for the same name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def key_text(private: Any) -> bytes:
    """A private key as openssl writes it."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem: bytes = private.private_bytes(*form)
    return pem


PUBLIC_KEY = public_key(key())


def shard(name: str, *, edition: int, count: int = 20) -> bytes:
    """A real shard that is another one for every edition."""
    about = Shard(name=name, ecosystems=SHARDS[name], built=NOW, newest=NOW, records=count, sources=())
    found = (Advisory(id=f"CVE-2026-{each}", ids=(f"CVE-2026-{each}",), ranges=(Range(),)) for each in range(count))
    rows = [(SHARDS[name][0], f"package-{number}-of-{edition}", (each,)) for number, each in enumerate(found)]
    _, content = packed(about, rows)
    return content


def publication(
    place: Path,
    *,
    serial: int,
    editions: Mapping[str, int] | None = None,
    signer: str = "ours",
    built: dt.datetime = NOW,
    count: int = 20,
) -> Path:
    """A published database below ``place``; ``editions`` are those of its shards, else all are of the serial's."""
    shards, bucket, secret = place / f"shards-{serial}", place / f"bucket-{serial}", place / f"{signer}.pem"
    shards.mkdir(parents=True)
    for name in SHARDS:
        edition = (editions or {}).get(name, serial)
        (shards / f"{name}.sqlite").write_bytes(shard(name, edition=edition, count=count))
    secret.write_bytes(key_text(key(signer)))
    secret.chmod(0o600)
    lasts = dt.timedelta(days=30)
    publishing.publish(Host(), str(shards), str(bucket), key=str(secret), serial=serial, built=built, lasts=lasts)
    return bucket


def signed_anew(bucket: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """The same bucket with another manifest, signed by the same key: a publisher that errs."""
    old = (bucket / "manifest.json").read_bytes()
    content = encoded(change(believed(old, (bucket / "manifest.json.sig").read_bytes(), [PUBLIC_KEY])))
    (bucket / "manifest.json").write_bytes(content)
    (bucket / "manifest.json.sig").write_bytes(signed(content, key()))
    return bucket


@dataclass
class Fault:
    """What goes wrong with requests for paths that begin so, and with how many of them before all is well."""

    kind: Literal["status", "truncated", "cut", "tampered", "slow", "drip", "redirect", "endless", "gzip", "reset"]
    below: str = ""
    times: int = 1_000_000
    status: int = 500
    location: str = ""


class BucketServer:
    """The server, started by ``with``. ``place`` may be changed while it runs."""

    def __init__(self, place: Path, *, fault: Fault | None = None) -> None:
        self.place, self.fault = place, fault
        self.requests: list[str] = []
        """The paths that were asked for, in order; those answered with 304 end in ``=``."""
        self.strange: list[str] = []
        """What a well-behaved client would not have sent."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.bucket = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/some/prefix"

    def __enter__(self) -> BucketServer:  # noqa: PYI034 -- typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def faulty(self, name: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        with self._lock:
            if not self.fault or not self.fault.times or not name.startswith(self.fault.below):
                return None
            self.fault.times -= 1
            return self.fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    bucket: BucketServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 -- the name in the standard library
        """Say nothing: the paths are recorded."""

    def do_GET(self) -> None:
        bucket = self.server.bucket
        name = self.path.removeprefix("/some/prefix/")
        bucket.strange += [f"{name}: {said}" for said in self._strange()]
        file = bucket.place / name
        if fault := bucket.faulty(name):
            bucket.requests.append(name)
            self._fail(fault, file)
        elif name == self.path or ".." in name or not file.is_file():
            bucket.requests.append(name)
            self._answer(404, b"NoSuchKey")
        else:
            content = file.read_bytes()
            etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            known = self.headers.get("If-None-Match") == etag
            bucket.requests.append(f"{name}=" if known else name)
            self._answer(304 if known else 200, b"" if known else content, {"ETag": etag})

    def _strange(self) -> Iterator[str]:
        if self.headers.get("Accept-Encoding") != "identity":
            yield f"asks for {self.headers.get('Accept-Encoding')}"
        if "Authorization" in self.headers:
            yield "shows a credential"
        if "Range" in self.headers:
            yield "asks for a part"

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault, file: Path) -> None:
        content = file.read_bytes() if file.is_file() else b""
        middle = len(content) // 2
        if fault.kind == "status":
            self._answer(fault.status, b"<html>not here</html>")
        elif fault.kind == "redirect":
            self._answer(302, b"", {"Location": fault.location or f"{self.path}"})
        elif fault.kind == "truncated":  # what a server says that holds half a file
            self._answer(200, content[:middle])
        elif fault.kind == "tampered":
            self._answer(200, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        elif fault.kind == "gzip":
            self._answer(200, content, {"Content-Encoding": "gzip"})
        elif fault.kind == "reset":
            self.close_connection = True
        else:
            self._dawdle(fault, content)

    def _dawdle(self, fault: Fault, content: bytes) -> None:
        """Send what there is in another way: a half, slowly, a byte now and then, or without an end."""
        self.close_connection = True
        length = b"" if fault.kind in {"endless", "drip"} else f"Content-Length: {len(content)}\r\n".encode()
        start = "HTTP/1.1 200 OK" if not fault.location else f"HTTP/1.1 302 Found\r\nLocation: {fault.location}"
        self.wfile.write(f"{start}\r\nConnection: close\r\n".encode() + length + b"\r\n")
        if fault.kind == "cut":
            self.wfile.write(content[: len(content) // 2])
        elif fault.kind == "slow":
            step = max(1, len(content) // 20)
            for at in range(0, len(content), step):
                self.wfile.write(content[at : at + step])
                time.sleep(0.005)
        else:
            piece, pause = (b"x", 0.02) if fault.kind == "drip" else (b"x" * 65536, 0)
            while not self.server.bucket.closing.wait(pause):
                self.wfile.write(piece)
