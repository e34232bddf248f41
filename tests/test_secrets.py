"""Secrets stay where they are: planted everywhere we look, found in nothing that we print, keep or send."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fakes.cloud_logging import LoggingServer
from tests.fakes.metadata import VALUES, MetadataServer

CANARY = "canary-7f3a91"
LISTENER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 0))
print("ready", flush=True)
sys.stdin.read()
"""


def test_no_secret_of_a_process_or_of_the_metadata_reaches_any_output(tmp_path):
    attributes = {
        f"{level}/attributes/{key}": f"{CANARY}-{level}-{key}"
        for level in ("instance", "project")
        for key in ("startup-script", "ssh-keys", "enable-oslogin", "hf-token")
    }
    with (
        MetadataServer(values={**VALUES, **attributes}) as metadata,
        LoggingServer(projects={VALUES["project/project-id"]}) as server,
        subprocess.Popen(
            [sys.executable, "-c", LISTENER, f"--token={CANARY}-argument"],
            env={**os.environ, "API_KEY": f"{CANARY}-environment"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as listener,
    ):
        assert listener.stdout is not None
        listener.stdout.readline()
        config = tmp_path / "config.toml"
        config.write_text(
            f"[instance]\nmetadata_url = '{metadata.url}'\ndetect = 'always'\n[models]\ndiscover = false\n"
            f"[sinks.cloud_logging]\nendpoint = '{server.endpoint}'\ncredentials = 'none'\n"
            f"[sinks.jsonl]\npath = '{tmp_path}/events.jsonl'\n"
        )
        state = tmp_path / "state"
        command = [sys.executable, "-m", "agent.cli", "--config", str(config), "--state-dir", str(state)]
        said = b""
        for words in (
            ["scan", "--only", "instance,machine,ports,use", "--all"],
            ["scan", "--only", "instance,machine,ports,use", "--format", "json"],
            ["facts"],
            ["facts", "--now", "instance", "ports", "use"],
            ["status"],
            ["status", "--format", "json"],
            ["report"],
        ):
            done = subprocess.run([*command, *words], capture_output=True, check=False, timeout=90)
            assert done.returncode in {0, 1}, done.stderr
            said += done.stdout + done.stderr
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != config}
        assert b"startup-script" in said, "the names of attributes are facts; their values are not"
        assert server.arrivals
        assert len(kept) >= 3
        assert CANARY.encode() not in said
        assert CANARY not in str(server.arrivals)
        assert not [path for path, content in kept.items() if CANARY.encode() in content]
        assert not [path for path in metadata.paths if "token" in path or "identity" in path]
        listener.communicate()
