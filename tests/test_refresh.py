"""Refreshing the advisory database: real requests to a real server, which may be slow, broken or hostile."""

from __future__ import annotations

import datetime as dt
import hashlib
import lzma
import os
from pathlib import Path

import msgspec
import pytest
import requests

from agent.advisories import installed, installing, refreshing
from agent.advisories.bucket import Bucket, address, token
from agent.advisories.installed import NotTakenError
from agent.config import AdvisoriesSection, ConfigError
from agent.state import State, StateError
from tests.fakes.bucket import NOW, PUBLIC_KEY, BucketServer, Fault, publication, shard, signed_anew
from tests.fakes.metadata import TOKEN, MetadataServer

DEBIAN = ("Debian:12",)


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


@pytest.fixture
def server(tmp_path):
    with BucketServer(publication(tmp_path, serial=1)) as server:
        yield server
    assert server.strange == []


def refresh(state, server, *, ecosystems=DEBIAN, now=NOW, keys=(PUBLIC_KEY,), **settings):
    chosen = AdvisoriesSection(url=server.url, public_keys=keys, **settings)
    return refreshing.refresh(state, chosen, ecosystems=ecosystems, now=now)


def whole(state):
    """The serial of the set in force, once every file of it was found to be what it is called."""
    known = installed.read(state)
    assert known
    for each in known.shards:
        path = installed.path(state, each)
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == each.sha256
        assert installing.describe(path).name == each.name
    return known.serial


def files(state):
    return sorted(os.listdir(installed.directory(state)))


def test_what_this_machine_needs_is_taken_and_put_in_force(state, server):
    known, is_new = refresh(state, server)
    assert is_new
    assert [(shard.name, shard.origin, shard.serial) for shard in known.shards] == [
        (name, "refreshed", 1) for name in ("debian-12", "nvidia", "pypi")
    ]
    assert (known, whole(state)) == (installed.read(state), 1)
    assert files(state) == sorted([*(shard.file for shard in known.shards), "current.json"])


def test_nothing_new_costs_one_question(state, server):
    refresh(state, server)
    server.requests.clear()
    known, is_new = refresh(state, server)
    assert (is_new, known.serial, server.requests) == (False, 1, ["manifest.json="])


def test_only_what_changed_is_fetched_and_what_it_replaced_goes_with_the_next(state, server, tmp_path):
    first, _ = refresh(state, server)
    same = {"pypi": 1, "nvidia": 1, "ubuntu-22.04": 1}
    server.place = publication(tmp_path, serial=2, editions=same)
    server.requests.clear()
    second, _ = refresh(state, server)
    assert [name for name in server.requests if name.startswith("shards/")] == [
        f"shards/{second.shards[0].sha256}.sqlite.xz"
    ]
    assert whole(state) == 2
    assert first.shards[0].file in files(state), "a reader may be about to open it"
    server.place = publication(tmp_path, serial=3, editions={**same, "debian-12": 2})
    third, _ = refresh(state, server)
    assert files(state) == sorted([*(shard.file for shard in third.shards), "current.json"])


def test_other_needs_are_noticed_though_nothing_new_was_published(state, server):
    refresh(state, server)
    known, _ = refresh(state, server, ecosystems=("*",))
    assert [shard.name for shard in known.shards] == ["debian-12", "nvidia", "pypi", "ubuntu-22.04"]


def test_a_file_that_was_damaged_here_is_fetched_again(state, server):
    known, _ = refresh(state, server)
    path = Path(installed.path(state, known.shards[0]))
    path.write_bytes(path.read_bytes()[:-100])
    refresh(state, server)
    assert whole(state) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b'{"shards": [{"file": "../../etc/passwd"}]}'])
def test_a_damaged_list_of_what_is_in_force_is_made_anew(state, server, content):
    refresh(state, server)
    Path(state.advisories).write_bytes(content)
    with pytest.raises(StateError, match="is damaged"):
        installed.read(state)
    refresh(state, server)
    assert whole(state) == 1


@pytest.mark.parametrize("kind", ["truncated", "cut", "tampered", "endless", "gzip", "reset", "status"])
@pytest.mark.parametrize("below", ["manifest.json", "manifest.json.sig", "shards/"])
def test_whatever_goes_wrong_the_old_one_stays_and_the_next_run_works(state, server, tmp_path, kind, below):
    refresh(state, server)
    server.place = publication(tmp_path, serial=2)
    server.fault = Fault(kind, below=below, times=1 if below == "shards/" else 9)
    with pytest.raises(NotTakenError):
        refresh(state, server)
    assert whole(state) == 1
    server.fault = None
    refresh(state, server)
    assert whole(state) == 2


def test_a_slow_server_is_waited_for(state, server):
    server.fault = Fault("slow")
    refresh(state, server)
    assert whole(state) == 1


def test_a_server_that_drips_is_not_waited_for_without_end(state, server):
    server.fault = Fault("drip")
    with pytest.raises(NotTakenError, match=r"within 0\.3 s"):
        refreshing.within(0.3, lambda: refresh(state, server))


def test_a_key_that_nobody_named_is_not_believed(state, server, tmp_path):
    server.place = publication(tmp_path, serial=9, signer="somebody's")
    with pytest.raises(NotTakenError, match="unknown key"):
        refresh(state, server)
    assert installed.read(state) is None


def test_without_any_key_nothing_is_asked(state, server):
    with pytest.raises(ConfigError, match="public_keys"):
        refresh(state, server, keys=())
    assert server.requests == []


def test_a_signature_of_an_older_manifest_does_not_fit(state, server, tmp_path):
    new = publication(tmp_path, serial=2)
    (new / "manifest.json.sig").write_bytes((server.place / "manifest.json.sig").read_bytes())
    server.place = new
    with pytest.raises(NotTakenError, match="does not fit"):
        refresh(state, server)


def test_an_older_serial_is_refused_and_so_is_another_one_of_the_same(state, server, tmp_path):
    server.place = publication(tmp_path, serial=5)
    refresh(state, server)
    server.place = publication(tmp_path, serial=4)
    with pytest.raises(NotTakenError, match="older"):
        refresh(state, server)
    server.place = publication(tmp_path / "other", serial=5, editions={"pypi": 77})
    with pytest.raises(NotTakenError, match="same serial"):
        refresh(state, server)
    assert whole(state) == 5


def test_an_expired_one_is_not_taken_and_one_that_expires_here_is_said(state, server):
    with pytest.raises(NotTakenError, match="expired"):
        refresh(state, server, now=NOW + dt.timedelta(days=31))
    refresh(state, server)
    with pytest.raises(NotTakenError, match="expired"):
        refresh(state, server, now=NOW + dt.timedelta(days=31))
    assert whole(state) == 1


def test_a_redirect_is_followed_a_few_times_and_never_to_another_machine_in_clear(state, server):
    server.fault = Fault("redirect", times=3)
    refresh(state, server)
    server.fault = Fault("redirect")
    with pytest.raises(NotTakenError, match="redirects"):
        refresh(state, server)
    for location in ("http://192.0.2.1/manifest.json", "ftp://127.0.0.1/x", "file:///etc/passwd", "https://[", "//[::"):
        server.fault = Fault("redirect", location=location)
        with pytest.raises(NotTakenError, match="not followed"):
            refresh(state, server)


def test_a_redirect_with_an_endless_body_costs_nothing(state, server):
    server.fault = Fault("endless", location="/elsewhere", times=1)
    with pytest.raises(NotTakenError, match="answered 404"):
        refreshing.within(30, lambda: refresh(state, server))


def test_nobody_there_is_said_in_words(state):
    section = AdvisoriesSection(url="http://127.0.0.1:9", public_keys=(PUBLIC_KEY,))
    with pytest.raises(NotTakenError, match=r"manifest\.json: .*refused"):
        refreshing.refresh(state, section, ecosystems=DEBIAN, now=NOW)


def test_two_at_once_do_not_meet(state, server):
    with state.alone(installed.directory(state)), pytest.raises(StateError, match="another process"):
        refresh(state, server)
    refresh(state, server)


def test_a_full_disk_leaves_the_old_one_and_room_for_it(server, tmp_path, small_disk):
    state = State(str(small_disk / "state"))
    refresh(state, server)
    server.place = publication(tmp_path, serial=2, count=8000)
    with pytest.raises(StateError, match="no space left"):
        refresh(state, server)
    assert whole(state) == 1
    server.place = publication(tmp_path, serial=3)
    refresh(state, server)
    assert whole(state) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 5000}, "unpacks to more"),
        ({"compressed": 100}, "more than 100 bytes"),
        ({"name": "x"}, "another name"),
    ],
)
def test_what_is_more_or_other_than_was_signed_is_not_taken(state, server, tmp_path, wrong, said):
    def change(manifest):
        shards = tuple(msgspec.structs.replace(each, **wrong) for each in manifest.shards if each.name == "pypi")
        return msgspec.structs.replace(manifest, shards=shards)

    server.place = signed_anew(publication(tmp_path, serial=2), change)
    with pytest.raises(NotTakenError, match=said):
        refresh(state, server)
    assert installed.read(state) is None


def test_a_shard_of_a_newer_format_is_not_put_in_force(state, server, tmp_path):
    newer = bytearray(shard("pypi", edition=1))
    newer[60:64] = (99).to_bytes(4, "big")
    packed = lzma.compress(newer)
    place = publication(tmp_path, serial=2)

    def change(manifest):
        sha256 = hashlib.sha256(newer).hexdigest()
        entry = msgspec.structs.replace(manifest.shards[0], name="pypi", sha256=sha256, compressed=len(packed))
        (place / entry.file).write_bytes(packed)
        return msgspec.structs.replace(manifest, shards=(entry,))

    server.place = signed_anew(place, change)
    with pytest.raises(NotTakenError, match="newer dlvmguard"):
        refresh(state, server)
    assert installed.read(state) is None


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("gs://bucket/a/prefix/", "https://storage.googleapis.com/bucket/a/prefix"),
        ("https://example.org/x/", "https://example.org/x"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        ("http://[::1]/x", "http://[::1]/x"),
        ("http://localhost/x", "http://localhost/x"),
    ],
)
def test_an_address_is_encrypted_or_on_this_machine(url, where):
    assert address(url) == where


@pytest.mark.parametrize(
    "url", ["http://example.org", "http://127.0.0.1@example.org/", "ftp://localhost/", "http://[", "x"]
)
def test_an_address_in_clear_is_refused(url):
    with pytest.raises(ConfigError, match=r"advisories\.url"):
        address(url)


def test_the_token_of_the_machine_is_for_cloud_storage_alone(server, metadata):
    with pytest.raises(ConfigError, match="nowhere else"):
        token("machine", server.url)
    assert metadata.paths == []
    assert token("none", "gs://bucket") == ""
    assert token("machine", "gs://bucket") == TOKEN
    session = Bucket("gs://bucket", token=TOKEN)._session
    shown = {
        url: session.prepare_request(requests.Request("GET", url)).headers.get("Authorization")
        for url in ("https://storage.googleapis.com/b/x", "https://storage.googleapis.com.example.org/", server.url)
    }
    assert list(shown.values()) == [f"Bearer {TOKEN}", None, None]


@pytest.mark.slow  # Google's library asks five times
def test_a_machine_without_an_account_says_so(metadata):
    metadata.values = {key: value for key, value in metadata.values.items() if "service-accounts" not in key}
    with pytest.raises(NotTakenError, match="no access token"):
        token("machine", "gs://bucket")


@pytest.fixture
def metadata(monkeypatch):
    """The metadata server, where Google's libraries look for it."""
    with MetadataServer() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        monkeypatch.setenv("GCE_METADATA_IP", server.host)
        yield server
