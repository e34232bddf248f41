"""Cloud Logging on a loopback port: strict about requests, scriptable in its failures, exact in what it keeps.

    with LoggingServer() as server:
        server.faults.append(Fault.status(503))  # for the next request; without one it behaves
        ...
        assert len(server.visible()) == 1000

``arrivals`` holds every entry as often as it was written, which is what log sinks, metrics and Log Analytics see;
``visible()`` is what Logs Explorer shows of it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import itertools
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.fakes import entries as rules

RETENTION = dt.timedelta(days=30)
HTML = b"<!DOCTYPE html><html lang=en><title>Error 502 (Server Error)!!1</title><p>Please try again.</html>"

Match = Callable[[Mapping[str, Any]], bool]


class Fault(NamedTuple):
    """How the server treats one request. Made by the methods below."""

    code: int = 200
    body: bytes | None = None
    takes: bool = False
    """Whether the entries are written all the same."""
    drops: bool = False
    """The connection is closed instead of an answer."""
    cuts: bool = False
    """The answer ends in the middle."""
    delay: float = 0.0

    @classmethod
    def status(cls, code: int, message: str = "injected", *, reason: object = "") -> Fault:
        """Refuse the whole request as the server does; ``reason`` becomes an ErrorInfo."""
        name = next((name for status, name in rules.STATUSES.values() if status == code), "UNKNOWN")
        error: dict[str, Any] = {"code": code, "message": message, "status": name}
        if reason:
            error["details"] = [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
            ]
        return cls(code=code, body=json.dumps({"error": error}).encode())

    @classmethod
    def answer(cls, code: int, body: bytes = HTML) -> Fault:
        """Answer with these bytes and write nothing: a proxy's page, a captive portal."""
        return cls(code=code, body=body)

    @classmethod
    def drop(cls) -> Fault:
        """Close the connection without writing anything."""
        return cls(drops=True)

    @classmethod
    def accept_then_drop(cls) -> Fault:
        """Write the entries, then close the connection: the client cannot know."""
        return cls(takes=True, drops=True)

    @classmethod
    def truncated(cls) -> Fault:
        """Write the entries and close the connection in the middle of the answer."""
        return cls(takes=True, cuts=True)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """Write the entries and answer late."""
        return cls(takes=True, delay=seconds)


class Rule(NamedTuple):
    """Entries that are refused, always."""

    match: Match
    code: int
    message: str
    whole: bool


class Call(NamedTuple):
    """A request as it came in."""

    status: int
    entries: int
    bytes: int
    dry_run: bool
    headers: Mapping[str, str]


class LoggingServer:
    """The server. ``faults`` are used up one a request, then ``standing`` holds until it is set to None."""

    def __init__(self, *, projects: set[str] | None = None, token: str = "", now: dt.datetime | None = None) -> None:
        """Know these projects; with a token, refuse requests without it; with ``now``, live at that time."""
        self.projects = projects or {"fake-project"}
        self.token = token
        self.faults: deque[Fault] = deque()
        self.standing: Fault | None = None
        self.arrivals: list[dict[str, Any]] = []
        self.expired: list[dict[str, Any]] = []
        """Written with a timestamp past retention: answered with OK and never seen again."""
        self.calls: list[Call] = []
        self._rules: list[Rule] = []
        self.now = now
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._address = ("127.0.0.1", 0)
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LoggingServer:  # noqa: PYI034 -- Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The address for the client's ``api_endpoint``; it stays the same over stop and start."""
        return f"http://{self._address[0]}:{self._address[1]}"

    def start(self) -> None:
        """Listen, after a stop on the same port again."""
        self._http = _Server(self._address, self)
        self._address = ("127.0.0.1", self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection; what was written stays."""
        if self._http and self._thread:
            self._http.close()
            self._thread.join()
            self._http = None

    def refuse(self, match: Match, *, code: int = rules.INVALID, message: str = "refused", whole: bool = False) -> None:
        """Refuse entries that match from now on; ``whole``: such an entry spoils its request, without details."""
        self._rules.append(Rule(match, code, message, whole))

    def forgive(self) -> None:
        """Forget what ``refuse`` was told."""
        self._rules.clear()

    def visible(self) -> list[dict[str, Any]]:
        """The entries as one query shows them: one for each log, timestamp and insertId."""
        unique = {(entry["logName"], entry["timestamp"], entry["insertId"]): entry for entry in reversed(self.arrivals)}
        return list(reversed(unique.values()))

    def receive(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, Fault]:
        """The answer to one request, and what the fault in turn wants done to it."""
        with self._lock:
            fault = self.faults.popleft() if self.faults else self.standing or Fault()
            count, dry_run = 0, False
            if fault.body is not None and not fault.takes:
                status, answer = fault.code, fault.body
            elif fault.drops and not fault.takes:
                status, answer = 0, b""
            else:
                status, said, count, dry_run = self._write(body, headers)
                answer = json.dumps(said).encode()
            self.calls.append(Call(status, count, len(body), dry_run, dict(headers)))
            return status, answer, fault

    def _write(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, Any], int, bool]:
        count, dry_run = 0, False
        try:
            if self.token and headers.get("authorization") != f"Bearer {self.token}":
                raise rules.RefusedError(16, "Request had invalid authentication credentials.")
            request = rules.parse(body)
            count, dry_run = len(request.entries), request.dry_run
            status, answer = self._judge(request)
        except rules.RefusedError as error:
            status, answer = error.answer()
        return status, answer, count, dry_run

    def _judge(self, request: rules.Request) -> tuple[int, dict[str, Any]]:
        now = self.now or dt.datetime.now(dt.timezone.utc)
        failures: dict[int, tuple[int, str]] = {}
        for index, entry in enumerate(request.entries):
            broken = [rule for rule in self._rules if rule.match(entry)]
            for rule in broken:
                if rule.whole:
                    raise rules.RefusedError(rule.code, rule.message)
            own = rules.fault(entry, projects=self.projects, now=now)
            if own or broken:
                failures[index] = own or (broken[0].code, broken[0].message)
        if failures and (len(failures) == len(request.entries) or not request.partial_success):
            raise rules.RefusedError(*next(iter(failures.values())))
        if not request.dry_run:
            for index, entry in enumerate(request.entries):
                if index not in failures:
                    self._keep(entry, now)
        return rules.partial(failures) if failures else (200, {})

    def _keep(self, entry: Mapping[str, Any], now: dt.datetime) -> None:
        stamp = now.isoformat().replace("+00:00", "Z")
        stored = {
            "timestamp": stamp,
            "insertId": f"server-{next(self._numbers)}",
            "severity": "DEFAULT",
            **entry,
            "labels": rules.cut_labels(entry["labels"]),
            "receiveTimestamp": stamp,
        }
        time = rules.moment(stored["timestamp"]) or now
        (self.expired if time < now - RETENTION else self.arrivals).append(stored)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: LoggingServer) -> None:
        self.owner = owner
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Connection)

    @contextlib.contextmanager
    def connection(self, connection: socket.socket) -> Iterator[None]:
        """A connection that ``close`` will end if its client keeps it."""
        self._open.add(connection)
        try:
            yield
        finally:
            self._open.discard(connection)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is nothing to print."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def handle(self) -> None:
        with self.server.connection(self.connection), contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.partition("?")[0] != "/v2/entries:write":
            self._answer(404, HTML)
            return
        status, answer, fault = self.server.owner.receive(body, headers)
        self.server.closing.wait(fault.delay)
        if fault.drops:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._answer(status, answer, cut=fault.cuts)

    def _answer(self, status: int, body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        kind = "text/html" if body.startswith(b"<") else "application/json"
        self.send_header("Content-Type", f"{kind}; charset=UTF-8")
        self.send_header("Content-Length", str(len(body) + cut))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        """Tests say what matters."""
