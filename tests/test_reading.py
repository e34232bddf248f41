"""Reading model directories: all that is there, nothing that is not, never out of the tree, never for ever."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from agent.host import shown
from agent.integrity import reading
from agent.integrity.manifest import Manifest, compare
from agent.integrity.reading import Reader, Unread, listing, opened
from agent.model import AbsentError, CannotLookError

LONG_AGO = 1_600_000_000 * 10**9
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


def take(path, *, known=None, reader=None) -> tuple[Manifest, list[Unread]]:
    with opened(str(path)) as top:
        found = listing(top, known)
        unread = found.unread + (reader or Reader()).read_all(top, found)
        return found.manifest(str(path)), unread


def aged(manifest: Manifest) -> Manifest:
    """The manifest as if it had been taken later, when the files had been at rest."""
    return Manifest(directory=manifest.directory, taken_ns=time.time_ns() + 10**10, files=manifest.files)


def test_every_file_is_hashed_and_the_order_is_that_of_the_paths(tmp_path):
    contents = {"z": b"1", "a/b/c": b"", "a-b": b"2" * 100_000, "a/b.bin": b"3"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    manifest, unread = take(tmp_path)
    assert unread == []
    assert {file.path: file.sha256 for file in manifest.files} == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    assert [file.path for file in manifest.files] == sorted(contents)


def test_an_empty_directory_is_an_empty_manifest(tmp_path):
    manifest, unread = take(tmp_path)
    assert (manifest.files, unread, manifest.complete) == ((), [], True)


def test_fifos_sockets_devices_and_links_are_recorded_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "tree").symlink_to("/usr")
    manifest, unread = take(tmp_path)
    assert unread == []
    assert {file.path: (file.kind, file.target) for file in manifest.files} == {
        "fifo": ("fifo", ""), "socket": ("socket", ""), "loop": ("link", "."),
        "out": ("link", "/etc/passwd"), "tree": ("link", "/usr"),
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_node_is_recorded_and_never_opened(tmp_path):
    try:
        os.mknod(tmp_path / "zero", 0o020666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container makes no device nodes")
    assert [file.kind for file in take(tmp_path)[0].files] == ["device"]


def test_hostile_names_are_kept_apart_and_shown_on_one_line(tmp_path):
    names = [b"new\nline", b"\xff\xfe", b"\\xff", b"x" * 255, b"\x1b[2J", "é\u202e".encode(), b" "]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    manifest, unread = take(tmp_path)
    assert unread == []
    assert sorted(file.path for file in manifest.files) == sorted(map(shown, names))
    assert all("\n" not in file.path and file.path.isprintable() for file in manifest.files)


def test_a_second_look_reads_nothing_again(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    first, _ = take(tmp_path)
    reader = Reader(budget=0)
    assert take(tmp_path, known=aged(first), reader=reader)[0].files == first.files
    assert reader.done == 0


def test_a_file_changed_in_the_tick_of_the_last_look_is_read_again(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    first, _ = take(tmp_path)
    reader = Reader()
    take(tmp_path, known=first, reader=reader)
    assert reader.done == len(b"weights")


def test_another_content_of_the_same_size_under_the_same_time_is_given_away_by_the_change_time(tmp_path):
    file = tmp_path / "w"
    file.write_bytes(b"weights")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    first, _ = take(tmp_path)
    with file.open("r+b") as handle:
        handle.write(b"WEIGHTS")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    second, _ = take(tmp_path, known=aged(first))
    (difference,) = compare(first, second)
    assert (difference.how, difference.time_put_back) == ("changed", True)


def test_a_directory_swapped_for_a_link_while_it_is_read_does_not_lead_out(tmp_path):
    inside, outside = tmp_path / "model", tmp_path / "elsewhere"
    for place in (inside / "sub", outside):
        place.mkdir(parents=True)
        (place / "w").write_bytes(place.name.encode())
    with opened(str(inside)) as top:
        found = listing(top)
        (inside / "sub").rename(tmp_path / "was")
        (inside / "sub").symlink_to(outside)
        (unread,) = Reader().read_all(top, found)
    assert unread.path == "sub/w"
    assert found.records["sub/w"].unread


def test_a_file_swapped_for_a_fifo_before_it_is_read_neither_blocks_nor_counts(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    with opened(str(tmp_path)) as top:
        found = listing(top)
        (tmp_path / "w").unlink()
        os.mkfifo(tmp_path / "w")
        assert len(Reader().read_all(top, found)) == 1
    assert found.records["w"].unread


def test_no_part_of_the_path_is_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(AbsentError), opened(str(tmp_path / "link")):
        pass
    with opened("/real", root=str(tmp_path)) as top:
        assert listing(top).records == {}


def test_what_is_not_there_and_what_is_no_directory_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "nothing"):
        with pytest.raises(AbsentError, match=name), opened(str(tmp_path / name)):
            pass


class Writing:
    """A progress that does something to the file in the middle of its reading."""

    def __init__(self, act, *, times: int) -> None:
        self.act, self.times = act, times

    def __call__(self, _done, _path) -> None:
        if self.times:
            self.times -= 1
            self.act()


def truncated(path) -> Callable[[], None]:
    """Cut a file and give it back another length, as a training job that writes anew."""
    return lambda: os.truncate(path, 5)


def appended(path) -> Callable[[], None]:
    def append() -> None:
        with path.open("ab") as handle:
            handle.write(b"more")

    return append


@pytest.mark.parametrize("act", [truncated, appended])
def test_a_file_that_changes_once_while_it_is_read_is_read_once_more(tmp_path, act):
    file = tmp_path / "w"
    file.write_bytes(b"x" * (reading.BUFFER + 10))
    manifest, unread = take(tmp_path, reader=Reader(progress=Writing(act(file), times=1)))
    assert unread == []
    assert manifest.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_that_keeps_changing_has_no_digest_and_that_is_said(tmp_path):
    file = tmp_path / "w"
    file.write_bytes(b"x" * (reading.BUFFER + 10))
    manifest, unread = take(tmp_path, reader=Reader(progress=Writing(appended(file), times=100)))
    assert [(each.path, each.reason) for each in unread] == [("w", "changed while it was read")]
    assert manifest.files[0].unread


def test_a_file_that_vanishes_is_said(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    with opened(str(tmp_path)) as top:
        found = listing(top)
        (tmp_path / "w").unlink()
        (unread,) = Reader().read_all(top, found)
    assert unread.reason == "no such file or directory"


def test_a_budget_of_nothing_reads_nothing_and_says_how_much_waits(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    reader = Reader(budget=0)
    manifest, (unread,) = take(tmp_path, reader=reader)
    assert (reader.done, unread.postponed, manifest.digest) == (0, 7, "")


def test_a_budget_is_spent_on_what_fits_and_the_rest_follows_in_the_next_scan(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 40)
    first, unread = take(tmp_path, reader=Reader(budget=100))
    assert [each.path for each in unread] == ["c"]
    second, unread = take(tmp_path, known=aged(first), reader=Reader(budget=100))
    assert unread == []
    assert second.complete


def test_a_file_larger_than_the_budget_is_read_when_nothing_else_was(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    first, unread = take(tmp_path, reader=Reader(budget=50_000))
    assert [each.path for each in unread] == ["big"]
    second, unread = take(tmp_path, known=aged(first), reader=Reader(budget=50_000))
    assert (unread, second.complete) == ([], True)


def test_a_file_of_holes_does_not_take_the_budget_hostage(tmp_path):
    (tmp_path / "holes").touch()
    os.truncate(tmp_path / "holes", 1 << 40)
    _, (unread,) = take(tmp_path, reader=Reader(budget=1 << 20))
    assert "mostly holes" in unread.reason


@not_root
def test_what_may_not_be_read_is_named_and_not_taken_for_gone(tmp_path):
    (tmp_path / "closed").mkdir()
    for name in ("closed/w", "secret"):
        (tmp_path / name).write_bytes(b"weights")
    first, _ = take(tmp_path)
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        second, unread = take(tmp_path, known=aged(first))
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert {each.path for each in unread} == {"closed", "secret"}
    assert all(each.reason == "permission denied" and each.hint for each in unread)
    assert [(each.path, each.how) for each in compare(first, second)] == [("secret", "mode")]


@not_root
def test_a_directory_that_may_not_be_opened_cannot_be_looked_at(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(CannotLookError, match="permission denied"), opened(str(tmp_path / "closed")):
        pass


def test_a_tree_too_deep_is_listed_as_far_as_it_goes_and_that_is_said(tmp_path):
    place = tmp_path
    for _ in range(reading.DEPTH + 3):
        place = place / "d"
        place.mkdir()
    (place / "w").touch()
    manifest, (unread,) = take(tmp_path)
    assert "levels deep" in unread.reason
    assert manifest.unseen == ("/".join("d" * reading.DEPTH),)


def test_too_many_names_are_listed_as_far_as_it_goes_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ENTRIES", 5)
    for name in range(10):
        (tmp_path / str(name)).touch()
    manifest, (unread,) = take(tmp_path)
    assert len(manifest.files) == 5
    assert (unread.path, manifest.unseen, manifest.digest) == ("", ("",), "")


def test_times_beyond_64_bits_of_nanoseconds_are_kept(tmp_path):
    (tmp_path / "w").touch()
    os.utime(tmp_path / "w", (2**34, 2**34))
    os.utime(tmp_path / "w", (-(2**31), -(2**31)))
    manifest, _ = take(tmp_path)
    assert 0 <= manifest.files[0].mtime_ns < 2**64


def test_what_others_may_write_is_noted_and_a_sticky_directory_is_not(tmp_path):
    for name, mode in (("open", 0o777), ("sticky", 0o1777), ("closed", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    (tmp_path / "w").touch()
    (tmp_path / "w").chmod(0o666)
    (tmp_path / "link").symlink_to("w")
    with opened(str(tmp_path)) as top:
        assert sorted(listing(top).writable) == ["open", "w"]


def test_ten_thousand_files_in_nested_directories_are_all_there(tmp_path):
    for directory in range(100):
        (tmp_path / str(directory)).mkdir()
        for name in range(100):
            (tmp_path / str(directory) / str(name)).write_bytes(b"%d" % name)
    first, unread = take(tmp_path)
    assert (len(first.files), unread, first.complete) == (10_000, [], True)
    reader = Reader(budget=0)
    assert compare(first, take(tmp_path, known=aged(first), reader=reader)[0]) == ()


def test_files_made_and_removed_meanwhile_disturb_nothing(tmp_path):
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "w").write_bytes(b"1")
            (tmp_path / "new" / "w").unlink()
            (tmp_path / "new").rmdir()

    (tmp_path / "stays").write_bytes(b"weights")
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            assert "stays" in {file.path for file in take(tmp_path)[0].files}
    finally:
        stop.set()
        thread.join()


def test_memory_stays_flat_over_a_large_file(tmp_path):
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 30)
    program = """
import resource, sys
from agent.integrity.reading import Reader, listing, opened
with opened(sys.argv[1]) as top:
    found = listing(top)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Reader().read_all(top, found) == []
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    assert int(answer.stdout) < 2 * reading.BUFFER // 1024
