"""What is remembered between looks at Python environments, and what is not believed."""

from __future__ import annotations

import gc
import os
import shutil

import pytest

from agent.config import Config, PythonSection
from agent.facts import python, python_memory, python_places
from agent.facts.conda import conda_packages
from agent.facts.python import python_environments
from agent.host import Host
from tests.fakes.trees import plant

SITE = "/opt/v/lib/python3.11/site-packages"
OTHER = "/srv/w/lib/python3.11/site-packages"
RECORD = '{"name": "openssl", "version": "3.0.1", "build": "h1_0"}'
MACHINE = {
    "/proc/self/mounts": "d / ext4 rw\n",
    "/opt/v/conda-meta/openssl-3.0.1-h1_0.json": RECORD,
    f"{SITE}/six-1.16.0.dist-info/METADATA": "Name: six\nVersion: 1.16.0\n",
    f"{OTHER}/idna-3.4.dist-info/METADATA": "Name: idna\nVersion: 3.4\n",
}


class Clock:
    """The kernel's clock and the wall's, to be set by a test."""

    def __init__(self, patch):
        self.kernel = 1000.0
        patch.setattr(python_memory, "_now", lambda: self.kernel)


class Watched(Host):
    """A machine that counts what is listed and read."""

    def __init__(self, root):
        super().__init__(root)
        self.walked, self.read_paths = 0, []

    def directories(self, path, *, follow=False, limit=200_000):
        self.walked += 1
        return super().directories(path, follow=follow, limit=limit)

    def read_start(self, path, *, limit, follow=True):
        self.read_paths.append(path)
        return super().read_start(path, limit=limit, follow=follow)

    def forget(self):
        self.walked, self.read_paths = 0, []


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def settled(monkeypatch):
    """Trees that tests plant have changed a moment ago, and could change in the same moment again."""
    monkeypatch.setattr(python_memory, "_SETTLED", -(10**18))


@pytest.fixture
def host(tmp_path, clock, settled):
    plant(tmp_path, MACHINE)
    return Watched(str(tmp_path))


def look(host, **settings):
    return python_environments(host, Config(python=PythonSection(**settings)))


def names(fact):
    return {each.path: [distribution.name for distribution in each.distributions] for each in fact.environments}


def install(tmp_path, name, *, into=SITE):
    plant(tmp_path, {f"{into}/{name}-2.dist-info/METADATA": f"Name: {name}\nVersion: 2\n"})


def test_a_second_look_walks_nowhere_reads_nothing_and_sees_the_same(host):
    first = look(host)
    host.forget()
    assert look(host) == first
    assert host.walked == 0
    assert {path for path in host.read_paths if path.startswith((SITE, OTHER))} == set()


def test_python_and_conda_are_seen_with_one_walk(host):
    found = look(host)
    walked = host.walked
    packages = conda_packages(host, Config())
    assert host.walked == walked
    assert [each.name for each in packages.environments[0].packages] == ["openssl"]
    assert found.walked == packages.walked


def test_nothing_is_read_twice_in_one_look(host):
    look(host)
    conda_packages(host, Config())
    installed = [path for path in host.read_paths if path.startswith((SITE, OTHER)) or "conda-meta" in path]
    assert sorted(installed) == sorted(set(installed))


def test_what_pip_installs_is_seen_at_the_next_look_and_only_there_is_read(host, tmp_path):
    look(host)
    host.forget()
    install(tmp_path, "requests")
    assert names(look(host))[SITE] == ["requests", "six"]
    assert host.walked == 0
    assert not any(path.startswith(OTHER) for path in host.read_paths)


def test_what_pip_uninstalls_is_gone_at_the_next_look(host, tmp_path):
    look(host)
    shutil.rmtree(f"{tmp_path}{SITE}/six-1.16.0.dist-info")
    assert names(look(host)) == {SITE: [], OTHER: ["idna"]}


def test_what_conda_installs_is_seen_at_the_next_look(host, tmp_path):
    conda_packages(host, Config())
    plant(tmp_path, {"/opt/v/conda-meta/zlib-1-0.json": '{"name": "zlib", "version": "1"}'})
    (environment,) = conda_packages(host, Config()).environments
    assert [each.name for each in environment.packages] == ["openssl", "zlib"]


def test_an_environment_that_is_removed_is_gone_and_no_gap(host, tmp_path):
    look(host)
    shutil.rmtree(f"{tmp_path}/opt/v")
    fact = look(host)
    assert (names(fact), fact.gaps) == ({OTHER: ["idna"]}, ())
    assert conda_packages(host, Config()).environments == ()


def test_who_may_write_is_looked_at_each_time(host, tmp_path):
    assert {each.writable for each in look(host).environments} == {""}
    (tmp_path / "srv/w").chmod(0o777)
    assert [each.writable for each in look(host).environments] == ["", "/srv/w"]


def test_a_day_later_the_machine_is_walked_and_everything_read_anew(host, tmp_path, clock):
    look(host)
    plant(tmp_path, {"/opt/new/lib/python3.11/site-packages/": ""})
    metadata = f"{SITE}/six-1.16.0.dist-info/METADATA"
    (tmp_path / metadata[1:]).write_text("Name: six\nVersion: 1.17.0\n")  # in place, which changes no directory
    clock.kernel += 24 * 3600 - 1
    assert len(look(host).environments) == 2
    clock.kernel += 2
    fact = look(host)
    assert len(fact.environments) == 3
    assert {each.version for each in fact.environments[1].distributions} == {"1.17.0"}


def test_a_walk_that_met_a_limit_is_repeated_after_an_hour(tmp_path, clock, settled):
    plant(tmp_path, MACHINE | {f"/home/{number}/x/": "" for number in range(200)})
    host = Watched(str(tmp_path))
    assert look(host, directories=100).gaps
    for hours, is_repeated in ((0.9, False), (0.2, True)):
        host.forget()
        clock.kernel += hours * 3600
        assert look(host, directories=100).gaps
        assert bool(host.walked) is is_repeated


@pytest.mark.parametrize("settings", [{"roots": ("/srv",)}, {"directories": 50_000}, {"seconds": 5.0}])
def test_other_settings_walk_anew(host, settings):
    look(host)
    host.forget()
    fact = look(host, **settings)
    assert host.walked > 0
    assert (SITE in names(fact)) == ("roots" not in settings)


def test_another_process_or_another_root_knows_nothing(host, tmp_path):
    look(host)
    plant(tmp_path, {"/opt/new/lib/python3.11/site-packages/": ""})
    assert len(look(host).environments) == 2
    assert len(look(Host(str(tmp_path))).environments) == 3
    assert look(Host(f"{tmp_path}/opt")).environments == ()


def test_a_machine_that_nobody_looks_at_any_more_is_forgotten(tmp_path):
    host = plant(tmp_path, MACHINE)
    look(host)
    known = len(python_memory._MEMORIES)
    del host
    gc.collect()
    assert len(python_memory._MEMORIES) == known - 1


def test_a_walk_that_was_broken_off_is_none(host, monkeypatch):
    def broken_off(*_arguments, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(python_memory, "search", broken_off)
        with pytest.raises(KeyboardInterrupt):
            look(host)
    assert set(names(look(host))) == {SITE, OTHER}


def test_what_changed_a_moment_ago_is_read_again(tmp_path, clock):
    plant(tmp_path, MACHINE)
    host = Watched(str(tmp_path))
    look(host)
    path = tmp_path / f"{SITE[1:]}/six-1.16.0.dist-info/INSTALLER"
    path.write_text("pip\n")  # as pip does when everything else has been done
    assert look(host).environments[0].distributions[0].installer == "pip"


def test_what_was_broken_is_read_again(host, tmp_path):
    metadata = tmp_path / f"{SITE[1:]}/six-1.16.0.dist-info/METADATA"
    metadata.write_text("")
    assert look(host).environments[0].distributions[0].problem
    metadata.write_text("Name: six\nVersion: 1.16.0\n")
    assert look(host).environments[0].distributions[0].version == "1.16.0"


def test_a_list_that_was_cut_short_is_not_remembered(host, tmp_path, monkeypatch):
    monkeypatch.setattr(python, "_DISTRIBUTIONS", 3)
    for name in ("b", "c"):
        install(tmp_path, name, into=OTHER)
    install(tmp_path, "d")
    assert [gap.scope for gap in look(host).gaps] == [OTHER]
    shutil.rmtree(f"{tmp_path}{SITE}/d-2.dist-info")
    shutil.rmtree(f"{tmp_path}{SITE}/six-1.16.0.dist-info")
    fact = look(host)
    assert (names(fact)[OTHER], fact.gaps) == (["b", "c", "idna"], ())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_could_not_be_read_is_read_again(host, tmp_path):
    metadata = tmp_path / f"{SITE[1:]}/six-1.16.0.dist-info/METADATA"
    metadata.chmod(0)
    assert [gap.scope for gap in look(host).gaps] == [f"{SITE}#six"]
    metadata.chmod(0o644)
    assert look(host).gaps == ()


def test_a_server_mounted_over_an_environment_is_not_gone_to_and_that_is_said(host, tmp_path):
    before = look(host)
    (tmp_path / "proc/self/mounts").write_text("d / ext4 rw\nfiler:/ /srv nfs4 rw\n")
    fact = look(host)
    assert (names(fact), [gap.scope for gap in fact.gaps]) == ({SITE: ["six"]}, ["/srv"])
    assert look(host) == fact
    (tmp_path / "proc/self/mounts").write_text("d / ext4 rw\n")
    assert look(host) == before


def test_a_link_put_on_the_way_is_not_followed(host, tmp_path):
    look(host)
    (tmp_path / "srv/w").rename(tmp_path / "elsewhere")
    (tmp_path / "srv/w").symlink_to("../elsewhere")
    assert set(names(look(host))) == {SITE}


def test_a_root_that_is_a_link_is_followed_each_time(tmp_path, clock, settled):
    host = plant(tmp_path, {"/data/a/lib/python3.9/site-packages/": "", "/srv": "-> data"})
    assert look(host, roots=("/srv",)) == look(host, roots=("/srv",))
    assert set(names(look(host, roots=("/srv",)))) == {"/srv/a/lib/python3.9/site-packages"}


def test_the_search_says_that_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(python_places, "_TOLD", 2)
    told: list[str] = []
    plant(tmp_path, MACHINE)
    look(Host(str(tmp_path), progress=told.append))
    assert told[0] == "searching for Python environments: 2 directories"
    assert told[-1] == f"reading {OTHER}"
