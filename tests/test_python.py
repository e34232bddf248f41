"""Python environments as they are found on a machine."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, ConfigError, PythonSection, parse
from agent.facts.python import Environment, PythonEnvironments, parse_venv, python_environments
from agent.facts.python_distributions import Distribution
from agent.host import Host
from tests.fakes.trees import plant

METADATA = "Metadata-Version: 2.1\nName: Requests\nVersion: 2.31.0\n\nHTTP for humans\n"
MACHINE = {
    "/usr/bin/python3": "-> python3.11",
    "/usr/bin/python3.11": "",
    "/usr/lib/python3/dist-packages/six-1.16.egg-info": "Name: six\nVersion: 1.16.0\n",
    "/usr/local/lib/python3.11/dist-packages/": "",
    "/opt/conda/bin/python3.10": "",
    "/opt/conda/conda-meta/": "",
    "/opt/conda/lib/python3.10/site-packages/requests-2.31.0.dist-info/METADATA": METADATA,
    "/opt/conda/pkgs/requests-2.31.0-py310/lib/python3.10/site-packages/requests-2.31.0.dist-info/METADATA": METADATA,
    "/home/ml/.local/lib/python3.10/site-packages/": "",
    "/home/ml/.local/share/uv/tools/ruff/pyvenv.cfg": "home = /usr/bin\n",
    "/home/ml/.local/share/uv/tools/ruff/bin/python3.11": "-> /usr/bin/python3.11",
    "/home/ml/.local/share/uv/tools/ruff/lib/python3.11/site-packages/": "",
    "/home/ml/.pyenv/versions/3.8.18/bin/python3.8": "",
    "/home/ml/.pyenv/versions/3.8.18/lib/python3.8/site-packages/": "",
    "/home/ml/job/.venv/pyvenv.cfg": "home = /home/ml/.pyenv/versions/3.8.18/bin\nversion = 3.8.18\n",
    "/home/ml/job/.venv/bin/python3.8": "-> /home/ml/.pyenv/versions/3.8.18/bin/python3.8",
    "/home/ml/job/.venv/lib/python3.8/site-packages/": "",
    "/srv/app/bin/python3.13t": "",
    "/srv/app/lib/python3.13t/site-packages/": "",
}


def seen(host: Host, **settings) -> PythonEnvironments:
    return python_environments(host, Config(python=PythonSection(**settings)))


def by_path(fact: PythonEnvironments) -> dict[str, Environment]:
    return {environment.path: environment for environment in fact.environments}


def test_every_kind_of_environment_is_found_with_its_python(tmp_path):
    found = by_path(seen(plant(tmp_path, MACHINE)))
    assert {path: (each.kind, each.python, each.home) for path, each in found.items()} == {
        "/usr/lib/python3/dist-packages": ("system", "3.11", "/usr/bin"),
        "/usr/local/lib/python3.11/dist-packages": ("other", "3.11", "/usr/bin"),
        "/opt/conda/lib/python3.10/site-packages": ("conda", "3.10", "/opt/conda/bin"),
        "/home/ml/.local/lib/python3.10/site-packages": ("user", "3.10", ""),
        "/home/ml/.local/share/uv/tools/ruff/lib/python3.11/site-packages": ("uv-tool", "3.11", "/usr/bin"),
        "/home/ml/.pyenv/versions/3.8.18/lib/python3.8/site-packages": (
            "pyenv", "3.8", "/home/ml/.pyenv/versions/3.8.18/bin",
        ),
        "/home/ml/job/.venv/lib/python3.8/site-packages": ("venv", "3.8", "/home/ml/.pyenv/versions/3.8.18/bin"),
        "/srv/app/lib/python3.13t/site-packages": ("other", "3.13", "/srv/app/bin"),
    }  # fmt: skip


def test_an_ordinary_machine_has_no_gaps_and_nobody_else_may_write(tmp_path):
    fact = seen(plant(tmp_path, MACHINE))
    assert fact.gaps == ()
    assert {environment.writable for environment in fact.environments} == {""}
    assert {environment.owner for environment in fact.environments} == {os.geteuid()}


def test_the_distributions_of_an_environment_come_with_it(tmp_path):
    found = by_path(seen(plant(tmp_path, MACHINE)))
    assert found["/opt/conda/lib/python3.10/site-packages"].distributions == (
        Distribution(name="requests", version="2.31.0", location="requests-2.31.0.dist-info"),
    )


def test_a_package_in_the_store_of_conda_is_no_environment(tmp_path):
    tree = {f"/srv/store/six-1/{name}": "" for name in ("info/index.json", "site-packages/", "lib/python3.9/x")}
    assert seen(plant(tmp_path, tree)).environments == ()


def test_what_is_inside_an_environment_is_not_an_environment_again(tmp_path):
    tree = {
        "/opt/a/lib/python3.9/site-packages/x/lib/python3.9/site-packages/": "",
        "/opt/node_modules/site-packages/": "",
    }
    assert list(by_path(seen(plant(tmp_path, tree)))) == ["/opt/a/lib/python3.9/site-packages"]


def test_links_and_loops_of_links_are_not_followed(tmp_path):
    tree = {
        "/opt/a/lib/python3.9/site-packages/": "",
        "/opt/loop": "-> /opt",
        "/opt/a/again": "-> ..",
        "/srv": "-> opt",
    }
    fact = seen(plant(tmp_path, tree), roots=("/opt",))
    assert list(by_path(fact)) == ["/opt/a/lib/python3.9/site-packages"]


def test_a_root_may_be_a_link_and_roots_may_overlap(tmp_path):
    tree = {"/data/a/lib/python3.9/site-packages/": "", "/srv": "-> data"}
    fact = seen(plant(tmp_path, tree), roots=("/srv", "/srv/a/", "/srv/./a"))
    assert list(by_path(fact)) == ["/srv/a/lib/python3.9/site-packages"]


@pytest.mark.parametrize("kind", ["nfs4", "fuse.gcsfuse", "9p", "overlay", "lustre"])
def test_a_remote_file_system_is_not_entered_and_that_is_said(tmp_path, kind):
    mounts = f"/dev/sda1 / ext4 rw 0 0\nfiler:/x /home/team\\040a {kind} rw 0 0\n"
    fact = seen(plant(tmp_path, {"/home/team a/v/lib/python3.9/site-packages/": "", "/proc/self/mounts": mounts}))
    assert fact.environments == ()
    (gap,) = fact.gaps
    assert gap.covers("/home/team a/v/lib/python3.9/site-packages#six")
    assert kind in gap.reason


def test_a_root_on_a_remote_file_system_is_not_entered(tmp_path):
    tree = {"/home/a/site-packages/": "", "/proc/self/mounts": "d / ext4 rw 0 0\nfiler:/ /home nfs rw 0 0\n"}
    fact = seen(plant(tmp_path, tree), roots=("/home/a",))
    assert (fact.environments, [gap.scope for gap in fact.gaps]) == ((), ["/home/a"])


def test_kernel_file_systems_are_left_out_without_a_word_and_the_machine_may_be_an_overlay(tmp_path):
    tree = {
        "/proc/x/site-packages/": "",
        "/opt/site-packages/": "",
        "/proc/self/mounts": "o / overlay rw\np /proc proc rw\n",
    }
    fact = seen(plant(tmp_path, tree), roots=("/",))
    assert (list(by_path(fact)), fact.gaps) == (["/opt/site-packages"], ())


def test_disks_and_servers_mounted_elsewhere_are_named(tmp_path):
    mounts = (
        "d / ext4 rw\nt /tmp tmpfs rw\nb /boot ext4 rw\nv /var/lib/x overlay rw\nh /home ext4 rw\no /opt/a xfs rw\n"
    )
    quiet = seen(plant(tmp_path, {"/proc/self/mounts": mounts}))
    (tmp_path / "proc/self/mounts").write_text(mounts + "e /mnt/disks/data ext4 rw\nn /mnt/team nfs4 rw\n")
    fact = seen(Host(str(tmp_path)))
    assert quiet.gaps == ()
    assert [gap.scope for gap in fact.gaps] == ["/mnt/disks/data", "/mnt/team"]
    assert ["python.roots" in gap.hint for gap in fact.gaps] == [True, False]


def test_a_search_that_takes_too_long_is_ended_and_that_is_said(tmp_path):
    fact = seen(plant(tmp_path, MACHINE), seconds=1e-9)
    assert fact.environments == ()
    assert {gap.scope for gap in fact.gaps} >= {"/opt", "/root", "/srv", "/usr"}
    assert all("python.seconds" in gap.hint for gap in fact.gaps)


def test_a_wide_directory_of_data_does_not_use_up_what_others_need(tmp_path):
    tree = {f"/home/data/{number}/": "" for number in range(1001)} | {"/opt/a/b/c/lib/python3.9/site-packages/": ""}
    fact = seen(plant(tmp_path, tree), directories=100)
    assert [gap.scope for gap in fact.gaps] == ["/home"]
    assert list(by_path(fact)) == ["/opt/a/b/c/lib/python3.9/site-packages"]


def test_a_wide_directory_is_searched_all_the_same(tmp_path):
    tree = {f"/home/{number}/": "" for number in range(1001)} | {"/home/a/v/lib/python3.9/site-packages/": ""}
    fact = seen(plant(tmp_path, tree))
    assert (list(by_path(fact)), fact.gaps) == (["/home/a/v/lib/python3.9/site-packages"], ())


def test_what_is_beyond_the_bound_is_said(tmp_path):
    tree = {f"/home/{number // 10}/{number}/v/": "" for number in range(200)} | {"/opt/": ""}
    fact = seen(plant(tmp_path, tree), directories=100)
    assert [gap.scope for gap in fact.gaps] == ["/home"]
    assert "python.directories" in fact.gaps[0].hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_a_gap(tmp_path):
    host = plant(tmp_path, {"/home/other/": "", "/opt/a/lib/python3.9/site-packages/": ""})
    (tmp_path / "home/other").chmod(0)
    (tmp_path / "opt/a/lib/python3.9/site-packages").chmod(0)
    fact = seen(host)
    assert [gap.scope for gap in fact.gaps] == ["/home/other", "/opt/a/lib/python3.9/site-packages"]
    assert {gap.hint for gap in fact.gaps} == {"Run it as root to see this."}


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "a\x1b[2J", "a#b"])
def test_a_hostile_name_is_shown_safely(tmp_path, name):
    place = tmp_path / "home" / name / "lib/python3.9/site-packages"
    place.mkdir(parents=True)
    (environment,) = seen(Host(str(tmp_path))).environments
    assert environment.path.isprintable()
    assert environment.path.encode()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_a_venv_whose_settings_cannot_be_read_is_still_a_venv(tmp_path, make):
    host = plant(tmp_path, {"/srv/v/lib/python3.9/site-packages/": ""})
    make(tmp_path / "srv/v/pyvenv.cfg")
    (environment,) = seen(host).environments
    assert (environment.kind, environment.home) == ("venv", "")


@given(st.text())
def test_any_text_is_a_pyvenv_cfg_without_an_error(text):
    assert all(name == name.lower() for name in parse_venv(text))


def test_a_root_is_an_absolute_path():
    with pytest.raises(ConfigError, match=r"python\.roots"):
        parse(b'[python]\nroots = ["~/venvs"]\n', path="config.toml")


def test_this_python_is_found_where_it_is():
    prefix = os.path.realpath(sys.prefix)
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    environments = seen(Host(), roots=(prefix,)).environments
    mine = [each for each in environments if each.interpreter.startswith(f"{prefix}/bin/python")]
    assert release in {each.python for each in mine}


@pytest.mark.parametrize(
    ("modes", "writable"),
    [
        ({"/opt": 0o755, "/opt/v": 0o755, "/opt/v/site-packages": 0o775}, ""),
        ({"/opt": 0o1777, "/opt/v": 0o755, "/opt/v/site-packages": 0o755}, ""),
        ({"/opt": 0o750, "/opt/v": 0o755, "/opt/v/site-packages": 0o777}, ""),
        ({"/opt": 0o755, "/opt/v": 0o755, "/opt/v/site-packages": 0o777}, "/opt/v/site-packages"),
        ({"/opt": 0o755, "/opt/v": 0o755, "/opt/v/site-packages": 0o1777}, "/opt/v/site-packages"),
        ({"/opt": 0o755, "/opt/v": 0o777, "/opt/v/site-packages": 0o755}, "/opt/v"),
    ],
)
def test_only_what_everybody_can_reach_and_change_is_writable(tmp_path, modes, writable):
    host = plant(tmp_path, {"/opt/v/site-packages/": ""})
    for path, mode in reversed(modes.items()):
        (tmp_path / path.lstrip("/")).chmod(mode)
    (environment,) = seen(host).environments
    assert environment.writable == writable
