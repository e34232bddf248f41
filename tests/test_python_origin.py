"""Who installed a distribution, from what, and what it carries inside."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.facts.python_copies import PLACES, parse_vendor
from agent.facts.python_distributions import Distribution, read
from agent.facts.python_origin import built, installer, parse_direct_url
from agent.host import Host
from agent.model import Unknown
from tests.fakes.trees import plant

SITE = "/opt/v/lib/python3.11/site-packages"
METADATA = "Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.2\n\n"
INFO = f"{SITE}/Foo_Bar-1.2.dist-info"
SECRET = "https://user:hunter2@example.org/foo.git"  # a canary


def the_only(tmp_path, files):
    (look,) = read(plant(tmp_path, files), SITE)
    return look


@pytest.mark.parametrize(
    ("content", "name"),
    [("pip\n", "pip"), ("uv", "uv"), ("conda\n", "conda"), ("", ""), ("a b", ""), ("\x1b[2J", ""), ("x" * 100, "")],
)
def test_the_installer_is_who_says_so(tmp_path, content, name):
    look = the_only(tmp_path, {f"{INFO}/METADATA": METADATA, f"{INFO}/INSTALLER": content})
    assert (look.name, look.installer, look.built) == ("foo-bar", name, "release")


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ({"url": "https://example.org/foo-1.2.whl", "archive_info": {"hash": "sha256=00"}}, "release"),
        ({"url": "file:///wheels/foo-1.2.whl", "archive_info": {}}, "release"),
        ({"url": SECRET, "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}, "vcs"),
        ({"url": "file:///home/ml/foo", "dir_info": {"editable": True}}, "editable"),
        ({"url": "file:///home/ml/foo", "dir_info": {"editable": False}}, "local"),
        ({"url": "file:///home/ml/foo", "dir_info": {}, "subdirectory": "x"}, "local"),
        ({"url": "file:///home/ml/foo"}, "local"),
        ({"dir_info": "yes"}, "local"),
        ([], "local"),
        (None, "local"),
    ],
)
def test_what_was_not_built_as_a_release_is_told(tmp_path, said, how):
    files = {f"{INFO}/METADATA": METADATA, f"{INFO}/INSTALLER": "pip", f"{INFO}/direct_url.json": json.dumps(said)}
    look = the_only(tmp_path, files)
    assert look.built == how
    assert "hunter2" not in repr(look)


def test_what_conda_built_from_a_directory_is_a_release(tmp_path):
    said = '{"url": "file:///home/conda/feedstock_root/work", "dir_info": {}}'
    files = {f"{INFO}/METADATA": METADATA, f"{INFO}/INSTALLER": "conda\n", f"{INFO}/direct_url.json": said}
    assert the_only(tmp_path, files).built == "release"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 5000, b" " * 100_000])
def test_a_damaged_origin_may_be_anything(tmp_path, content):
    assert built(plant(tmp_path, {f"{INFO}/direct_url.json": content}), INFO) == "local"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
@pytest.mark.parametrize("name", ["INSTALLER", "direct_url.json"])
def test_what_is_no_file_is_not_read_and_never_waited_for(tmp_path, make, name):
    host = plant(tmp_path, {f"{INFO}/": ""})
    make(f"{tmp_path}{INFO}/{name}")
    assert (installer(host, INFO), built(host, INFO)) == ("", "local" if name == "direct_url.json" else "release")


JSON = st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5
)
KEYS = st.sampled_from(["url", "dir_info", "vcs_info", "archive_info", "editable"])


@given(st.binary() | st.dictionaries(KEYS, JSON | st.fixed_dictionaries({"editable": JSON})).map(json.dumps))
def test_any_origin_is_one_of_four(content):
    text = content if isinstance(content, bytes) else content.encode()
    assert parse_direct_url(text) in {"release", "editable", "vcs", "local"}


def test_an_editable_install_is_known_by_its_file_too(tmp_path):
    files = {f"{INFO}/METADATA": METADATA, f"{SITE}/__editable__.foo_bar-1.2.pth": "/home/ml/foo/src\n"}
    assert the_only(tmp_path, files).built == "editable"


@pytest.mark.parametrize("text", ["/home/ml/my-tool\n.", "/home/ml/./my-tool", "/home/ml/my-tool/src/..\n../\n"])
def test_a_development_install_is_read_beside_its_sources(tmp_path, text):
    files = {
        f"{SITE}/my-tool.egg-link": text,
        "/home/ml/my-tool/my_tool.egg-info/PKG-INFO": "Name: my-tool\nVersion: 0.1.dev0\n",
    }
    look = the_only(tmp_path, files)
    assert look == Distribution(name="my-tool", version="0.1.dev0", location="my-tool.egg-link", built="editable")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/home/ml/tool", "leads to sources that are gone"),
        ("", "does not say where its sources are"),
        ("../tool", "does not say where its sources are"),
        ("/home/ml/empty", "has no metadata"),
    ],
)
def test_a_development_install_without_sources_is_broken(tmp_path, text, problem):
    look = the_only(tmp_path, {f"{SITE}/tool.egg-link": text, "/home/ml/empty/tool.egg-info/": ""})
    assert (look.problem, look.version) == (problem, "")


def test_sources_are_not_gone_to_over_links_or_to_servers(tmp_path):
    tree = {
        f"{SITE}/linked.egg-link": "/home/ml/link/linked",
        f"{SITE}/served.egg-link": "/net/served",
        f"{SITE}/odd.egg-link": "/\x00",
        "/home/ml/link": "-> /root",
        "/root/linked/linked.egg-info/PKG-INFO": "Name: linked\nVersion: 1\n",
        "/net/served/served.egg-info/PKG-INFO": "Name: served\nVersion: 1\n",
        "/proc/self/mounts": "d / ext4 rw\nfiler:/ /net nfs4 rw\n",
    }
    looks = list(read(plant(tmp_path, tree), SITE))
    assert all(isinstance(look, Unknown) for look in looks)
    assert [look.scope for look in looks if isinstance(look, Unknown)] == [
        f"{SITE}#{name}" for name in ("linked", "odd", "served")
    ]


def test_a_distribution_tells_what_it_carries_inside(tmp_path):
    tree = {
        f"{SITE}/setuptools-75.0.dist-info/METADATA": "Name: setuptools\nVersion: 75.0\n",
        f"{SITE}/setuptools-75.0.dist-info/INSTALLER": "pip",
        f"{SITE}/setuptools/_vendor/zipp-3.19.2.dist-info/METADATA": "Name: zipp\nVersion: 3.19.2\n",
        f"{SITE}/setuptools/_vendor/zipp-3.19.2.dist-info/INSTALLER": "uv",
        f"{SITE}/setuptools/_vendor/zipp-3.19.2.dist-info/direct_url.json": "{}",
        f"{SITE}/pip-24.0.dist-info/METADATA": "Name: pip\nVersion: 24.0\n",
        f"{SITE}/pip/_vendor/vendor.txt": "CacheControl==0.13.1  # Make sure\nrequests==2.31.0\n    idna==3.4\n",
        f"{SITE}/other/_vendor/six-1.dist-info/METADATA": "Name: six\nVersion: 1\n",
    }
    looks = [look for look in read(plant(tmp_path, tree), SITE) if isinstance(look, Distribution)]
    assert [look for look in looks if look.inside] == [
        Distribution(name=name, version=version, location="pip/_vendor/vendor.txt", inside="pip")
        for name, version in (("cachecontrol", "0.13.1"), ("requests", "2.31.0"), ("idna", "3.4"))
    ] + [
        Distribution(
            name="zipp", version="3.19.2", location="setuptools/_vendor/zipp-3.19.2.dist-info",
            installer="pip", inside="setuptools",
        )
    ]  # fmt: skip


def test_copies_without_their_carrier_are_nobodys(tmp_path):
    tree = {f"{SITE}/pip/_vendor/vendor.txt": "six==1.16.0\n", f"{SITE}/x.pth": ""}
    assert list(read(plant(tmp_path, tree), SITE)) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
def test_copies_that_cannot_be_seen_are_said_of_their_carrier(tmp_path, make):
    tree = {f"{SITE}/pip-24.0.dist-info/METADATA": "Name: pip\nVersion: 24.0\n", f"{SITE}/pip/_vendor/": ""}
    host = plant(tmp_path, tree)
    make(f"{tmp_path}{SITE}/pip/_vendor/vendor.txt")
    (_, gap) = read(host, SITE)
    assert isinstance(gap, Unknown)
    assert gap.scope == f"{SITE}#pip"


def test_each_known_place_of_copies_stays_inside_its_environment():
    assert all(not place.startswith(("/", ".")) and ".." not in place for each in PLACES.values() for place in each)


@given(st.text())
def test_any_text_is_a_vendor_list_without_an_error(text):
    assert all((name + version).isprintable() for name, version in parse_vendor(text))


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}((a|rc|\.post)[0-9])?", fullmatch=True)


@settings(max_examples=50)
@given(st.lists(st.tuples(NAMES, VERSIONS, st.sampled_from(["", "  # why", "[extra]", " "]))))
def test_every_pinned_line_is_a_copy(pins):
    lines = [
        f"{name}[x]=={version}" if end == "[extra]" else f"  {name}=={version}{end}" for name, version, end in pins
    ]
    assert list(parse_vendor("\n".join(["# packages", *lines, "-r other.txt"]))) == [pin[:2] for pin in pins]


def test_this_pip_names_its_copies():
    import pip  # noqa: PLC0415 -- whichever is installed here

    directory = os.path.dirname(os.path.dirname(pip.__file__))
    copies = [look for look in read(Host(), directory) if isinstance(look, Distribution) and look.inside == "pip"]
    assert {"requests", "urllib3", "certifi"} <= {copy.name for copy in copies}
