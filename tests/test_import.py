"""Importing an advisory database: archives that are hostile, directories, and single shards that nobody signed."""

from __future__ import annotations

import datetime as dt
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories import importing, installed, installing
from agent.advisories.installed import NotTakenError
from agent.host import Host
from agent.model import CannotLookError
from agent.state import State
from tests.fakes.bucket import NOW, PUBLIC_KEY, publication, shard

DEBIAN = ("Debian:12",)


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


@pytest.fixture
def bucket(tmp_path):
    return publication(tmp_path, serial=1)


def take(state, path, *, now=NOW):
    with importing.opened(Host(), str(path)) as parcel:
        assert not parcel.is_shard
        return importing.take(state, parcel, keys=(PUBLIC_KEY,), ecosystems=DEBIAN, now=now)


def trust(state, path):
    with importing.opened(Host(), str(path)) as parcel:
        return importing.trust(state, parcel)


def archived(path, bucket, *, prefix="", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for file in sorted(bucket.rglob("*"), reverse=True):  # the shards first: any order will do
            archive.add(file, f"{prefix}{file.relative_to(bucket)}", recursive=False)
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_is_taken(state, bucket, tmp_path, form, prefix):
    known = take(state, archived(tmp_path / "a.tar", bucket, prefix=prefix, form=form))
    assert known == installed.read(state)
    assert [(each.name, each.origin, each.serial) for each in known.shards] == [
        (name, "imported", 1) for name in ("debian-12", "nvidia", "pypi")
    ]
    assert all(installing.is_whole(state, each.sha256) for each in known.shards)


def test_a_directory_is_taken_and_again(state, bucket):
    assert take(state, bucket) == take(state, bucket) == installed.read(state)


def test_what_is_older_expired_or_tampered_with_is_not_taken(state, bucket, tmp_path):
    old = publication(tmp_path / "old", serial=1)
    new = publication(tmp_path / "new", serial=2)
    with pytest.raises(NotTakenError, match="expired"):
        take(state, new, now=NOW + dt.timedelta(days=31))
    take(state, new)
    with pytest.raises(NotTakenError, match="older"):
        take(state, old)
    for file in ("manifest.json", "manifest.json.sig"):
        path = publication(tmp_path / file, serial=3) / file
        path.write_bytes(path.read_bytes().replace(b"3", b"4", 1))
        with pytest.raises(NotTakenError):
            take(state, path.parent)
    assert installing.in_force(state).serial == 2


def planted(path, bucket, *, name="shards/" + "0" * 64 + ".sqlite.xz", **fields):
    with tarfile.open(archived(path, bucket), "a") as archive:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../../../../etc/cron.d/x", "size": 10},
        {"name": "/etc/cron.d/x", "size": 10},
        {"name": "shards/../../x", "size": 10},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "readme\n.txt", "size": 10},
    ],
)
def test_what_the_layout_does_not_know_is_not_looked_at(state, bucket, tmp_path, fields):
    take(state, planted(tmp_path / "a.tar", bucket, **fields))
    written = {path.relative_to(state.directory).parts[0] for path in Path(state.directory).rglob("*")}
    assert written == {"advisories"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("name", ["manifest.json", "shards/" + "0" * 64 + ".sqlite.xz"])
def test_a_member_of_the_layout_that_is_no_file_is_refused(state, bucket, tmp_path, kind, name):
    with pytest.raises(NotTakenError, match="not a regular file"):
        take(state, planted(tmp_path / "a.tar", bucket, name=name, type=kind, linkname="/etc/passwd"))


def test_an_archive_with_too_much_in_it_is_refused(state, bucket, tmp_path):
    with pytest.raises(NotTakenError, match="larger than"):
        take(state, planted(tmp_path / "a.tar", bucket, name="manifest.json", size=2 << 20))
    many = tmp_path / "many.tar"
    with tarfile.open(many, "w") as archive:
        for count in range(1001):
            archive.addfile(tarfile.TarInfo(str(count)))
    with pytest.raises(NotTakenError, match="more than 1000"):
        take(state, many)


def test_a_header_of_any_length_is_not_read_into_memory(state, tmp_path):
    path = tmp_path / "a.tar"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(1 << 30)
    with pytest.raises(NotTakenError, match="too long"):
        take(state, path)


@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_archive_is_refused(state, tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(NotTakenError, match="archive"):
        take(state, path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=5))
def test_an_archive_with_any_damage_is_taken_whole_or_refused(tmp_path_factory, damage):
    place = tmp_path_factory.mktemp("import")
    content = bytearray(archived(place / "a.tar", publication(place, serial=1)).read_bytes())
    for at, piece in damage:
        content[at : at + len(piece)] = piece
    (place / "a.tar").write_bytes(content)
    state = State(str(place / "state"))
    try:
        known = take(state, place / "a.tar")
    except NotTakenError:
        assert installed.read(state) is None
    else:
        assert all(installing.is_whole(state, each.sha256) for each in known.shards)


def test_a_missing_shard_is_said_and_links_in_a_directory_lead_to_what_was_signed_or_nowhere(state, bucket):
    (bucket / "shards" / "more").mkdir()
    lost = next((bucket / "shards").glob("*.xz"))
    for file in (bucket / "shards").glob("*.xz"):
        file.unlink()
    with pytest.raises(CannotLookError, match="no such file"):
        take(state, bucket)
    lost.symlink_to("/etc/passwd")
    with pytest.raises((CannotLookError, NotTakenError)):
        take(state, bucket)
    assert installed.read(state) is None


def test_a_single_shard_is_taken_without_a_signature_and_says_so(state, tmp_path):
    file = tmp_path / "own.sqlite"
    file.write_bytes(shard("pypi", edition=1))
    with importing.opened(Host(), str(file)) as parcel:
        assert parcel.is_shard
    known = trust(state, file)
    assert [(each.name, each.origin, each.serial) for each in known.shards] == [("pypi", "imported, unsigned", 0)]
    assert known == installed.read(state)


def test_a_single_shard_stands_in_for_a_signed_one_until_the_next_and_stays_where_there_is_none(
    state, bucket, tmp_path
):
    take(state, bucket)
    for name in ("pypi", "ubuntu-22.04"):
        (tmp_path / "own.sqlite").write_bytes(shard(name, edition=9))
        trust(state, tmp_path / "own.sqlite")
    origins = {each.name: each.origin for each in installing.in_force(state).shards}
    assert origins["pypi"] == origins["ubuntu-22.04"] == "imported, unsigned"
    assert origins["nvidia"] == "imported"
    known = take(state, publication(tmp_path / "new", serial=2))
    assert {each.name: each.origin for each in known.shards}["pypi"] == "imported"


def test_single_shards_do_not_pile_up(state, tmp_path):
    for edition in range(5):
        (tmp_path / "own.sqlite").write_bytes(shard("pypi", edition=edition))
        trust(state, tmp_path / "own.sqlite")
    assert len(list(Path(installed.directory(state)).glob("*.sqlite"))) == 2, "that in force, and the one before"


@pytest.mark.parametrize("damage", [slice(0, 0), slice(5000, 5001)])
def test_a_single_shard_that_is_damaged_or_none_is_refused(state, tmp_path, damage):
    content = bytearray(shard("pypi", edition=1))
    content[damage] = b"\x01" if damage.stop else b"SQLite format 3\0 and nothing else"
    (tmp_path / "own.sqlite").write_bytes(content)
    with pytest.raises(NotTakenError, match="cannot be used"):
        trust(state, tmp_path / "own.sqlite")
    assert installed.read(state) is None
