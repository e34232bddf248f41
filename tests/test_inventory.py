"""From what was seen to components in the words of advisories."""

from __future__ import annotations

import msgspec
import pytest

from agent.facts.conda import CondaEnvironment, CondaPackage, CondaPackages
from agent.facts.containers import Container, Containers
from agent.facts.nvidia_software import NvidiaComponent, NvidiaSoftware
from agent.facts.packages import Package, Packages
from agent.facts.python import PythonEnvironments
from agent.facts.rpm import RpmPackage, RpmPackages
from agent.facts.snaps import Snap, Snaps
from agent.inventory import (
    DISTRIBUTOR,
    NO_KERNEL,
    OWNER_UNKNOWN,
    SUPERSEDED,
    THIRD_PARTY,
    everything,
    packages,
    python_environments,
    rpm_packages,
)
from agent.model import Unknown
from tests.fakes.software import a_distribution, an_environment

NOT_LOOKED = Unknown(reason="it was not looked at")


def a_deb(name, version="1.0-1", **more):
    fields = {"architecture": "amd64", "source": name, "source_version": version, "state": "installed", **more}
    return Package(name=name, version=version, **fields)


def an_rpm(name, version="1.0", **more):
    fields = {"epoch": 0, "release": "1.el9", "architecture": "x86_64", "source": name, **more}
    return RpmPackage(name=name, version=version, **fields)


def pythons(*environments, debs=NOT_LOOKED, conda=NOT_LOOKED):
    return list(python_environments(PythonEnvironments(environments=environments), debs, conda))


def test_a_distribution_is_known_by_its_normalised_name_and_its_environment():
    (component,) = pythons(an_environment("/opt/venv", a_distribution("Jupyter_Server", "2.7.0", installer="pip")))
    assert (component.ecosystem, component.name, component.version) == ("PyPI", "jupyter-server", "2.7.0")
    assert component.key == "/opt/venv/lib/python3.11/site-packages#jupyter-server"
    assert (component.interpreter, component.left_out) == ("/opt/venv/bin/python3.11", "")


@pytest.mark.parametrize("vendor", ["Debian", "Ubuntu", "UbuntuESM"])
def test_what_the_distributor_brought_is_left_to_its_advisories_and_stays_in_the_inventory(vendor):
    debs = Packages(packages=(a_deb("python3-yaml", architecture="all", vendor=vendor),))
    (component,) = pythons(an_environment("/usr", a_distribution("PyYAML", owner="deb:python3-yaml:all")), debs=debs)
    assert component.left_out == DISTRIBUTOR


@pytest.mark.parametrize("vendor", ["Google", ""])
def test_what_another_maker_brought_is_compared_as_any_distribution(vendor):
    debs = Packages(packages=(a_deb("google-cloud-cli", vendor=vendor),))
    owned = a_distribution("cryptography", owner="deb:google-cloud-cli:amd64")
    (component,) = pythons(an_environment("/usr", owned), debs=debs)
    assert (component.left_out, component.owner) == ("", "deb:google-cloud-cli:amd64")


def test_where_the_packages_were_not_looked_at_what_one_of_them_brought_is_not_judged():
    mine, theirs = pythons(an_environment("/usr", a_distribution("a"), a_distribution("b", owner="deb:python3-b:all")))
    assert (mine.left_out, theirs.left_out) == ("", OWNER_UNKNOWN)


def conda(*names):
    found = tuple(CondaPackage(name=name, version="2.1.0", build="0") for name in names)
    return CondaPackages(environments=(CondaEnvironment(prefix="/opt/conda", packages=found),))


@pytest.mark.parametrize(
    ("installer", "version", "names", "expected"),
    [
        ("conda", "2.1.0", ("pytorch",), "conda:pytorch"),
        ("conda", "2.1.0", ("py-torch",), "conda:py-torch"),
        ("conda", "2.1.0", ("other",), "conda:"),
        ("pip", "2.1.0", ("pytorch",), ""),
        ("", "2.1.0", ("pytorch",), "conda:pytorch"),
        ("", "2.2.0", ("pytorch",), ""),
    ],
)
def test_the_installer_and_condas_record_tell_who_brought_it(installer, version, names, expected):
    environment = an_environment("/opt/conda", a_distribution("torch", version, installer=installer), kind="conda")
    assert pythons(environment, conda=conda(*names))[0].owner == expected


def debs(*found, release="debian 12", kernel=""):
    return list(packages(Packages(packages=found), release, kernel))


def test_a_deb_is_known_by_its_source_and_the_sources_version():
    (component,) = debs(a_deb("libssl3", "3.0.11-1+b1", source="openssl", source_version="3.0.11-1", vendor="Debian"))
    assert (component.ecosystem, component.source, component.source_version) == ("Debian:12", "openssl", "3.0.11-1")
    assert (component.key, component.left_out) == ("deb:libssl3:amd64", "")


def test_a_deb_that_was_removed_is_not_there():
    assert debs(a_deb("gone", state="config-files")) == []


def test_a_deb_of_another_maker_is_not_compared_with_the_distributors_advisories():
    assert debs(a_deb("docker-ce", vendor="Docker"))[0].left_out == THIRD_PARTY


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("linux-image-6.1.0-28-cloud-amd64", "linux-signed-amd64", "linux"),
        ("linux-image-6.8.0-1020-gcp", "linux-signed-gcp", "linux-gcp"),
        ("linux-image-6.8.0-50-generic", "linux-signed", "linux"),
        ("linux-modules-6.8.0-1020-gcp", "linux-gcp", "linux-gcp"),
    ],
)
def test_a_signed_kernel_is_the_kernel_that_was_signed(name, source, expected):
    (component,) = debs(a_deb(name, "6.1.119-1", source=source, source_version="6.1.119+1"))
    assert (component.source, component.left_out) == (expected, "")
    assert component.source_version == ("6.1.119-1" if "signed" in source else "6.1.119+1")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("linux-libc-dev", "linux"),
        ("linux-headers-6.1.0-28-common", "linux"),
        ("linux-image-cloud-amd64", "linux-signed-amd64"),
        ("linux-gcp", "linux-meta-gcp"),
        ("linux-tools-common", "linux"),
    ],
)
def test_packages_around_a_kernel_hold_none_that_runs(name, source):
    assert debs(a_deb(name, source=source))[0].left_out == NO_KERNEL


@pytest.mark.parametrize("name", ["linux-base", "linux-firmware", "util-linux", "perl"])
def test_what_is_merely_called_alike_is_compared(name):
    assert debs(a_deb(name))[0].left_out == ""


def test_an_old_kernel_is_left_out_and_stays_in_the_inventory():
    old, new = a_deb("linux-image-6.1.0-1-amd64"), a_deb("linux-image-6.1.0-2-amd64")
    found = debs(old, new, kernel="6.1.0-2-amd64")
    assert [each.left_out for each in found] == [SUPERSEDED, ""]


def test_an_rpm_is_known_by_its_own_name_its_source_and_its_stream():
    fact = RpmPackages(packages=(an_rpm("nodejs-libs", source="nodejs", epoch=1, module="nodejs:18"),))
    (component,) = rpm_packages(fact, "rocky 9.4", "")
    assert (component.ecosystem, component.version, component.module) == ("Rocky Linux:9", "1:1.0-1.el9", "nodejs:18")
    assert (component.source, component.key) == ("nodejs", "rpm:nodejs-libs:x86_64")


def test_rpms_of_other_makers_old_kernels_and_what_holds_none_are_left_out():
    fact = RpmPackages(
        packages=(
            an_rpm("kernel-core", "5.14", vendor="Rocky Enterprise Software Foundation"),
            an_rpm("kernel-core", "5.15", vendor="Rocky Enterprise Software Foundation"),
            an_rpm("kernel-headers"),
            an_rpm("cuda-driver", vendor="NVIDIA"),
        )
    )
    found = rpm_packages(fact, "rocky 9.4", "5.15-1.el9.x86_64")
    assert [each.left_out for each in found] == [SUPERSEDED, "", NO_KERNEL, THIRD_PARTY]


def test_everything_is_there_once_for_each_fact_that_was_seen():
    deb = a_deb("python3-yaml", architecture="all", vendor="Debian")
    environment = an_environment("/usr", a_distribution("PyYAML", owner="deb:python3-yaml:all"))
    facts = [
        PythonEnvironments(environments=(environment,)),
        Packages(packages=(deb,)),
        RpmPackages(packages=(an_rpm("bash"),)),
        conda("pytorch"),
        Snaps(snaps=(Snap(name="lxd", version="5", revision="1"),)),
        Containers(containers=(a_container(),)),
        NvidiaSoftware(components=(NvidiaComponent(name="nccl", version="2.1", path="/usr/lib/libnccl.so.2"),)),
        Unknown(reason="one that could not be looked at"),
    ]
    assert [each.key for each in everything(facts, "debian 12", "")] == [
        "/usr/lib/python3.11/site-packages#pyyaml",
        "deb:python3-yaml:all",
        "rpm:bash:x86_64",
        "/opt/conda#pytorch",
        "snap:lxd",
        "container:app:1:deb:libssl3:amd64",
        "container:app:1:rpm:bash:x86_64",
        "container:app:1:/opt/venv/lib/python3.11/site-packages#torch",
        "/usr/lib/libnccl.so.2#nccl",
    ]
    assert next(everything(facts, "debian 12", "")).left_out == DISTRIBUTOR


def test_of_nothing_seen_there_is_nothing():
    assert list(everything([Unknown(reason="no")], "debian 12", "")) == []


def a_container():
    return Container(
        place="container:app:1",
        id="1",
        release="debian 11",
        debs=(a_deb("libssl3"),),
        rpms=(an_rpm("bash"),),
        environments=(an_environment("/opt/venv", a_distribution("torch")),),
    )


def test_a_containers_packages_are_those_of_its_own_distribution():
    found = list(everything([Containers(containers=(a_container(),))], "ubuntu 22.04", ""))
    assert [each.ecosystem for each in found] == ["Debian:11", "", "PyPI"]


def test_components_can_be_written_and_read_back():
    (component,) = pythons(an_environment("/opt/venv", a_distribution("torch")))
    assert msgspec.json.decode(msgspec.json.encode(component), type=type(component)) == component
