"""The checks of Python environments."""

from __future__ import annotations

import pytest

from agent import knowledge
from agent.checks.python import (
    python_distribution_broken,
    python_distribution_twice,
    python_environment_writable,
    python_release_end_of_life,
)
from agent.facts.python import Environment, PythonEnvironments
from agent.facts.python_distributions import Distribution
from agent.knowledge import PythonReleases
from tests.fakes.trees import NOW

RELEASES = knowledge.load(PythonReleases)


def an_environment(path="/srv/app/lib/python3.8/site-packages", **fields) -> PythonEnvironments:
    known = {"kind": "other", "python": "3.8", "interpreter": "/srv/app/bin/python3.8", "home": "/srv/app/bin"}
    environment = Environment(path=path, owner=0, **{"writable": "", **known, **fields})
    return PythonEnvironments(environments=(environment,))


@pytest.mark.parametrize(
    "fields",
    [
        {"python": "3.12"},
        {"python": "3.99"},
        {"python": ""},
        {"home": "/usr/bin"},
        {"interpreter": "", "home": "", "kind": "user"},
    ],
)
def test_a_supported_patched_or_unused_python_is_quiet(fields):
    assert list(python_release_end_of_life(an_environment(**fields), RELEASES, NOW)) == []


@pytest.mark.parametrize("python", ["2.7", "3.6", "3.8", "3.9", "3.10"])
def test_a_python_past_its_end_is_a_finding(python):
    (finding,) = python_release_end_of_life(an_environment(python=python), RELEASES, NOW)
    assert finding.subject == "/srv/app/lib/python3.8/site-packages"
    assert f"Python {python}" in finding.detail


def test_an_environment_that_everybody_may_change_is_a_finding():
    assert list(python_environment_writable(an_environment())) == []
    (finding,) = python_environment_writable(an_environment(writable="/srv/app"))
    assert (finding.subject, finding.detail) == (
        "/srv/app/lib/python3.8/site-packages",
        "everybody may write to /srv/app",
    )


def test_a_distribution_without_metadata_is_a_finding():
    whole = Distribution(name="six", version="1.16.0", location="six-1.16.0.dist-info")
    broken = Distribution(name="requests", location="requests-2.dist-info", problem="has no metadata")
    assert list(python_distribution_broken(an_environment(distributions=(whole,)))) == []
    (finding,) = python_distribution_broken(an_environment(distributions=(whole, broken)))
    assert finding.subject == "/srv/app/lib/python3.8/site-packages#requests"
    assert finding.detail.endswith("/requests-2.dist-info has no metadata")


def a_distribution(version, *, name="numpy", ending="dist-info", **fields):
    return Distribution(name=name, version=version, location=f"{name}-{version}.{ending}", **fields)


@pytest.mark.parametrize(
    "distributions",
    [
        (a_distribution("1.26.4"),),
        (a_distribution("1.26.4"), a_distribution("1.26.4", ending="egg-info")),
        (a_distribution("1.26.4"), a_distribution("2.0.0", name="numpy-stl")),
        (a_distribution("1.26.4"), a_distribution("2.0.0", inside="setuptools")),
        (a_distribution("1.26.4", owner="deb:python3-numpy:amd64"), a_distribution("2", owner="deb:numpy2:amd64")),
        (a_distribution("1.26.4"), Distribution(name="numpy", location="~umpy-1.dist-info", problem="was left behind")),
    ],
)
def test_a_package_that_is_there_once_is_quiet(distributions):
    assert list(python_distribution_twice(an_environment(distributions=distributions))) == []


def test_a_package_that_is_there_twice_is_one_finding():
    twice = (a_distribution("2.0.0"), a_distribution("1.26.4", installer="conda"), a_distribution("1", name="six"))
    (finding,) = python_distribution_twice(an_environment(distributions=twice))
    assert finding.subject == "/srv/app/lib/python3.8/site-packages#numpy"
    assert finding.evidence == {"versions": "1.26.4, 2.0.0"}
    assert finding.fix.startswith("Run /srv/app/bin/python3.8 -m pip uninstall numpy until")


def test_a_copy_that_does_not_tell_its_name_is_its_carriers_matter():
    copy = Distribution(
        name="zipp", location="setuptools/_vendor/zipp.dist-info", problem="has no", inside="setuptools"
    )
    assert list(python_distribution_broken(an_environment(distributions=(copy,)))) == []
