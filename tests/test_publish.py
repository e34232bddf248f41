"""Publishing, and the commands around an advisory database as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories import publishing
from agent.advisories.choosing import chosen, ecosystems
from agent.advisories.installed import NotTakenError
from agent.advisories.manifest import KeyFileError, Manifest, ManifestShard, believed, encoded, key_id, signed
from agent.config import reference
from agent.host import Host
from tests.fakes.bucket import NOW, PUBLIC_KEY, SHARDS, BucketServer, Fault, key, key_text, shard

PROGRAM = [sys.executable, "-m", "agent.cli"]
EPOCH = {"SOURCE_DATE_EPOCH": "1790000000"}


def run(*words, check, env=None, config=""):
    options = ["--config", str(config)] if config else []
    said = subprocess.run(
        [*PROGRAM, *options, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert said.returncode == check, said.stdout + said.stderr
    return said


@pytest.fixture
def place(tmp_path):
    """Two shards and a key."""
    for name in ("pypi", "nvidia"):
        (tmp_path / f"{name}.sqlite").write_bytes(shard(name, edition=1))
    (tmp_path / "key.pem").write_bytes(key_text(key()))
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path


def configured(tmp_path, url, public_key=PUBLIC_KEY):
    path = tmp_path / "config.toml"
    path.write_text(
        f"state_directory = '{tmp_path}/state'\n[advisories]\nurl = '{url}'\npublic_keys = ['{public_key}']\n"
    )
    return path


def test_what_is_published_is_taken_by_whoever_has_the_key_that_was_printed(place):
    said = run("advisories", "publish", place, "--key", place / "key.pem", check=0).stdout
    assert f'public_keys = ["{PUBLIC_KEY}"]' in said
    with BucketServer(place / "bucket") as server:
        config = configured(place, server.url)
        assert run("advisories", "refresh", config=config, check=0).stdout.startswith("taken: nvidia, pypi (serial")
        assert run("advisories", "refresh", config=config, check=0).stdout.startswith("nothing new: nvidia, pypi")
        server.fault = Fault("status", status=503)
        said = run("advisories", "refresh", config=config, check=1).stderr
        assert "manifest.json: the server answered 503; the one in use stays" in said


def test_publishing_is_reproducible_and_anybody_may_read_it(place):
    for name in ("one", "two"):
        words = ("publish", place, "--key", place / "key.pem", "--to", place / name, "--serial", 7)
        run("advisories", *words, env=EPOCH, check=0)
    one, two = (sorted(path for path in (place / name).rglob("*") if path.is_file()) for name in ("one", "two"))
    assert len(one) == 4
    assert [(path.name, path.read_bytes()) for path in one] == [(path.name, path.read_bytes()) for path in two]
    assert {stat.S_IMODE(path.stat().st_mode) for path in one} == {0o644}


def test_a_later_publication_has_a_higher_serial(place):
    serials = []
    for epoch in ("1790000000", "1790086400"):
        env = {"SOURCE_DATE_EPOCH": epoch}
        run("advisories", "publish", place, "--key", place / "key.pem", env=env, check=0)
        serials.append(json.loads((place / "bucket/manifest.json").read_bytes())["serial"])
    assert serials == [1790000000, 1790086400]


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_a_key_as_the_help_says_to_make_it_works_and_openssl_verifies_the_signature(place):
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "own.pem"], cwd=place, check=True)
    (place / "own.pem").chmod(0o600)
    done = publish(place, place / "own.pem")
    manifest, signature = (place / "bucket" / name for name in ("manifest.json", "manifest.json.sig"))
    assert believed(manifest.read_bytes(), signature.read_bytes(), [done.public_key]) == done.manifest


def publish(place, secret):
    lasts = NOW - NOW.replace(day=1)
    return publishing.publish(
        Host(), str(place), str(place / "bucket"), key=str(secret), serial=1, built=NOW, lasts=lasts
    )


def test_a_key_that_others_may_read_is_refused(place):
    (place / "key.pem").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        publish(place, place / "key.pem")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        key_text(rsa.generate_private_key(65537, 2048)),
    ],
    ids=["empty", "broken", "rsa"],
)
def test_a_file_that_is_no_such_key_is_refused_and_not_quoted(place, content):
    (place / "key.pem").write_bytes(content)
    said = run("advisories", "publish", place, "--key", place / "key.pem", check=2)
    assert "not an unencrypted Ed25519 private key" in said.stderr
    assert "AAAA" not in said.stdout + said.stderr


def test_what_is_no_shard_is_not_published(place):
    (place / "other.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4080))
    with pytest.raises(NotTakenError, match="cannot be used"):
        publish(place, place / "key.pem")
    (place / "empty").mkdir()
    said = run("advisories", "publish", place / "empty", "--key", place / "key.pem", check=2)
    assert "holds no *.sqlite" in said.stderr


def test_wrong_use_is_said_and_changes_nothing(place):
    state = ("--state-dir", place / "state")
    assert "no source is configured" in run(*state, "advisories", "refresh", check=0).stdout
    assert "public_keys" in run(*state, "advisories", "refresh", "--url", "https://example.org", check=2).stderr
    config = configured(place, "")
    assert "https://" in run("advisories", "refresh", "--url", "http://example.org/", config=config, check=2).stderr
    assert "--trust" in run("advisories", "import", place / "pypi.sqlite", config=config, check=2).stderr
    assert "no single shard" in run("advisories", "import", "--trust", place, config=config, check=2).stderr
    assert "no such file" in run("advisories", "import", place / "none", config=config, check=2).stderr
    assert not (place / "state").exists()


def test_an_archive_made_as_publish_says_is_imported(place):
    said = run("advisories", "publish", place, "--key", place / "key.pem", check=0).stdout
    command = next(line.partition(":")[2].split() for line in said.splitlines() if line.startswith("To a file"))
    subprocess.run(command, cwd=place, check=True)
    config = configured(place, "")
    assert "taken: nvidia, pypi" in run("advisories", "import", place / "advisories.tar", config=config, check=0).stdout
    run("advisories", "import", place / "config.toml", config=config, check=1)
    assert "pypi" in run("advisories", "import", "--trust", place / "pypi.sqlite", config=config, check=0).stdout


USER = 54321


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
def test_root_reads_the_file_and_becomes_the_owner_of_the_state_before_it_looks_into_it(place):
    run("advisories", "publish", place, "--key", place / "key.pem", check=0)
    subprocess.run(["tar", "-cf", place / "a.tar", "-C", place / "bucket", "."], check=True)
    (place / "a.tar").chmod(0o600)
    state = Path(tempfile.mkdtemp(prefix="dlvmguard-advisories-"))
    try:
        state.chmod(0o755)
        for name in ("ledger", "advisories"):
            (state / name).mkdir()
            os.chown(state / name, USER, USER)
        config = configured(place, "")
        run("--state-dir", state, "advisories", "import", place / "a.tar", config=config, check=0)
        owners = {path.name: path.stat().st_uid for path in (state / "advisories").iterdir()}
        assert owners.pop("current.json") == USER
        assert set(owners.values()) == {USER}
    finally:
        shutil.rmtree(state)


A_SHARD = ManifestShard(name="pypi", ecosystems=("PyPI",), sha256="0" * 64, size=1, compressed=1, records=0)
A_MANIFEST = Manifest(format=1, serial=1, built=NOW, expires=NOW, shards=(A_SHARD,))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_nothing_is_believed_without_a_signature(content, signature):
    with pytest.raises(NotTakenError):
        believed(content, signature, [PUBLIC_KEY])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_is_enough_to_be_refused(at, change):
    content = bytearray(encoded(A_MANIFEST))
    signature = signed(bytes(content), key())
    content[at % len(content)] ^= change
    with pytest.raises(NotTakenError, match="does not fit"):
        believed(bytes(content), signature, [PUBLIC_KEY])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not well-formed"),
        (b"[]", "not well-formed"),
        (b'{"format": 2, "anything": "else"}', "update dlvmguard"),
        (encoded(A_MANIFEST).replace(b'"serial": 1', b'"serial": "1"'), "serial"),
        (encoded(A_MANIFEST).replace(b"pypi", b"../p"), "name"),
        (encoded(A_MANIFEST).replace(b"0" * 64, b"0" * 63 + b"/"), "sha256"),
        (encoded(A_MANIFEST).replace(b'"size": 1', b'"size": 99999999999'), "size"),
        (encoded(Manifest(format=1, serial=1, built=NOW, expires=NOW, shards=(A_SHARD, A_SHARD))), "twice"),
    ],
)
def test_what_a_known_key_signed_must_be_of_this_format_all_the_same(content, said):
    with pytest.raises(NotTakenError, match=said):
        believed(content, signed(content, key()), [PUBLIC_KEY])


def test_a_signature_names_its_key():
    content = encoded(A_MANIFEST)
    other = signed(content, key("somebody's"))
    with pytest.raises(NotTakenError, match="unknown key"):
        believed(content, other, [PUBLIC_KEY])
    ours = signed(content, key()).split()[0]
    with pytest.raises(NotTakenError, match="does not fit"):
        believed(content, ours + b" " + other.split()[1] + b"\n", [PUBLIC_KEY])
    assert key_id(key().public_key().public_bytes_raw()).encode() == ours


@pytest.mark.parametrize(
    ("release", "also", "names"),
    [
        ("ID=debian\nVERSION_ID=12", (), ["debian-12", "nvidia", "pypi"]),
        ('ID=ubuntu\nVERSION_ID="22.04"', (), ["nvidia", "pypi", "ubuntu-22.04"]),
        ('ID=ubuntu\nVERSION_ID="22.04"', ("Debian:12",), ["debian-12", "nvidia", "pypi", "ubuntu-22.04"]),
        ("ID=ubuntu\nVERSION_ID=24.04", (), ["nvidia", "pypi"]),
        ("ID=debian", (), ["nvidia", "pypi"]),
        ("", (), ["nvidia", "pypi"]),
        ("", ("*",), ["debian-12", "nvidia", "pypi", "ubuntu-22.04"]),
        ("ID=arch\nVERSION_ID=1", ("nonsense", ""), ["nvidia", "pypi"]),
    ],
)
def test_a_machine_needs_its_distribution_and_what_is_of_none(release, also, names):
    shards = [
        ManifestShard(name=name, ecosystems=each, sha256="0" * 64, size=1, compressed=1, records=0)
        for name, each in sorted(SHARDS.items())
    ]
    assert [each.name for each in chosen(shards, ecosystems(release, also))] == names


def test_versions_are_major_ones_where_a_distribution_counts_so():
    assert ecosystems('ID="rocky"\nVERSION_ID="9.4"', ()) == ("Rocky Linux:9",)
    assert ecosystems("ID=almalinux\nVERSION_ID=8.10", ("Debian:12",)) == ("AlmaLinux:8", "Debian:12")


def test_the_settings_are_in_the_reference():
    assert "[advisories]" in reference()
