"""With whose authority entries are written, and what is said when there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.config import CloudLoggingSection
from agent.sinks.cloud_logging import CloudLogging
from tests.fakes.cloud_logging import LoggingServer
from tests.fakes.events import CATALOGUE, VM, an_event

ACCOUNT = {"email": "vm@fake-project.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}
TOKEN = {"access_token": "valid", "expires_in": 3600, "token_type": "Bearer"}
NOBODY = "/a-machine-without-account"


def key_text(token_uri, **changes):
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 -- comes with google-auth, not with us
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "project_id": "fake-project",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": ACCOUNT["email"],
        "token_uri": token_uri,
    }
    return json.dumps(key | changes)


@pytest.fixture
def tokens():
    """A server that hands out the token "valid", as the metadata server and as the token endpoint of a key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            said = ACCOUNT if path.endswith("/default/") else TOKEN
            self.answer(404 if NOBODY in path else 200, json.dumps(said).encode())

        def do_POST(self):
            self.answer(200, json.dumps(TOKEN).encode())

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def sent(server, **settings):
    return CloudLogging(CloudLoggingSection(endpoint=server.endpoint, **settings), CATALOGUE).send([an_event()], VM)


def test_a_key_file_gets_a_token_for_writing_logs(tmp_path, tokens):
    path = tmp_path / "key.json"
    path.write_text(key_text(f"http://{tokens}/token"))
    with LoggingServer(token="valid") as server:
        assert sent(server, credentials=str(path)).accepted == {1}


def test_a_token_that_is_refused_is_a_problem_with_advice(tmp_path, tokens):
    path = tmp_path / "key.json"
    path.write_text(key_text(f"http://{tokens}/token"))
    with LoggingServer(token="another") as server:
        delivery = sent(server, credentials=str(path))
    assert (delivery.accepted, delivery.rejected) == (frozenset(), {})
    assert delivery.problem.startswith("401: ")
    assert "sinks.cloud_logging.credentials" in delivery.advice


def sent_by_a_machine(metadata_host, *endpoint):
    """The delivery as text, from a process of its own: the metadata server's address is read on import."""
    program = (
        "import sys; from agent.config import CloudLoggingSection as S;"
        "from agent.sinks.cloud_logging import CloudLogging; from tests.fakes.events import *;"
        "print(CloudLogging(S(endpoint=sys.argv[1]), CATALOGUE).send([an_event()], VM))"
    )
    environment = {**os.environ, "GCE_METADATA_HOST": metadata_host}
    command = [sys.executable, "-W", "error", "-c", program, *endpoint]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_machines_own_account_is_asked_of_the_metadata_server(tokens):
    with LoggingServer(token="valid") as server:
        assert "accepted=frozenset({1})" in sent_by_a_machine(tokens, server.endpoint)
        assert server.calls[0].headers["authorization"] == "Bearer valid"


def test_a_machine_without_service_account_is_a_problem_with_advice(tokens):
    with LoggingServer(token="valid") as server:
        answer = sent_by_a_machine(tokens + NOBODY, server.endpoint)
        assert server.calls == []
    assert "accepted=frozenset()" in answer
    assert "no access token" in answer
    assert "the VM has a service account" in answer


BAD_KEYS = {
    "empty": "",
    "text": "hello",
    "list": "[]",
    "null": "null",
    "no fields": "{}",
    "another kind": '{"type": "authorized_user", "client_id": "x", "refresh_token": "secret-of-the-file"}',
    "no key in it": json.dumps(
        {"type": "service_account", "client_email": "e", "token_uri": "u", "private_key": "secret-of-the-file"}
    ),
    "numbers": '{"client_email": 1, "token_uri": 2, "private_key": 3}',
    "not UTF-8": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_file_that_is_no_key_is_a_problem_that_quotes_nothing_of_it(tmp_path, content):
    path = tmp_path / "key.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with LoggingServer() as server:
        delivery = sent(server, credentials=str(path))
        assert server.calls == []
    assert delivery.problem == f"{path} is not the key of a service account"
    assert "secret-of-the-file" not in repr(delivery)


def test_a_key_that_is_not_there_is_a_problem_with_its_path(tmp_path):
    with LoggingServer() as server:
        assert sent(server, credentials=str(tmp_path / "none.json")).problem.endswith("no such file or directory")


def test_a_fifo_in_place_of_a_key_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "key.json")
    with LoggingServer() as server:
        assert "not a regular file" in sent(server, credentials=str(tmp_path / "key.json")).problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_is_a_problem(tmp_path):
    path = tmp_path / "key.json"
    path.touch(mode=0)
    with LoggingServer() as server:
        assert "permission denied" in sent(server, credentials=str(path)).problem


def test_no_token_goes_over_the_network_unencrypted():
    sink = CloudLogging(CloudLoggingSection(endpoint="http://logging.example"), CATALOGUE)
    delivery = sink.send([an_event()], VM)
    assert "unencrypted" in delivery.problem
    assert "https://" in delivery.advice
