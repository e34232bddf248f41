"""Files that were downloaded: documents one at a time, and an error with the file's name for all else."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories.exports import ExportError, documents, exploited, probabilities
from agent.model import CannotLookError

LINES = [b'{"a":1}', b'{"b":2}']


def plant(path, content):
    path.write_bytes(content)
    return str(path)


def a_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.xz", lzma.compress)]
)
def test_lines_are_documents(tmp_path, name, pack):
    assert list(documents(plant(tmp_path / name, pack(b"\n\n".join(LINES) + b"\n")))) == LINES


def test_members_of_an_archive_are_documents_in_order_of_their_names(tmp_path):
    path = a_zip(tmp_path / "all.zip", {"B.json": LINES[1], "A.json": LINES[0], "README": b"no"})
    assert list(documents(path)) == LINES


def test_a_file_of_one_document(tmp_path):
    assert list(documents(plant(tmp_path / "a.json", LINES[0]))) == LINES[:1]


@pytest.mark.parametrize("name", ["a.zst", "a.jsonl.zst", "a.tar", "a"])
def test_other_forms_are_refused_with_what_to_do(tmp_path, name):
    with pytest.raises(ExportError, match=r"decompress it first|expected a file that ends in"):
        list(documents(plant(tmp_path / name, b"")))


def test_what_is_not_there_is_an_error(tmp_path):
    for name in ("a.jsonl", "a.jsonl.gz", "a.zip", "a.json"):
        with pytest.raises(CannotLookError):
            list(documents(str(tmp_path / name)))


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.xz", lzma.compress)])
def test_what_is_cut_short_or_damaged_is_an_error(tmp_path, name, pack):
    packed = bytearray(pack(b"\n".join(LINES) * 1000))
    with pytest.raises(ExportError, match="cannot be unpacked"):
        list(documents(plant(tmp_path / name, bytes(packed[:-9]))))
    packed[len(packed) // 2] ^= 255
    with pytest.raises(ExportError, match="cannot be unpacked"):
        list(documents(plant(tmp_path / name, bytes(packed))))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_an_error_or_lines_and_nothing_else(tmp_path_factory, content):
    directory = tmp_path_factory.mktemp("garbage")
    for name in ("a.zip", "a.jsonl.gz", "a.jsonl.xz"):
        with contextlib.suppress(ExportError):
            list(documents(plant(directory / name, content)))


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.xz", lzma.compress)]
)
def test_an_endless_line_is_an_error_after_its_beginning(tmp_path, name, pack):
    path = plant(tmp_path / name, pack(b"x" * (4 << 20)))
    with pytest.raises(ExportError, match="longer than 1000 bytes"):
        list(documents(path, largest=1000))


def test_a_bomb_in_an_archive_is_an_error(tmp_path):
    path = a_zip(tmp_path / "all.zip", {"A.json": b" " * 2000})
    with pytest.raises(ExportError, match="larger than 1000 bytes"):
        list(documents(path, largest=1000))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_an_error_or_what_is_left_and_nothing_else(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("damaged")
    content = bytearray(Path(a_zip(directory / "all.zip", {"A.json": LINES[0], "B.json": LINES[1]})).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ExportError):
        list(documents(plant(directory / "all.zip", bytes(content))))


ENTRY = b'{"cveID":"CVE-2026-1000","dateAdded":"2026-11-20","knownRansomwareCampaignUse":"Known","notes":""}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("kev.jsonl", ENTRY + b"\n"),
        ("kev.json", b'{"title":"KEV","vulnerabilities":[' + ENTRY + b"]}"),
        ("kev.csv", b"cveID,vendorProject,dateAdded,knownRansomwareCampaignUse\nCVE-2026-1000,X,2026-11-20,Known\n"),
    ],
)
def test_the_catalogue_of_exploited_flaws(tmp_path, name, content):
    catalogue = exploited(plant(tmp_path / name, content))
    assert catalogue.date == dt.date(2026, 11, 20)
    assert catalogue.flaws == {"CVE-2026-1000": True}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("kev.jsonl", b""),
        ("kev.jsonl", b"{}\n"),
        ("kev.json", b"[]"),
        ("kev.csv", b"a,b\n1,2\n"),
        ("kev.csv", b"\xff\n"),
    ],
)
def test_what_is_no_catalogue_is_an_error(tmp_path, name, content):
    with pytest.raises(ExportError, match="kev"):
        exploited(plant(tmp_path / name, content))


SCORES = (
    b"#model_version:v2025.03.14,score_date:2026-11-23T00:00:00+0000\ncve,epss,percentile\nCVE-2026-1000,0.97,0.99\n"
)


@pytest.mark.parametrize(("name", "pack"), [("epss.csv", bytes), ("epss.csv.gz", gzip.compress)])
def test_the_scores_of_a_day(tmp_path, name, pack):
    scores = probabilities(plant(tmp_path / name, pack(SCORES)))
    assert (scores.date, dict(scores.flaws)) == (dt.date(2026, 11, 23), {"CVE-2026-1000": 0.97})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        SCORES.partition(b"\n")[2],
        SCORES.replace(b"0.97", b"97"),
        SCORES.replace(b"0.97", b"nan"),
        SCORES.replace(b"0.97", b"high"),
        SCORES.replace(b"epss", b"score"),
        SCORES.replace(b"2026-11-23", b"2026-13-23"),
    ],
)
def test_what_is_no_list_of_scores_is_an_error(tmp_path, content):
    with pytest.raises(ExportError, match="EPSS"):
        probabilities(plant(tmp_path / "epss.csv", content))
