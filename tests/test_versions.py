"""Which versions an advisory holds, in the order of each ecosystem."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from agent.advisories.advisory import Advisory
from agent.advisories.versions import (
    NotOrderedError,
    is_affected,
    is_release,
    last_affected,
    nearest_fix,
    order,
    same_major,
)
from tests.fakes.advisories import an_advisory

numbers = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
suffixes = st.sampled_from(["", "a1", "b2", "rc1", ".dev3", ".post1", "rc2.dev1", "-1"])
local = st.sampled_from(["", "+cu121", "+cpu", "+ubuntu.1"])
python_versions = st.builds("".join, st.tuples(st.sampled_from(["", "v", "1!"]), numbers, suffixes, local))


def python(advisory, version):
    return is_affected("PyPI", advisory, version)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cu124", "2.10.0", "2.6.0.post1"])
def test_a_version_from_the_fix_on_is_not_affected(version):
    assert python(an_advisory("A", "0..2.6.0"), version) is False


@pytest.mark.parametrize("version", ["2.5.1", "2.1.0+cu121", "2.6.0rc1", "0.0.0.dev0", "0a0", "2.6.0.dev1"])
def test_a_version_before_the_fix_is_affected_whatever_it_was_built_for(version):
    assert python(an_advisory("A", "0..2.6.0"), version) is True


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.6.0", True), ("2.6.0+cu124", True), ("2.6.1", False), ("2.6.0.post1", False), ("0.dev0", True)],
)
def test_the_last_affected_version_is_affected_with_and_without_a_local_part(version, expected):
    assert python(an_advisory("A", "..=2.6.0+cu124"), version) is expected


@pytest.mark.parametrize(("version", "expected"), [("1.9", True), ("2.0.9", False), ("2.1", True), ("2.2", False)])
def test_of_several_ranges_each_counts(version, expected):
    assert python(an_advisory("A", "0..2.0", "2.1..2.2"), version) is expected


def test_a_version_may_be_spelt_otherwise_than_in_the_list():
    assert python(Advisory(id="A", ids=("A",), versions=("2022.12.07", "garbage")), "2022.12.7") is True
    assert python(Advisory(id="A", ids=("A",), versions=("2022.12.07", "garbage")), "2022.12.8") is False


def test_where_a_bound_was_not_understood_nobody_knows_what_nothing_else_decides():
    advisory = an_advisory("A", "0..1.5", unclear="2.6.0-NA is no version")
    assert (python(advisory, "1.4"), python(advisory, "2.5")) == (True, None)


def test_a_bound_that_is_no_version_is_not_understood_either():
    assert python(an_advisory("A", "0..=2.6.0-NA"), "2.7.0") is None
    assert python(an_advisory("A", "0..=2.6.0-NA", "2.0..3.0"), "2.7.0") is True


@pytest.mark.parametrize("version", ["", "not a version", "1.0-weird", "1.0_1!"])
def test_what_is_no_version_is_an_error_and_not_unaffected(version):
    with pytest.raises(NotOrderedError, match="not a version of PEP 440"):
        python(an_advisory("A", "0..2"), version)


def test_where_all_versions_are_affected_it_does_not_matter_what_the_version_is():
    assert python(an_advisory("MAL-1", "0.."), "not a version") is True


def test_debian_versions_are_ordered_as_dpkg_does():
    advisory = an_advisory("A", "0..3.0.11-1~deb12u2")
    assert is_affected("Debian:12", advisory, "3.0.11-1~deb12u1") is True
    assert is_affected("Debian:12", advisory, "3.0.11-1~deb12u2") is False
    assert is_affected("Debian:12", advisory, "3.0.11-1~deb12u2+b1") is False
    assert is_affected("Debian:12", advisory, "1:1.0-1") is False


def test_a_build_of_extended_support_that_has_the_fix_is_not_affected():
    advisory = an_advisory("A", "0..2.34-0.1ubuntu9.1+esm1", fix_needs="Ubuntu Pro")
    assert is_affected("Ubuntu:22.04:LTS", advisory, "2.34-0.1ubuntu9.1") is True
    assert is_affected("Ubuntu:22.04:LTS", advisory, "2.34-0.1ubuntu9.1+esm1") is False


@pytest.mark.parametrize("ecosystem", ["Rocky Linux:9", "AlmaLinux:8"])
def test_rpm_versions_are_ordered_as_rpm_does(ecosystem):
    advisory = an_advisory("A", "0..1:3.0.7-27.el9")
    assert is_affected(ecosystem, advisory, "1:3.0.7-6.el9_2") is True
    assert is_affected(ecosystem, advisory, "1:3.0.7-27.el9_3") is False
    assert is_affected(ecosystem, advisory, "3.0.8-1.el9") is True


def test_nvidia_versions_are_numbers():
    assert order("NVIDIA", "535.309.01") < order("NVIDIA", "580.65.06")
    assert order("NVIDIA", "580.95.05") < order("NVIDIA", "580.159.03")
    with pytest.raises(NotOrderedError):
        order("NVIDIA", "580.x")


def test_an_ecosystem_of_unknown_order_is_an_error():
    with pytest.raises(NotOrderedError, match="CRAN"):
        order("CRAN", "1.0")


def test_the_nearest_fix_comes_first_and_one_that_is_affected_again_does_not_count():
    advisory = an_advisory("A", "0..1.26.18", "2.0.0..2.0.7", "2.0.6..2.0.6.1")
    assert nearest_fix("PyPI", advisory, "1.26.5") == "1.26.18"
    assert nearest_fix("PyPI", advisory, "2.0.1") == "2.0.7"
    assert nearest_fix("PyPI", an_advisory("A", "1.0..2.0", "2.0..2.5"), "1.1") == "2.5"


def test_a_fix_that_nobody_can_compare_is_none():
    assert nearest_fix("PyPI", an_advisory("A", "0..1.0-NA", "0..=2.0"), "0.5") == ""


def test_after_the_last_affected_version_comes_one_without_the_flaw():
    assert last_affected("PyPI", an_advisory("A", "0..=2.6.0"), "2.1.0+cu121") == "2.6.0"
    assert last_affected("PyPI", an_advisory("A", "..=1.5", "2.0..=2.6"), "2.3") == "2.6"
    assert last_affected("PyPI", an_advisory("A", "0..=2.5", "0..=2.7"), "2.3") == "2.7"


def test_no_end_is_known_where_none_is_named_or_a_later_range_begins():
    assert last_affected("PyPI", an_advisory("A", "0.."), "2.1") == ""
    assert last_affected("PyPI", an_advisory("A", "0..=1.5", "2.0..=2.6"), "1.3") == ""
    assert last_affected("PyPI", an_advisory("A", "0..=1.5", unclear="?"), "1.3") == ""


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.1.0", True), ("2.1.0.post1", True), ("2.2.0a0+git1", False), ("2.1.0+local", False)]
    + [(version, False) for version in ("0.0.0", "0", "1.0.dev5", "1.0rc1", "", "unknown")],
)
def test_a_release_is_told_from_what_a_build_calls_itself(version, expected):
    assert is_release(version) is expected


def test_the_major_version_is_the_first_number_after_the_epoch():
    assert same_major("PyPI", "2.1.0+cu121", "2.6")
    assert not same_major("PyPI", "1.26", "2.0")
    assert not same_major("PyPI", "1!2.0", "2.1")


@settings(max_examples=200)
@given(python_versions, python_versions)
def test_python_versions_are_ordered_as_packaging_does_apart_from_the_local_part(one, other):
    first, second = (Version(Version(each).public) for each in (one, other))
    assert (order("PyPI", one) < order("PyPI", other)) == (first < second)
    assert (order("PyPI", one) == order("PyPI", other)) == (first == second)


@settings(max_examples=200)
@given(python_versions, st.lists(st.tuples(python_versions, python_versions), max_size=3))
def test_a_fixed_version_is_later_and_not_affected(version, spans):
    advisory = an_advisory("A", *(f"{introduced}..{fixed}" for introduced, fixed in spans))
    fixed = nearest_fix("PyPI", advisory, version)
    if fixed:
        assert order("PyPI", fixed) > order("PyPI", version)
        assert python(advisory, fixed) is False


@pytest.mark.parametrize("ecosystem", ["PyPI", "Debian:12", "NVIDIA", ""])
@settings(max_examples=100)
@given(bound=st.text(max_size=30), version=st.text(max_size=30))
def test_any_text_is_compared_or_said_not_to_be(ecosystem, bound, version):
    with contextlib.suppress(NotOrderedError):
        assert is_affected(ecosystem, an_advisory("A", f"1..={bound}"), version) in {True, False, None}
