"""Bills of materials: package URLs as their library writes them, documents as their schemas want them."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from agent.formats import cyclonedx, spdx
from agent.formats.bill import Bill, entries
from agent.formats.purl import purl
from agent.inventory import Component
from agent.model import Unknown

CONDA = "/opt/conda/lib/python3.11/site-packages"
TORCH = Component(ecosystem="PyPI", name="torch", version="2.1.0+cu121", place=CONDA, kind="conda", installer="pip")
OPENSSL = Component(
    ecosystem="Debian:12",
    name="libssl3",
    version="3.0.15-1~deb12u1",
    place="deb",
    kind="deb",
    source="openssl",
    architecture="amd64",
)
BASH = Component(
    ecosystem="Rocky Linux:9", name="bash", version="1:5.1.8-9.el9", place="rpm", kind="rpm", architecture="x86_64"
)
DRIVER = Component(ecosystem="NVIDIA", name="driver", version="580.95.05", place="nvidia", kind="nvidia")
KINDS = {"PyPI": "venv", "conda": "conda", "Debian:12": "deb", "Ubuntu:24.04:LTS": "deb", "AlmaLinux:9": "rpm"}
COMPONENTS = st.builds(
    lambda ecosystem, **said: Component(ecosystem=ecosystem, kind=KINDS[ecosystem], **said),
    st.sampled_from(sorted(KINDS)),
    name=st.from_regex(r"\A[a-z0-9][a-z0-9+._-]{0,20}\Z"),
    version=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9.!+_~-]{0,20}\Z"),
    place=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1),
    architecture=st.sampled_from(["", "amd64", "all"]),
)


def bill(*components, unknowns=()):
    taken = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.timezone.utc)
    return Bill(agent_version="1.0", machine="gpu-1", taken=taken, components=components, unknowns=unknowns)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (TORCH, "pkg:pypi/torch@2.1.0%2Bcu121"),
        (OPENSSL, "pkg:deb/debian/libssl3@3.0.15-1~deb12u1?arch=amd64&distro=debian-12"),
        (BASH, "pkg:rpm/rocky/bash@5.1.8-9.el9?arch=x86_64&distro=rocky-linux-9&epoch=1"),
        (DRIVER, "pkg:generic/nvidia/driver@580.95.05"),
        (
            Component(ecosystem="Ubuntu:24.04:LTS", name="zlib1g", version="1:1.3", place="deb", kind="deb"),
            "pkg:deb/ubuntu/zlib1g@1:1.3?distro=ubuntu-24.04",
        ),
        (Component(ecosystem="conda", name="mkl", version="2024.0", place="/c", kind="conda"), "pkg:conda/mkl@2024.0"),
        (Component(ecosystem="snap", name="lxd", version="5", place="snap", kind="snap"), "pkg:generic/snap/lxd@5"),
        (Component(ecosystem="PyPI", name="broken", version="", place="/v", kind="venv"), "pkg:pypi/broken"),
    ],
)
def test_a_thing_has_the_name_that_other_tools_know(component, name):
    assert purl(component) == name


@given(COMPONENTS)
def test_a_package_url_says_what_the_library_reads_from_it(component):
    read = PackageURL.from_string(purl(component))
    assert (read.name, read.version) in {
        (component.name, component.version),
        (component.name.lower().replace("_", "-"), component.version),
    }


def test_one_thing_in_two_places_is_one_entry():
    other = Component(ecosystem="PyPI", name="torch", version="2.1.0+cu121", place="/srv/venv", kind="venv")
    (entry,) = entries([TORCH, other])
    assert [each.place for each in entry.instances] == [CONDA, "/srv/venv"]


def test_both_formats_hold_everything_once():
    document = cyclonedx.document(bill(TORCH, OPENSSL, DRIVER))
    listed = {
        package["externalRefs"][0]["referenceLocator"]
        for package in spdx.document(bill(TORCH, OPENSSL, DRIVER))["packages"]
    }
    assert {each["purl"] for each in document["components"]} == listed == {purl(c) for c in (TORCH, OPENSSL, DRIVER)}
    assert document["compositions"][0]["aggregate"] == "complete"


def test_what_was_not_looked_at_makes_a_bill_incomplete():
    gap = Unknown(reason="permission denied", scope="/home/ml")
    document = cyclonedx.document(bill(TORCH, unknowns=(gap,)))
    assert document["compositions"][0]["aggregate"] == "incomplete"
    assert "/home/ml: permission denied" in {each["value"] for each in document["properties"]}
    assert "/home/ml: permission denied" in spdx.document(bill(TORCH, unknowns=(gap,)))["creationInfo"]["comment"]


def test_the_same_machine_at_the_same_time_has_the_same_document():
    assert cyclonedx.document(bill(TORCH, OPENSSL)) == cyclonedx.document(bill(OPENSSL, TORCH))
    assert cyclonedx.document(bill(TORCH))["serialNumber"] != cyclonedx.document(bill(OPENSSL))["serialNumber"]
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", cyclonedx.document(bill())["serialNumber"])


def assert_valid(document):
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert problem is None, problem


def assert_valid_spdx(document):
    parsed = JsonLikeDictParser().parse(json.loads(json.dumps(document)))
    assert [message.validation_message for message in validate_full_spdx_document(parsed)] == []


@pytest.mark.parametrize("unknowns", [(), (Unknown(reason="dark", hint="Light it."),)])
@pytest.mark.parametrize("components", [(), (TORCH, OPENSSL, BASH, DRIVER)])
def test_documents_are_valid_by_the_published_schemas(components, unknowns):
    assert_valid(cyclonedx.document(bill(*components, unknowns=unknowns)))
    if components:
        assert_valid_spdx(spdx.document(bill(*components, unknowns=unknowns)))


@given(st.lists(COMPONENTS, min_size=1, max_size=8))
def test_whatever_is_installed_the_documents_are_valid(components):
    assert_valid(cyclonedx.document(bill(*components)))
    assert_valid_spdx(spdx.document(bill(*components)))
