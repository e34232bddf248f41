"""Which advisories apply where, and what fixes each place: the rules, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advisories.advisory import Advisory
from agent.advisories.fixing import advice
from agent.advisories.matching import Status, match
from agent.inventory import DISTRIBUTOR, Component
from tests.fakes.advisories import an_advisory, known

TORCH = an_advisory("CVE-2025-32434", "0..2.6.0")


def a_package(name="torch", version="2.1.0", prefix="/opt/venv", **more):
    fields = {"kind": "venv", "interpreter": f"{prefix}/bin/python3.11", **more}
    return Component(
        ecosystem="PyPI", name=name, version=version, place=f"{prefix}/lib/python3.11/site-packages", **fields
    )


def a_deb(name="libssl3", version="3.0.11-1", **more):
    fields = {"source": "openssl", "source_version": version, "architecture": "amd64", **more}
    return Component(ecosystem="Debian:12", name=name, version=version, place="deb", kind="deb", **fields)


def found(components, about, *others):
    return match(components, known(about, *others))


def places(matched):
    return {each.subject: [one.component.key for one in each.matches] for each in matched.vulnerabilities}


def test_what_no_advisory_is_about_has_no_flaw_and_was_compared():
    matched = found([a_package("numpy")], {("PyPI", "torch"): [TORCH]})
    assert (matched.vulnerabilities, matched.coverage.compared) == ((), 1)


def test_a_fixed_version_has_no_flaw():
    assert found([a_package(version="2.6.0+cu124")], {("PyPI", "torch"): [TORCH]}).vulnerabilities == ()


def test_one_flaw_in_one_package_is_one_thing_in_all_its_places():
    matched = found([a_package(), a_package(prefix="/srv/a", version="2.2.0")], {("PyPI", "torch"): [TORCH]})
    (only,) = matched.vulnerabilities
    assert (only.subject, [each.version for each in only.affected]) == ("pypi:torch#CVE-2025-32434", ["2.1.0", "2.2.0"])


def test_the_nearest_fix_is_that_of_the_same_major_version_where_there_is_one():
    about = {("PyPI", "urllib3"): [an_advisory("CVE-1", "2.0.0..2.0.7", "0..1.26.18")]}
    (one,) = found([a_package("urllib3", "1.26.5")], about).vulnerabilities[0].matches
    assert (one.fixed, one.fixed_in_major) == ("1.26.18", "1.26.18")
    about = {("PyPI", "aiohttp"): [an_advisory("CVE-1", "0..3.9.0")]}
    (one,) = found([a_package("aiohttp", "2.1")], about).vulnerabilities[0].matches
    assert (one.fixed, one.fixed_in_major) == ("3.9.0", "")


def test_tensorflows_three_names_are_three_packages():
    names = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu")
    about = {("PyPI", name): [an_advisory("CVE-1", "0..2.11.1")] for name in names}
    assert places(found([a_package("tensorflow-cpu", "2.8.0")], about)) == {
        "pypi:tensorflow-cpu#CVE-1": ["/opt/venv/lib/python3.11/site-packages#tensorflow-cpu"]
    }


def test_what_the_distributor_brought_is_counted_and_not_compared():
    matched = found([a_package(left_out=DISTRIBUTOR)], {("PyPI", "torch"): [TORCH]})
    assert (matched.vulnerabilities, matched.coverage.left_out) == ((), {DISTRIBUTOR: 1})


def test_a_copy_inside_another_package_is_told_apart():
    matched = found([a_package(inside="ray")], {("PyPI", "torch"): [TORCH]})
    assert (matched.vulnerabilities, [each.component.inside for each in matched.inside]) == ((), ["ray"])


def test_a_malicious_copy_is_not_told_apart():
    bad = an_advisory("MAL-1", "0..", malicious=True)
    assert len(found([a_package(inside="ray")], {("PyPI", "torch"): [bad]}).vulnerabilities) == 1


@pytest.mark.parametrize("built", ["editable", "vcs", "local"])
def test_a_release_built_from_sources_has_that_releases_flaws(built):
    assert places(found([a_package(built=built)], {("PyPI", "torch"): [TORCH]})) != {}


@pytest.mark.parametrize("version", ["2.1.0a0+git5a2", "2.7.0.dev1", "0.0.0", "9.0+mine"])
def test_of_what_else_was_built_from_sources_nobody_knows(version):
    matched = found([a_package(version=version, built="editable")], {("PyPI", "torch"): [TORCH]})
    assert matched.vulnerabilities == ()
    (undecided,) = matched.coverage.undecided
    assert "built from sources (editable)" in undecided.reason


def test_of_an_own_package_that_no_advisory_is_about_there_is_nothing_to_say():
    assert found([a_package("mine", built="editable", version="0.0.0")], {}, "PyPI").coverage.undecided == ()


@pytest.mark.parametrize("version", ["", "2.1-weird_1", "unknown"])
def test_a_version_that_cannot_be_compared_is_said(version):
    matched = found([a_package(version=version)], {("PyPI", "torch"): [TORCH, an_advisory("CVE-2", "1..2")]})
    (undecided,) = matched.coverage.undecided
    assert undecided.component.name == "torch"
    assert "not a version of PEP 440" in undecided.reason


def test_a_bound_that_nobody_understands_makes_a_match_unknown():
    advisory = an_advisory("CVE-1", unclear="2.6.0-NA is no version")
    (only,) = found([a_package()], {("PyPI", "torch"): [advisory]}).vulnerabilities
    assert (only.affected, [each.doubt for each in only.unknown]) == ((), ["2.6.0-NA is no version"])


def test_of_two_rows_of_one_flaw_the_certain_one_counts():
    unclear = an_advisory("CVE-2025-32434", unclear="?")
    for rows in itertools.permutations([unclear, TORCH]):
        (only,) = found([a_package()], {("PyPI", "torch"): rows}).vulnerabilities
        assert [each.status for each in only.matches] == [Status.AFFECTED]


def test_an_ecosystem_without_a_shard_is_counted_and_not_clean():
    matched = found([a_deb(), a_package()], {("PyPI", "numpy"): []})
    assert (matched.coverage.without_shard, matched.coverage.compared) == ({"Debian:12": 1}, 1)


def test_two_metadata_of_one_package_in_one_environment_are_both_compared():
    matched = found([a_package(), a_package(version="2.6.0"), a_package(version="2.2.0")], {("PyPI", "torch"): [TORCH]})
    assert [each.version for each in matched.vulnerabilities[0].matches] == ["2.1.0", "2.2.0"]


def test_a_deb_is_compared_as_its_source_and_all_its_debs_are_one_thing():
    about = {("Debian:12", "openssl"): [an_advisory("CVE-1", "0..3.0.11-1~deb12u2")]}
    rebuilt = a_deb("openssl", "3.0.11-1~deb12u1+b1", source_version="3.0.11-1~deb12u1")
    fixed = a_deb("libssl3", "3.0.11-1~deb12u2", architecture="i386")
    matched = found([a_deb(version="3.0.11-1~deb12u1"), rebuilt, fixed], about)
    assert places(matched) == {"deb:openssl#CVE-1": ["deb:libssl3:amd64", "deb:openssl:amd64"]}


def test_the_sources_version_counts_and_not_that_of_the_deb():
    about = {("Debian:12", "gcc-defaults"): [an_advisory("CVE-1", "0..1.200")]}
    deb = a_deb("gcc", "4:12.2.0-3", source="gcc-defaults", source_version="1.203")
    assert found([deb], about).vulnerabilities == ()


def test_a_fix_that_needs_a_subscription_is_said_and_is_no_missing_update():
    about = {("Debian:12", "openssl"): [an_advisory("CVE-1", "0..9", fix_needs="Ubuntu Pro")]}
    (one,) = found([a_deb()], about).vulnerabilities[0].matches
    assert not one.is_fixable
    assert one.fix == "With Ubuntu Pro: sudo apt-get install --only-upgrade libssl3"


def an_rpm(name="nodejs-libs", version="1:18.0-1.el9", **more):
    fields = {"source": "nodejs", "source_version": version, "architecture": "x86_64", **more}
    return Component(ecosystem="Rocky Linux:9", name=name, version=version, place="rpm", kind="rpm", **fields)


@pytest.mark.parametrize("name", ["nodejs", "nodejs-libs"])
def test_an_rpm_is_compared_by_its_own_name_and_by_its_sources(name):
    about = {("Rocky Linux:9", name): [an_advisory("CVE-1", "0..1:18.0-2.el9")]}
    assert places(found([an_rpm()], about)) == {f"rpm:{name}#CVE-1": ["rpm:nodejs-libs:x86_64"]}
    assert places(found([an_rpm(version="1:18.0-2.el9")], about)) == {}


def test_an_rpm_known_by_both_names_has_the_flaw_once():
    about = {("Rocky Linux:9", name): [an_advisory("CVE-1", "0..9:0")] for name in ("nodejs", "nodejs-libs")}
    assert places(found([an_rpm()], about)) == {"rpm:nodejs-libs#CVE-1": ["rpm:nodejs-libs:x86_64"]}


@pytest.mark.parametrize(
    ("version", "module", "advised", "expected"),
    [
        ("1.0-1.module+el9", "nodejs:18", "nodejs:18", Status.AFFECTED),
        ("1.0-1.module+el9", "nodejs:18", "nodejs:20", None),
        ("1.0-1.module+el9", "nodejs:18", "", Status.UNKNOWN),
        ("1.0-1.module+el9", "", "nodejs:18", Status.UNKNOWN),
        ("1.0-1.el9", "", "nodejs:18", None),
        ("1.0-1.el9", "", "", Status.AFFECTED),
    ],
)
def test_a_module_is_compared_within_its_stream_alone(version, module, advised, expected):
    about = {("Rocky Linux:9", "nodejs"): [an_advisory("CVE-1", "0..2.0", module=advised)]}
    matched = found([an_rpm("nodejs", version, module=module)], about)
    assert [one.status for each in matched.vulnerabilities for one in each.matches] == ([expected] if expected else [])


FIXES = [
    (a_package(), "/opt/venv/bin/python3.11 -m pip install 'torch>=2.6.0'"),
    (a_package(prefix="/home/a b"), "'/home/a b/bin/python3.11' -m pip install 'torch>=2.6.0'"),
    (a_package(installer="uv"), "uv pip install --python /opt/venv/bin/python3.11 'torch>=2.6.0'"),
    (a_package(kind="uv-tool", prefix="/root/.local/share/uv/tools/vllm"), "uv tool upgrade vllm"),
    (a_package(kind="pipx", prefix="/root/.local/pipx/venvs/torch"), "pipx upgrade torch"),
    (a_package(kind="pipx", prefix="/root/.local/pipx/venvs/vllm"), "pipx runpip vllm install 'torch>=2.6.0'"),
    (
        a_package(kind="user", interpreter="", prefix="/home/a/.local"),
        "python3.11 -m pip install --user 'torch>=2.6.0'",
    ),
    (
        a_package(interpreter=""),
        "Install 'torch>=2.6.0' into /opt/venv/lib/python3.11/site-packages.",
    ),
    (
        a_package(kind="conda", prefix="/opt/conda", owner="conda:pytorch"),
        "conda install -p /opt/conda 'pytorch>=2.6.0'",
    ),
    (
        a_package(kind="conda", prefix="/opt/conda", owner="conda:"),
        "Update the conda package that brings torch in /opt/conda to one with torch>=2.6.0.",
    ),
    (
        a_package(kind="conda", prefix="/opt/conda", installer="pip"),
        "/opt/conda/bin/python3.11 -m pip install 'torch>=2.6.0'",
    ),
    (a_package(owner="deb:google-cloud-cli:amd64"), "sudo apt-get install --only-upgrade google-cloud-cli"),
    (a_package(owner="rpm:ray:x86_64"), "sudo dnf upgrade ray"),
    (a_package(inside="pip"), "/opt/venv/bin/python3.11 -m pip install --upgrade pip"),
    (a_package(inside="ray", kind="conda"), "Update ray, which carries this copy for itself."),
    (a_deb(), "sudo apt-get install --only-upgrade libssl3"),
    (
        a_deb("linux-image-6.1.0-28-cloud-amd64"),
        "sudo apt-get update && sudo apt-get full-upgrade, then reboot when no job runs",
    ),
]


@pytest.mark.parametrize(("component", "expected"), FIXES)
def test_the_fix_is_the_command_for_that_very_place(component, expected):
    assert advice(component, fixed="2.6.0") == expected


def test_a_container_is_not_mended_but_built_anew():
    inside = Component(ecosystem="PyPI", name="torch", version="2.1.0", place="container:app:1:/opt/venv", kind="venv")
    assert advice(inside, fixed="2.6.0").startswith("Build the image anew with torch>=2.6.0")


def test_where_the_last_affected_version_alone_is_known_the_next_is_asked_for():
    (one,) = found([a_package()], {("PyPI", "torch"): [an_advisory("CVE-1", "0..=2.6.0")]}).vulnerabilities[0].matches
    assert (one.is_fixable, one.fix) == (True, "/opt/venv/bin/python3.11 -m pip install 'torch>2.6.0'")


def test_where_no_fix_is_known_it_says_so():
    (one,) = found([a_package()], {("PyPI", "torch"): [an_advisory("CVE-1", "0..")]}).vulnerabilities[0].matches
    assert not one.is_fixable
    assert one.fix.startswith("No fixed version is known")
    assert advice(a_deb()).startswith("Debian:12 has no fixed version yet")


def test_a_name_cannot_become_a_second_command():
    component = a_package(prefix="/home/x; rm -rf ~", name="a;b")
    assert advice(component, fixed="1") == "'/home/x; rm -rf ~/bin/python3.11' -m pip install 'a;b>=1'"


names = st.sampled_from(["torch", "vllm", "ray"])
numbers = st.sampled_from(["1.0", "2.0rc1", "2.0", "2.5+cpu", "3", "weird version", ""])
components = st.builds(
    a_package, name=names, version=numbers, prefix=st.sampled_from(["/a", "/b"]), inside=st.sampled_from(["", "pip"])
)
advisories = st.builds(
    lambda name, low, high, unclear: an_advisory(name, f"{low}..{high}", unclear=unclear),
    st.sampled_from(["CVE-1", "CVE-2"]),
    numbers,
    numbers,
    st.sampled_from(["", "?"]),
)


@settings(max_examples=100)
@given(st.lists(components, max_size=6), st.dictionaries(names, st.lists(advisories, max_size=3)))
def test_every_component_is_accounted_for_and_the_order_does_not_matter(installed, about):
    rows: dict[tuple[str, str], list[Advisory]] = {("PyPI", name): each for name, each in about.items()}
    matched = found(installed, rows, "PyPI")
    assert matched.coverage.compared == len(installed)
    subjects = [each.subject for each in matched.vulnerabilities]
    assert subjects == sorted(set(subjects))
    again = found(reversed(installed), rows, "PyPI")
    assert places(again) == places(matched)
