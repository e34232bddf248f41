"""Names and versions of installed Python distributions, from their metadata as it is found."""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
import site
import sysconfig

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, PythonSection
from agent.facts.python import python_environments
from agent.facts.python_distributions import Distribution, normalised, parse_metadata, read
from agent.host import Host
from agent.model import Unknown
from tests.fakes.trees import plant

SITE = "/opt/v/lib/python3.11/site-packages"
METADATA = b"Metadata-Version: 2.1\nName: Flask_Cors\nVersion: 4.0.0\n\nCORS\n"


def the_only(host: Host) -> Distribution:
    (look,) = read(host, SITE)
    assert isinstance(look, Distribution)
    return look


@pytest.mark.parametrize(
    "place",
    [
        "Flask_Cors-4.0.0.dist-info/METADATA",
        "Flask_Cors-4.0.0-py3.11.egg-info/PKG-INFO",
        "Flask_Cors-4.0.0.egg-info",
        "Flask_Cors-4.0.0-py3.11.egg/EGG-INFO/PKG-INFO",
        "Flask_Cors-4.0.0-py3.11.egg",
    ],
)
def test_each_way_to_install_is_read(tmp_path, place):
    host = plant(tmp_path, {f"{SITE}/{place}": METADATA, f"{SITE}/flask_cors/__init__.py": "", f"{SITE}/x.pth": ""})
    assert the_only(host) == Distribution(name="flask-cors", version="4.0.0", location=place.partition("/")[0])


def test_this_environment_is_read_as_importlib_reads_it():
    for directory in {sysconfig.get_path("purelib"), *site.getsitepackages()}:
        theirs = sorted(
            (normalised(each.metadata["Name"]), each.version)
            for each in importlib.metadata.distributions(path=[directory])
        )
        ours = list(read(Host(), directory)) if os.path.isdir(directory) else []
        mine = [(each.name, each.version) for each in ours if isinstance(each, Distribution) and not each.inside]
        assert sorted(mine) == theirs
        assert not any(isinstance(each, Unknown) for each in ours)


def test_headers_before_the_version_may_be_long(tmp_path):
    text = b"Metadata-Version: 2.1\nName: six\nDescription: long\n" + b"        line\n" * 3000 + b"Version: 1.16.0\n\n"
    look = the_only(plant(tmp_path, {f"{SITE}/six-1.16.0.dist-info/METADATA": text}))
    assert (look.name, look.version) == ("six", "1.16.0")


@pytest.mark.parametrize("length", [4080, 4090, 4094, 4095, 4096, 4097, 4100])
def test_a_version_is_never_read_in_half(tmp_path, length):
    start = b"Name: six\nX: "
    text = start + b"x" * (length - len(start) - 1) + b"\nVersion: 1.16.0.post123\n\n"
    assert the_only(plant(tmp_path, {f"{SITE}/six-1.dist-info/METADATA": text})).version == "1.16.0.post123"


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\x00" * 5000,
        b"Name: six\n",
        b"Version: 1\n",
        b"\nName: six\nVersion: 1\n",
        b"Name: \xff\xfe\nVersion: 1\n",
        b"Name: a b\nVersion: 1\n",
        b"Name: six\nVersion: 1\x1b[2J\n",
        b"Name: " + b"s" * 300 + b"\nVersion: 1\n",
        "Name: six\nVersion: 1\n".encode("utf-16"),
        b"X: " + b"x" * 100_000 + b"\nName: six\nVersion: 1\n",
    ],
)
def test_garbage_is_a_broken_distribution_by_the_name_of_its_directory(tmp_path, metadata):
    look = the_only(plant(tmp_path, {f"{SITE}/Some_Thing-1.0.dist-info/METADATA": metadata}))
    assert look == Distribution(
        name="some-thing",
        location="Some_Thing-1.0.dist-info",
        problem="has metadata without a usable name and version",
    )


def test_a_directory_without_metadata_is_broken(tmp_path):
    look = the_only(plant(tmp_path, {f"{SITE}/six-1.16.0.dist-info/RECORD": ""}))
    assert (look.name, look.version, look.problem) == ("six", "", "has no metadata")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
def test_metadata_that_is_no_file_is_broken_and_never_waited_for(tmp_path, make):
    host = plant(tmp_path, {f"{SITE}/six-1.16.0.dist-info/": ""})
    make(f"{tmp_path}{SITE}/six-1.16.0.dist-info/METADATA")
    assert the_only(host).problem == "has metadata that is not a regular file"


def test_a_link_to_metadata_elsewhere_is_broken(tmp_path):
    host = plant(tmp_path, {"/root/six/METADATA": METADATA, f"{SITE}/six-1.dist-info": "-> /root/six"})
    assert the_only(host).problem == "is a symbolic link"


def test_what_an_interrupted_pip_left_is_not_taken_for_installed(tmp_path):
    look = the_only(plant(tmp_path, {f"{SITE}/~ask_cors-4.0.0.dist-info/METADATA": METADATA}))
    assert (look.name, look.version, look.problem) == ("ask-cors", "", "was left behind by an interrupted pip")


@pytest.mark.parametrize("name", ["a\nb", "\udcff\udcfe", "a\x1b[2J", "-", "a b"])
def test_a_hostile_name_is_shown_safely(tmp_path, name):
    os.makedirs(f"{tmp_path}{SITE}/{name}.dist-info")
    look = the_only(Host(str(tmp_path)))
    assert look.name.isprintable()
    assert look.location.isprintable()
    assert look.name.encode()


def test_a_distribution_removed_meanwhile_is_not_reported(tmp_path):
    host = plant(tmp_path, {f"{SITE}/{name}-1.dist-info/": "" for name in ("first", "second")})
    looks = read(host, SITE)
    assert isinstance(next(looks), Distribution)
    os.rmdir(f"{tmp_path}{SITE}/second-1.dist-info")
    assert list(looks) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(("count", "scopes"), [(1, [f"{SITE}#pkg0"]), (30, [SITE])])
def test_metadata_that_may_not_be_read_is_unknown_and_not_broken(tmp_path, count, scopes):
    names = [f"{SITE}/pkg{number}-1.dist-info/METADATA" for number in range(count)]
    host = plant(tmp_path, dict.fromkeys(names, METADATA))
    for name in names:
        os.chmod(f"{tmp_path}{name}", 0)
    fact = python_environments(host, Config(python=PythonSection(roots=("/opt",))))
    assert fact.environments[0].distributions == ()
    assert [gap.scope for gap in fact.gaps] == scopes


@given(st.binary())
def test_any_bytes_are_metadata_without_an_error(head):
    name, version = parse_metadata(head)
    assert (name + version).isprintable()


FIELDS = st.sampled_from(["Name", "name", "Version", "VERSION", "Metadata-Version", "Summary", "X"])
TEXT = st.from_regex(re.compile(r"[ -~]{0,20}", re.ASCII), fullmatch=True)
LINES = st.one_of(st.builds("{}:{}".format, FIELDS, TEXT), st.builds("{} {}".format, FIELDS, TEXT), st.just(""))


@given(st.lists(LINES))
def test_headers_are_read_as_the_email_parser_reads_them(lines):
    text = "\n".join(lines)
    theirs = email.message_from_string(text)
    ours = parse_metadata(text.encode())
    assert ours == tuple((theirs[name] or "").strip().replace("\\", "\\\\") for name in ("Name", "Version"))


@given(st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True))
def test_a_normalised_name_stays_as_it_is(name):
    assert normalised(normalised(name)) == normalised(name) == normalised(name.upper())
