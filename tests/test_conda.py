"""Conda's packages, from the records that it keeps of them."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, PythonSection
from agent.facts import conda
from agent.facts.conda import CondaPackage, channel, conda_packages, parse_record
from agent.host import MEBIBYTE, Host
from agent.model import CannotLookError
from tests.fakes.trees import plant

META = "/opt/conda/conda-meta"
NUMPY = {
    "build": "py312h1_0", "build_number": 0, "channel": "https://conda.anaconda.org/conda-forge/linux-64",
    "depends": ["python"], "files": ["lib/x.py"] * 50, "name": "numpy", "paths_data": {"paths": [{"_path": "x"}]},
    "version": "1.26.4",
}  # fmt: skip
MACHINE = {
    f"{META}/history": "",
    f"{META}/numpy-1.26.4-py312h1_0.json": json.dumps(NUMPY),
    f"{META}/_libgcc_mutex-0.1-main.json": '{"name": "_libgcc_mutex", "version": "0.1", "build": "main"}',
    "/opt/conda/envs/tools/conda-meta/jq-1.7.1-h1.json": '{"name": "jq", "version": "1.7.1", "build": "h1"}',
    "/opt/conda/pkgs/jq-1.7.1-h1/info/index.json": "{}",
}


def seen(host, **settings):
    return conda_packages(host, Config(python=PythonSection(**settings)))


def test_packages_of_every_environment_are_read_with_python_or_without(tmp_path):
    fact = seen(plant(tmp_path, MACHINE))
    assert {each.prefix: each.packages for each in fact.environments} == {
        "/opt/conda": (
            CondaPackage(name="_libgcc_mutex", version="0.1", build="main"),
            CondaPackage(name="numpy", version="1.26.4", build="py312h1_0", channel="conda-forge"),
        ),
        "/opt/conda/envs/tools": (CondaPackage(name="jq", version="1.7.1", build="h1"),),
    }
    assert fact.gaps == ()


def test_a_machine_without_conda_has_no_environments_and_no_gaps(tmp_path):
    fact = seen(plant(tmp_path, {"/opt/x/": ""}))
    assert (fact.environments, fact.gaps) == ((), ())


def test_an_environment_without_packages_is_one(tmp_path):
    (environment,) = seen(plant(tmp_path, {"/srv/e/conda-meta/": ""})).environments
    assert (environment.prefix, environment.packages) == ("/srv/e", ())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 500_000, b'{"name": ' * 10_000, b'{"name": "six"}',
        b'{"name": "six", "version": 1}', b'{"name": "a b", "version": "1"}', b'{"name": "six", "version": "\\n"}',
        b'{"name": "' + b"s" * 1000 + b'", "version": "1"}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_a_gap_of_its_package_and_hides_no_other(tmp_path, content):
    host = plant(tmp_path, {**MACHINE, f"{META}/scikit-learn-1.4.0-h1_0.json": content})
    fact = seen(host)
    assert [gap.scope for gap in fact.gaps] == ["/opt/conda#scikit-learn"]
    assert len(fact.environments[0].packages) == 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
def test_a_record_that_is_no_file_is_never_waited_for(tmp_path, make):
    host = plant(tmp_path, MACHINE)
    make(f"{tmp_path}{META}/six-1.16.0-h1_0.json")
    assert [gap.scope for gap in seen(host).gaps] == ["/opt/conda#six"]


def test_a_huge_record_is_not_read(tmp_path):
    host = plant(tmp_path, MACHINE)
    with open(f"{tmp_path}{META}/six-1.16.0-h1_0.json", "wb") as file:
        file.truncate(100 * MEBIBYTE)
    (gap,) = seen(host).gaps
    assert gap.scope == "/opt/conda#six"
    assert "larger than" in gap.reason


@pytest.mark.parametrize(("bound", "value"), [("_RECORDS", 1), ("_BYTES", 10)])
def test_what_is_beyond_the_bounds_is_said(tmp_path, monkeypatch, bound, value):
    monkeypatch.setattr(conda, bound, value)
    fact = seen(plant(tmp_path, MACHINE))
    assert [len(each.packages) for each in fact.environments] == [1, 0]
    assert [gap.scope for gap in fact.gaps] == ["/opt/conda#", "/opt/conda/envs/tools#"]


def test_many_damaged_records_are_said_in_one_sentence(tmp_path):
    tree = {f"{META}/p{number}-1-0.json": "" for number in range(50)}
    (gap,) = seen(plant(tmp_path, tree)).gaps
    assert gap.scope == "/opt/conda#"
    assert gap.reason.startswith("50 of conda's records cannot be read: ")
    assert gap.covers("/opt/conda#p1")
    assert not gap.covers("/opt/conda/lib/python3.12/site-packages#numpy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_records_that_may_not_be_read_are_gaps(tmp_path):
    host = plant(tmp_path, MACHINE)
    os.chmod(f"{tmp_path}{META}", 0)
    fact = seen(host)
    assert [(gap.scope, gap.hint) for gap in fact.gaps] == [("/opt/conda#", "Run it as root to see this.")]
    assert [len(each.packages) for each in fact.environments] == [0, 1]


def test_what_the_search_could_not_see_is_a_gap_here_too(tmp_path):
    mounts = "d / ext4 rw\nfiler:/ /home/team nfs4 rw\n"
    fact = seen(plant(tmp_path, {**MACHINE, "/home/team/e/conda-meta/": "", "/proc/self/mounts": mounts}))
    assert [gap.scope for gap in fact.gaps] == ["/home/team"]
    assert len(fact.environments) == 2


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "a\x1b[2J"])
def test_a_hostile_name_is_shown_safely(tmp_path, name):
    os.makedirs(f"{tmp_path}/home/{name}/conda-meta/{name}.json")
    fact = seen(Host(str(tmp_path)))
    texts = [fact.environments[0].prefix, *(gap.scope + gap.reason for gap in fact.gaps)]
    assert all(text.isprintable() and text.encode() for text in texts)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("", ""),
        ("conda-forge", "conda-forge"),
        ("conda-forge/linux-64", "conda-forge"),
        ("https://conda.anaconda.org/conda-forge/noarch", "conda-forge"),
        ("https://repo.anaconda.com/pkgs/main/linux-64", "pkgs/main"),
        ("https://conda.anaconda.org/nvidia/label/cuda-12.4.0/linux-64", "nvidia/label/cuda-12.4.0"),
        ("https://conda.anaconda.org/t/hunter2/private/linux-64", "private"),
        ("https://user:hunter2@packages.example.org/team/linux-aarch64", "packages.example.org/team"),
        ("https://packages.example.org/t/hunter2/team/noarch?auth=hunter2", "packages.example.org/team"),
        ("file:///home/ml/conda-bld/linux-64", "file:/conda-bld"),
        ("https://user:hun/ter2@packages.example.org/team/linux-64", "packages.example.org/team"),
        ("user:hunter2@packages.example.org/team", "packages.example.org/team"),
        ("https://packages.example.org/get/hunter2/team/noarch", "packages.example.org/team"),
        ("https://[broken/x", "[broken/x"),
    ],
)
def test_a_channel_is_named_without_what_lets_somebody_in(address, name):
    assert channel(address) == name


@given(st.text())
def test_any_text_is_a_channel_on_one_line(address):
    assert channel(address).isprintable()
    assert len(channel(address)) <= 200


@given(st.binary() | st.builds(lambda said: json.dumps(said).encode(), st.dictionaries(
    st.sampled_from(["name", "version", "build", "channel"]), st.text() | st.none() | st.integers())))  # fmt: skip
def test_any_bytes_are_a_package_or_damaged(text):
    with contextlib.suppress(CannotLookError):
        package = parse_record(text)
        assert package.name
        assert package.version
        assert all(part.isprintable() for part in (package.name, package.version, package.build, package.channel))


WORDS = st.from_regex(r"[a-z0-9_][a-z0-9._]{0,20}", fullmatch=True)


@given(WORDS, WORDS, WORDS)
def test_what_conda_writes_is_read_back(name, version, build):
    text = json.dumps({**NUMPY, "name": name, "version": version, "build": build}, indent=2).encode()
    assert parse_record(text) == CondaPackage(name=name, version=version, build=build, channel="conda-forge")
