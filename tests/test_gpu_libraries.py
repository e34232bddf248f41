"""The driver's libraries on the loader's path."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import gpu_libraries
from agent.facts.gpu_libraries import GpuLibraries, GpuLibrary, parse_configuration, parse_sums
from agent.facts.gpu_stack import gpu_library_files
from agent.host import Host
from tests.fakes.trees import plant

DIRECTORY = "/usr/lib/x86_64-linux-gnu"
FILE = f"{DIRECTORY}/libnvidia-ml.so.580.178.04"
CONTENT = b"\x7fELF\x02\x01\x01" + bytes(5000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
INSTALLED: dict[str, str | bytes] = {
    "/sys/module/nvidia/version": "580.178.04\n",
    "/etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "/etc/ld.so.conf.d/x86_64-linux-gnu.conf": f"# Multiarch support\n/lib/x86_64-linux-gnu\n{DIRECTORY}\n",
    "/lib": "-> usr/lib",
    FILE: CONTENT,
    f"{DIRECTORY}/libnvidia-ml.so.1": "-> libnvidia-ml.so.580.178.04",
    f"{DIRECTORY}/libnvidia-ml.so": "-> libnvidia-ml.so.1",
}
PACKAGED = {"/var/lib/dpkg/info/libnvidia-compute-580:amd64.md5sums": f"{MD5}  {FILE.lstrip('/')}\n"}


def looked(host: Host, earlier: GpuLibraries | None = None) -> GpuLibraries:
    return gpu_library_files(host, Config(), earlier)


def libraries(tmp_path, files) -> GpuLibraries:
    return looked(plant(tmp_path, {**INSTALLED, **files}))


def the_library(seen: GpuLibraries) -> GpuLibrary:
    (found,) = seen.libraries
    return found


def test_an_installed_library_is_seen_once_with_its_names_and_its_package(tmp_path):
    seen = libraries(tmp_path, PACKAGED)
    found = the_library(seen)
    assert found.path == FILE
    assert found.names == (f"{DIRECTORY}/libnvidia-ml.so.1", f"{DIRECTORY}/libnvidia-ml.so")
    assert (found.version, found.bits, found.size) == ("580.178.04", 64, len(CONTENT))
    assert (found.package, found.packaged, found.digest) == ("libnvidia-compute-580:amd64", MD5, MD5)
    assert found.is_for_nvml
    assert (seen.preloaded, seen.gaps) == ((), ())
    assert {FILE, DIRECTORY, "/etc/ld.so.conf"} == {each.path for each in seen.trusted}


def test_a_library_that_no_package_brought_is_held_against_what_it_was_at_first(tmp_path):
    host = plant(tmp_path, INSTALLED)
    first = looked(host)
    assert (the_library(first).package, the_library(first).first) == ("", MD5)
    (tmp_path / FILE.lstrip("/")).write_bytes(CONTENT + b"more")
    second = the_library(looked(host, first))
    assert second.digest != second.first == MD5


def test_a_library_that_was_not_written_since_is_not_read_again(tmp_path, monkeypatch):
    host = plant(tmp_path, INSTALLED)
    first = looked(host)
    monkeypatch.setattr(gpu_libraries, "_digest", lambda *_: pytest.fail("it was hashed again"))
    assert looked(host, first) == first


def test_directories_of_newer_processors_and_those_written_down_are_looked_at(tmp_path):
    hidden = f"{DIRECTORY}/glibc-hwcaps/x86-64-v3/libcuda.so.1"
    other = "/opt/tools/lib/libnvidia-ml.so.1"
    files = {hidden: CONTENT, other: b"\x7fELF\x01", "/etc/ld.so.conf.d/tools.conf": "/opt/tools/lib/ # ours\n/gone\n"}
    seen = libraries(tmp_path, files)
    assert {each.path: each.bits for each in seen.libraries} == {FILE: 64, hidden: 64, other: 32}
    assert seen.libraries[0].path == FILE


def test_what_is_loaded_into_every_program_is_told_with_who_may_change_it(tmp_path):
    seen = libraries(tmp_path, {"/etc/ld.so.preload": "# x\n/opt/a.so:relative.so /gone.so\n", "/opt/a.so": ""})
    assert seen.preloaded == ("/opt/a.so", "relative.so", "/gone.so")
    assert {"/opt/a.so", "/etc/ld.so.preload"} <= {each.path for each in seen.trusted}


@pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "ten gigabytes"])
def test_what_cannot_be_read_as_a_library_is_a_gap_of_its_place(tmp_path, kind):
    host = plant(tmp_path, {name: text for name, text in INSTALLED.items() if name != FILE})
    place = tmp_path / FILE.lstrip("/")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind == "loop":
        place.symlink_to(place.name)
    else:
        with place.open("wb") as file:
            file.truncate(10 << 30)
    seen = looked(host)
    assert seen.libraries == ()
    assert seen.gaps
    assert all(gap.covers(FILE) for gap in seen.gaps)


@pytest.mark.parametrize(
    "path", ["/etc/ld.so.preload", "/etc/ld.so.conf.d/own.conf", "/var/lib/dpkg/info/libcuda1.md5sums"]
)
def test_where_it_is_not_known_which_libraries_there_are_nothing_is_known_of_any(tmp_path, path):
    host = plant(tmp_path, {**INSTALLED, **PACKAGED})
    os.mkfifo(tmp_path / path.lstrip("/"))
    assert [gap.scope for gap in looked(host).gaps] == [""]


def test_a_name_that_does_not_print_is_shown_safely(tmp_path):
    name = f"{DIRECTORY}/libnvidia-ml.so.1\n\x1b[31m"
    seen = libraries(
        tmp_path, {name: CONTENT, "/usr/lib/libcuda.so.1": "-> x86_64-linux-gnu/libnvidia-ml.so.1\n\x1b[31m"}
    )
    assert all(each.path.isprintable() for each in seen.libraries)
    assert len(seen.libraries) == 2


@settings(max_examples=50)
@given(st.binary())
def test_any_list_of_sums_parses(content):
    assert all(path.startswith("/") and len(digest) == 32 for path, digest in parse_sums(content).items())


@settings(max_examples=50)
@given(
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    st.sampled_from(["usr/lib/x86_64-linux-gnu/", "lib/x86_64-linux-gnu/", "./usr/lib/x86_64-linux-gnu/"]),
    st.binary(max_size=50).filter(lambda content: b"\n" not in content),
)
def test_the_sum_of_a_library_is_found_among_others(digest, directory, noise):
    line = f"{digest}  {directory}libnvidia-ml.so.580.178.04".encode()
    assert parse_sums(b"\n".join((noise, line, noise)))[FILE] == digest


@settings(max_examples=50)
@given(st.text())
def test_any_configuration_of_the_loader_parses(text):
    directories, _ = parse_configuration(text)
    assert all(each.startswith("/") for each in directories)


def test_directories_and_includes_are_told_apart():
    text = "/a/\n  /b=libc6 # old\ninclude /etc/x/*.conf y.conf\nhwcap 0 nosegneg\nrelative\n"
    assert parse_configuration(text) == (["/a", "/b"], ["/etc/x/*.conf", "y.conf"])
