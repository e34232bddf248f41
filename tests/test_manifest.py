"""Manifests: one digest for a directory, and a comparison that misses nothing and invents nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.integrity.manifest import Difference, FileRecord, Manifest, compare, leading_out, misnamed

DIGESTS = st.integers(0, 5).map(lambda number: f"{number:064x}")
NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.text("ab/.é", min_size=1, max_size=6)
FILES = st.builds(
    FileRecord,
    path=NAMES, kind=st.just("file"), mode=st.sampled_from([0o600, 0o644]), size=st.integers(0, 3),
    mtime_ns=NUMBERS, ctime_ns=NUMBERS, inode=NUMBERS, device=NUMBERS, sha256=DIGESTS,
)  # fmt: skip
LINKS = st.builds(FileRecord, path=NAMES, kind=st.just("link"), mode=st.just(0o777), target=NAMES)
OTHERS = st.builds(FileRecord, path=NAMES, kind=st.sampled_from(["fifo", "socket", "device"]), mode=st.just(0o600))


def a_manifest(files: list[FileRecord], unseen: tuple[str, ...] = ()) -> Manifest:
    ordered = tuple(sorted(files, key=lambda record: record.path))
    return Manifest(directory="/models/llama", taken_ns=1, files=ordered, unseen=unseen)


MANIFESTS = st.lists(st.one_of(FILES, LINKS, OTHERS), max_size=8, unique_by=lambda record: record.path).map(a_manifest)


def a_file(path: str = "weights.bin", **changes) -> FileRecord:
    usual = FileRecord(path=path, kind="file", mode=0o644, size=3, mtime_ns=5, ctime_ns=6, inode=7, sha256="a" * 64)
    return msgspec.structs.replace(usual, **changes)


def a_link(path: str, target: str) -> FileRecord:
    return FileRecord(path=path, kind="link", mode=0o777, target=target)


@given(MANIFESTS)
def test_a_manifest_is_equal_to_itself_after_a_journey_through_a_file(manifest):
    again = msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest)
    assert again == manifest
    assert compare(manifest, again) == ()


@given(MANIFESTS, NUMBERS)
def test_other_times_inodes_and_devices_are_no_difference(manifest, number):
    moved = [
        msgspec.structs.replace(record, mtime_ns=number, ctime_ns=number, inode=number, device=number)
        for record in manifest.files
    ]
    assert compare(manifest, a_manifest(moved)) == ()
    assert a_manifest(moved).digest == manifest.digest


def mutations(record: FileRecord) -> list[tuple[str, FileRecord]]:
    """Every way in which one record can be another."""
    found = [("mode", msgspec.structs.replace(record, mode=record.mode ^ 0o020))]
    if record.kind == "file":
        found += [
            ("changed", msgspec.structs.replace(record, sha256="f" * 64)),
            ("changed", msgspec.structs.replace(record, size=record.size + 1, sha256="f" * 64)),
            ("changed", msgspec.structs.replace(record, size=record.size + 1, sha256="")),
            ("changed", FileRecord(path=record.path, kind="fifo", mode=record.mode)),
        ]
    elif record.kind == "link":
        found.append(("changed", msgspec.structs.replace(record, target=f"{record.target}x")))
    else:
        found.append(("changed", msgspec.structs.replace(record, kind="file", sha256="f" * 64)))
    return found


@settings(max_examples=60)
@given(MANIFESTS, st.data())
def test_every_single_mutation_is_found_and_named_and_alone(manifest, data):
    files = list(manifest.files)
    added = data.draw(FILES.filter(lambda record: record.path not in {each.path for each in files}))
    cases = [("added", added.path, [*files, added])]
    for place, record in enumerate(files):
        others = [*files[:place], *files[place + 1 :]]
        cases.append(("removed", record.path, others))
        cases += [(how, record.path, [*others, changed]) for how, changed in mutations(record)]
    for how, path, mutated in cases:
        (difference,) = compare(manifest, a_manifest(mutated))
        assert (difference.how, difference.path) == (how, path)
        assert a_manifest(mutated).digest != manifest.digest


@given(MANIFESTS, MANIFESTS)
def test_comparison_is_in_order_and_the_other_way_round_swaps_added_and_removed(one, other):
    there, back = compare(one, other), compare(other, one)
    swapped = {"added": "removed", "removed": "added"}
    assert [each.path for each in there] == sorted(each.path for each in there) == [each.path for each in back]
    assert [swapped.get(each.how, each.how) for each in there] == [each.how for each in back]


def test_a_renamed_file_is_gone_there_and_new_here():
    assert [each.how for each in compare(a_manifest([a_file("a")]), a_manifest([a_file("b")]))] == ["removed", "added"]


def test_content_that_was_not_read_is_not_judged():
    assert compare(a_manifest([a_file()]), a_manifest([a_file(sha256="", ctime_ns=9)])) == ()


@pytest.mark.parametrize("unseen", [("",), ("sub",), ("sub/deep",)])
def test_what_was_not_listed_is_not_gone(unseen):
    assert compare(a_manifest([a_file("sub/deep/w")]), a_manifest([], unseen)) == ()


def test_what_was_not_listed_hides_nothing_beside_it():
    (difference,) = compare(a_manifest([a_file("submarine")]), a_manifest([], ("sub",)))
    assert difference.how == "removed"


def test_an_unfinished_manifest_has_no_digest():
    assert a_manifest([a_file()]).digest
    assert a_manifest([a_file(), a_file("b", sha256="")]).digest == ""
    assert a_manifest([a_file()], ("sub",)).digest == ""


def test_names_cannot_be_shifted_into_other_fields_of_the_digest():
    one = a_manifest([a_link('a","link",0', "b")])
    assert one.digest != a_manifest([a_link("a", '0,"link",0b')]).digest


@pytest.mark.parametrize(
    ("changes", "hidden"),
    [
        ({"sha256": "b" * 64}, True),
        ({"sha256": "b" * 64, "mtime_ns": 6}, False),
        ({"sha256": "b" * 64, "size": 4}, False),
    ],
)
def test_a_modification_time_put_back_is_told(changes, hidden):
    (difference,) = compare(a_manifest([a_file()]), a_manifest([a_file(**changes)]))
    assert difference.time_put_back is hidden
    assert not Difference(path="w", how="added").time_put_back


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("snapshots/1/w", "../../blobs/abc", False),
        ("w", "/models/llama/blobs/abc", False),
        ("w", ".", False),
        ("w", "../llama2/w", True),
        ("w", "/etc/shadow", True),
        ("a/b", "../..", True),
        ("w", "blobs/../../../x", True),
    ],
)
def test_links_that_lead_out_are_told_from_those_that_stay(path, target, out):
    assert bool(list(leading_out(a_manifest([a_link(path, target)])))) is out


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (f"blobs/{'a' * 64}", False),
        (f"blobs/sha256-{'a' * 64}", False),
        (f"blobs/{'b' * 64}", True),
        (f"models/blobs/sha256-{'b' * 64}", True),
        (f"blobs/{'b' * 64}.incomplete", False),
        (f"blobs/sha256-{'b' * 64}-partial", False),
        (f"blobs/{'b' * 40}", False),
        (f"other/{'b' * 64}", False),
    ],
)
def test_a_blob_with_another_content_than_its_name_is_found(path, wrong):
    assert bool(list(misnamed([a_file(path)]))) is wrong
    assert not list(misnamed([a_file(path, sha256="")]))
