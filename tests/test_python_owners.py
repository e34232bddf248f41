"""Which Debian package brought a distribution, and which release of Python an environment has."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config
from agent.facts import python_release
from agent.facts.python import PythonEnvironments, python_environments
from agent.facts.python_owners import parse_list, read_debian
from agent.host import Host
from tests.fakes.trees import plant

DIST = "/usr/lib/python3/dist-packages"
STATUS = """Package: python3-yaml
Status: install ok installed
Architecture: amd64
Version: 6.0-3+b2

Package: python3-six
Status: install ok installed
Architecture: all
Version: 1.16.0-4

Package: python3.11-minimal
Status: install ok installed
Architecture: amd64
Version: 3.11.2-6+deb12u6

"""
MACHINE = {
    "/usr/bin/python3": "-> python3.11",
    "/usr/bin/python3.11": "",
    f"{DIST}/PyYAML-6.0.dist-info/METADATA": "Name: PyYAML\nVersion: 6.0\n",
    f"{DIST}/six-1.16.0.egg-info": "Name: six\nVersion: 1.16.0\n",
    f"{DIST}/mine-1.dist-info/METADATA": "Name: mine\nVersion: 1\n",
    f"{DIST}/pip-23.0.dist-info/METADATA": "Name: pip\nVersion: 23.0\n",
    f"{DIST}/pip/_vendor/vendor.txt": "idna==3.4\n",
    "/var/lib/dpkg/status": STATUS,
    "/var/lib/dpkg/info/python3-yaml:amd64.list": f"/.\n/usr\n{DIST}/PyYAML-6.0.dist-info\n"
    f"{DIST}/PyYAML-6.0.dist-info/METADATA\n/usr/share/doc/python3-yaml\n",
    "/var/lib/dpkg/info/python3-six.list": f"/.\n{DIST}/six-1.16.0.egg-info\n{DIST}/pip-23.0.dist-info\n",
    "/var/lib/dpkg/info/bash.list": "/.\n/bin/bash\n",
    "/var/lib/dpkg/info/bash.md5sums": f"{DIST}/mine-1.dist-info\n",
}


def seen(host: Host) -> PythonEnvironments:
    return python_environments(host, Config())


def releases(tmp_path, tree):
    found = seen(plant(tmp_path, tree)).environments
    return {each.path.removesuffix("/site-packages"): each.release for each in found}


def test_what_debian_packages_brought_has_them_as_owners(tmp_path):
    (environment,) = seen(plant(tmp_path, MACHINE)).environments
    assert {each.name: each.owner for each in environment.distributions} == {
        "pyyaml": "deb:python3-yaml:amd64",
        "six": "deb:python3-six:all",
        "mine": "",
        "pip": "deb:python3-six:all",
        "idna": "deb:python3-six:all",
    }


def test_a_machine_without_dpkg_has_no_owners_and_no_gap(tmp_path):
    fact = seen(plant(tmp_path, {path: text for path, text in MACHINE.items() if "dpkg" not in path}))
    assert {each.owner for each in fact.environments[0].distributions} == {""}
    assert fact.gaps == ()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_list_that_cannot_be_read_is_said_of_where_it_matters(tmp_path, make):
    host = plant(tmp_path, MACHINE)
    make(f"{tmp_path}/var/lib/dpkg/info/odd.list")
    fact = seen(host)
    assert [gap.scope for gap in fact.gaps] == ["/usr/lib"]
    assert "deb:python3-yaml:amd64" in {each.owner for each in fact.environments[0].distributions}


@pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
def test_this_machines_owners_are_those_that_dpkg_names():
    found = {
        f"{directory}/{name}": key
        for directory, names in read_debian(Host()).owners.items()
        for name, key in list(names.items())[:5]
    }
    for path, key in list(found.items())[:10]:
        owner = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, check=True).stdout
        assert key.split(":")[1] in owner.partition(f": {path}")[0]


PATHS = st.lists(st.from_regex(rb"(/[a-z0-9.~-]{1,12}){1,4}(\.dist-info|\.egg-info|-info|)", fullmatch=True))


@given(PATHS)
def test_the_metadata_in_a_list_is_that_of_a_line_by_line_look(paths):
    expected = [path.decode() for path in paths if path.endswith((b".dist-info", b".egg-info"))]
    assert sorted(parse_list(b"/.\n" + b"".join(path + b"\n" for path in paths))) == sorted(expected)


@given(st.binary())
def test_any_bytes_are_a_list_without_an_error(text):
    assert all("\n" not in path for path in parse_list(text))


def test_the_distributors_python_has_the_release_of_its_package(tmp_path):
    assert [each.release for each in seen(plant(tmp_path, MACHINE)).environments] == ["3.11.2"]


HEADER = '#define PY_MAJOR_VERSION 3\n/* Version as a string */\n#define PY_VERSION      \t"3.12.4+"\n'


@pytest.mark.parametrize(
    ("tree", "release"),
    [
        ({"/opt/p/include/python3.12/patchlevel.h": HEADER}, "3.12.4"),
        ({"/opt/p/conda-meta/python-3.12.1-hab00c5b_0_cpython.json": "{}"}, "3.12.1"),
        ({"/opt/p/conda-meta/python-dateutil-3.12.9-h1_0.json": "{}"}, ""),
        ({"/opt/p/include/python3.12/patchlevel.h": HEADER.replace("3.12.4", "3.11.4")}, ""),
        ({"/opt/p/include/python3.12/patchlevel.h": "-> /etc/hostname"}, ""),
        ({}, ""),
    ],
)
def test_an_installation_tells_its_release(tmp_path, tree, release):
    place = "/opt/p/lib/python3.12"
    found = releases(tmp_path, {f"{place}/site-packages/": "", "/opt/p/bin/python3.12": "", **tree})
    assert found == {place: release}


@pytest.mark.parametrize(
    ("prefix", "release"),
    [
        ("/home/ml/.pyenv/versions/3.8.18", "3.8.18"),
        ("/opt/pyenv/versions/3.8.18", "3.8.18"),
        ("/root/.local/share/uv/python/cpython-3.8.20-linux-x86_64-gnu", "3.8.20"),
        ("/root/.local/share/uv/python/cpython-3.8.0rc1+freethreaded-linux", "3.8.0rc1"),
        ("/home/ml/.pyenv/versions/miniconda3-4.7.12", ""),
        ("/home/ml/versions/3.8.18", ""),
    ],
)
def test_directories_of_pyenv_and_uv_are_named_for_their_release(tmp_path, prefix, release):
    tree = {f"{prefix}/lib/python3.8/site-packages/": "", f"{prefix}/bin/python3.8": ""}
    assert set(releases(tmp_path, tree).values()) == {release}


VENV = {"/srv/v/lib/python3.12/site-packages/": "", "/srv/v/bin/python3.12": ""}


@pytest.mark.parametrize(
    ("settings", "release"),
    [
        ("version = 3.12.3\n", "3.12.3"),
        ("version_info = 3.12.3.final.0\nversion = 20.1\n", "3.12.3"),
        ("version_info = 3.12\n", ""),
        ("version = 3.11.3\n", ""),
        ("version = \x1b[2J\n", ""),
        ("", ""),
    ],
)
def test_a_virtual_environment_has_the_release_that_it_was_made_with(tmp_path, settings, release):
    tree = {**VENV, "/srv/v/pyvenv.cfg": f"home = /nowhere/bin\n{settings}"}
    assert set(releases(tmp_path, tree).values()) == {release}


def test_a_virtual_environment_has_the_release_of_its_home_as_that_is_now(tmp_path):
    tree = {
        **VENV,
        "/srv/v/pyvenv.cfg": "home = /opt/p/bin\nversion = 3.12.1\n",
        "/opt/p/bin/python3.12": "",
        "/opt/p/lib/python3.12/site-packages/": "",
        "/opt/p/include/python3.12/patchlevel.h": HEADER,
    }
    assert set(releases(tmp_path, tree).values()) == {"3.12.4"}


@given(st.dictionaries(st.sampled_from(["version", "version_info"]), st.text()))
def test_any_settings_tell_a_release_or_none(settings):
    release = python_release.of_venv(settings)
    assert release == "" or release[0].isdigit()
