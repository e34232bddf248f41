"""The door to the root of another process: the promises of the door, and that nothing leads out of there."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.python_places import find
from agent.host import Host
from agent.host_inside import Inside, parse_mountinfo
from agent.model import AbsentError, CannotLookError
from tests.fakes.containers import contained, needs_root
from tests.fakes.trees import plant

SECRET = "of the machine"


@pytest.fixture
def box(tmp_path):
    """A door into a container, the tree of which the test plants below ``root``."""
    (tmp_path / "outside").write_text(SECRET)
    root = tmp_path / "root"
    root.mkdir()
    with contained(root, "proc", "tmpfs") as pid, contextlib.closing(Inside(Host(), pid)) as inside:
        yield inside, root


@needs_root
def test_files_and_directories_are_read_as_through_any_door(box):
    inside, root = box
    plant(root, {"/d/b": "x", "/d/a/": "", "/d/c": "-> b", "/e": "one\n"})
    assert (inside.read("/d/b"), inside.line("/e"), inside.read("/d/c")) == (b"x", "one", b"x")
    assert [(each.name, each.kind) for each in inside.entries("/d")] == [
        ("a", "directory"),
        ("b", "file"),
        ("c", "link"),
    ]
    assert inside.directories("/d") == ["a"]
    assert b"".join(inside.stream("/e", limit=10)) == b"one\n"
    assert (inside.stat("/d/b").st_size, inside.link("/d/c")) == (1, "b")
    assert inside.signature("/e")
    assert not inside.is_live


@needs_root
def test_what_is_not_there_is_absent_and_not_merely_unreadable(box):
    inside, root = box
    plant(root, {"/file": "x"})
    for look in (inside.read, inside.entries, inside.directories, inside.stat, inside.link, inside.resolve):
        with pytest.raises(AbsentError, match="/missing"):
            look("/missing")
        with pytest.raises(AbsentError):
            look("/file/below")
    assert not inside.exists("/missing")


@needs_root
def test_a_link_is_followed_below_the_root_and_only_where_that_is_asked_for(box):
    inside, root = box
    plant(root, {"/usr/lib/f": "x", "/lib": "-> usr/lib", "/a/up": "-> ../lib/f", "/a/top": "-> /lib/f"})
    assert [inside.read(path) for path in ("/lib/f", "/a/up", "/a/top", "/a/../lib/./f")] == [b"x"] * 4
    assert inside.resolve("/a/top") == "/usr/lib/f"
    assert inside.directories("/lib", follow=True) == []
    for look in (lambda: inside.read("/a/up", follow=False), lambda: inside.directories("/lib")):
        with pytest.raises(CannotLookError, match="symbolic link"):
            look()


@needs_root
@pytest.mark.parametrize(
    "target", ["/outside", "../outside", "../../../../../../../outside", "{outside}", "{top}/outside"]
)
def test_a_link_never_leads_out(box, tmp_path, target):
    inside, root = box
    target = target.format(outside=tmp_path / "outside", top="/../../../.." + str(tmp_path))
    plant(root, {"/link": f"-> {target}", "/d/link": f"-> {target}", "/var/lib/dpkg": "-> /etc", "/etc/": ""})
    for path in ("/link", "/d/link", "/../outside", f"/d/../..{tmp_path}/outside"):
        with pytest.raises(AbsentError):
            inside.read(path)
    assert inside.entries("/var/lib/dpkg") == []


@needs_root
def test_a_link_that_is_swapped_meanwhile_never_leads_out(box, tmp_path):
    inside, root = box
    plant(root, {"/etc/outside": "x", "/new/outside": "x", "/new/link": "-> /etc", f"{tmp_path}/": ""})
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for target in (f"{tmp_path}", "/etc", "../../etc"):
                with contextlib.suppress(OSError):
                    os.symlink(target, root / "swap")
                    os.rename(root / "swap", root / "door")
            with contextlib.suppress(OSError):
                os.unlink(root / "door")
                os.rename(root / "new", root / "door")
                os.rename(root / "door", root / "new")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(3000):
            with contextlib.suppress(CannotLookError):
                assert inside.read("/door/outside") == b"x"
    finally:
        stop.set()
        swapper.join()


@needs_root
@pytest.mark.parametrize("path", ["/loop", "/one", "/loop/below", "/a\0b", "/" + "x" * 5000, "/x" * 2000, "/dots" * 2])
def test_a_path_that_leads_nowhere_is_an_error(box, path):
    inside, root = box
    plant(root, {"/loop": "-> loop", "/one": "-> two", "/two": "-> /one", "/dots": "-> " + "../" * 1300 + "dots"})
    for look in (inside.read, inside.stat, inside.entries, inside.resolve):
        with pytest.raises(CannotLookError):
            look(path)


@needs_root
def test_what_is_no_regular_file_is_refused_without_waiting(box):
    inside, root = box
    os.mkfifo(root / "odd")
    os.mknod(root / "device", 0o666 | 0o020000, os.makedev(1, 5))
    (root / "folder").mkdir()
    for name in ("odd", "device", "folder"):
        with pytest.raises(CannotLookError, match=f"/{name}"):
            inside.read(f"/{name}")
        with pytest.raises(CannotLookError, match=f"/{name}"):
            list(inside.stream(f"/{name}", limit=10))
    assert inside.exists("/odd")


@needs_root
def test_limits_hold_inside_too(box):
    inside, root = box
    plant(root, {"/big": "x" * 11, **{f"/d/{number}/": "" for number in range(5)}})
    with pytest.raises(CannotLookError, match="larger than 10"):
        inside.read("/big", limit=10)
    assert inside.read_start("/big", limit=3) == b"xxx"
    for look in (inside.entries, inside.directories):
        with pytest.raises(CannotLookError, match="more than 4"):
            look("/d", limit=4)


@needs_root
def test_the_kernels_file_systems_are_not_entered(box):
    inside, _ = box
    assert inside.entries("/tmpfs") == []
    for look in (inside.read, inside.stat, inside.entries):
        with pytest.raises(CannotLookError, match="mount of type proc"):
            look("/proc/version")


@needs_root
def test_a_file_system_that_never_answers_is_not_asked(tmp_path):
    with contained(tmp_path, "fuse") as pid, contextlib.closing(Inside(Host(), pid)) as inside:
        for look in (inside.read, inside.stat, inside.entries, inside.directories):
            for path in ("/fuse", "/fuse/file"):
                with pytest.raises(CannotLookError, match="mount of type fuse"):
                    look(path)


@needs_root
def test_an_overlay_of_an_ordinary_users_own_is_not_entered(tmp_path):
    plant(tmp_path, {"/usr/f": "x", "/etc/": ""})
    with contained(tmp_path, kind="users") as pid, pytest.raises(CannotLookError, match="that an ordinary user made"):
        Inside(Host(), pid)


@needs_root
def test_the_mounts_are_those_of_the_process_and_python_places_are_found(box):
    inside, root = box
    plant(root, {"/usr/lib/python3/dist-packages/": ""})
    places = find(inside, ("/usr", "/proc", "/opt"), limit=100)
    assert (places.directories, places.gaps) == (("/usr/lib/python3/dist-packages",), ())


@needs_root
def test_no_program_is_started_and_no_name_handed_out(box):
    inside, _ = box
    for look in (
        lambda: inside.run(["/usr/bin/env"], deadline=1),
        lambda: list(inside.pour(["/usr/bin/env"], deadline=1, limit=1)),
        lambda: inside.place("/etc"),
    ):
        with pytest.raises(CannotLookError, match="container"):
            look()


@needs_root
def test_a_process_that_ends_meanwhile_is_told(tmp_path):
    with contained(tmp_path) as pid:
        inside = Inside(Host(), pid)
        assert inside.is_same
    assert not inside.is_same
    inside.close()
    with pytest.raises(AbsentError):
        Inside(Host(), pid)


@needs_root
def test_a_process_that_ended_and_was_not_waited_for_is_told_too(tmp_path):
    with contained(tmp_path) as pid, contextlib.closing(Inside(Host(), pid)) as inside:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not inside.is_same


@needs_root
def test_nothing_stays_open(tmp_path):
    plant(tmp_path, {f"/{number}/{number}/f": "x" for number in range(100)} | {"/l": "-> /l", "/m": "-> 1/1/f"})
    before = len(os.listdir("/proc/self/fd"))
    with contained(tmp_path) as pid, contextlib.closing(Inside(Host(), pid)) as inside:
        for path in ("/l", "/m", *(f"/{number}/{number}/f" for number in range(100)), "/x/y/z", "/1/../../2/2/f"):
            with contextlib.suppress(CannotLookError):
                inside.read(path)
                inside.resolve(path)
        assert len(os.listdir("/proc/self/fd")) < before + 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_mounts_are_read_with_their_escapes():
    (mount,) = parse_mountinfo(b"36 35 98:0 /a\\040b /mnt\\0112 rw,noatime master:1 - ext3 /dev/root rw\nodd\n1 - 2\n")
    assert (mount.id, mount.device, mount.source, mount.place, mount.kind) == (36, "98:0", "/a b", "/mnt\t2", "ext3")


@given(st.binary(max_size=200))
def test_any_bytes_are_mounts_without_an_error(text):
    assert isinstance(parse_mountinfo(text), tuple)
