"""The matcher against what others say: every published record about Python packages, over real versions.

Two oracles that share no code with ours: the versions that a record lists one by one beside its ranges, and the ranges
as the schema evaluates them, over the versions of univers.
"""

from __future__ import annotations

import bisect
import collections
import functools
import itertools

import pytest
from packaging.version import InvalidVersion, Version

from agent.advisories.matching import match
from agent.advisories.versions import is_affected
from agent.config import Config
from agent.facts.python import python_environments
from agent.inventory import python_environments as components
from agent.model import Unknown
from tests.fakes.advisories import known, of_record, records
from tests.fakes.trees import plant

native = pytest.importorskip("univers.versions")

if not records():
    pytest.skip("the published records are not here", allow_module_level=True)

NOT_UNDERSTOOD = {"PYSEC-2026-686"}
"""Its bounds are Debian's (`7.2.0-12.1`): nobody knows, which is what we say, although it lists versions besides."""
LISTED_BESIDES = {"PYSEC-2023-61"}
"""It lists pre-releases of Django 4.2 that its ranges, from 4.2 on, leave out: where there are ranges they count."""


@functools.cache
def parsed(version):
    try:
        return Version(version)
    except InvalidVersion:
        return None


def statements():
    """Every record with each package that it gives a range for."""
    for record in records():
        for affected in record["affected"]:
            if any(each["type"] == "ECOSYSTEM" for each in affected.get("ranges", ())):
                yield record, affected


@functools.cache
def real_versions():
    """All versions of each package that any record lists, in order; those that pip would refuse are left out."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for record in records():
        for affected in record["affected"]:
            found[affected["package"]["name"]] |= {each for each in affected.get("versions", ()) if parsed(each)}
    return {name: sorted(versions, key=parsed) for name, versions in found.items()}


def telling(affected):
    """The versions around each bound, where a comparison goes wrong if it does, and the ends."""
    versions = real_versions()[affected["package"]["name"]]
    keys = [parsed(each) for each in versions]
    places = {0, 1, len(versions) // 2, len(versions) - 2, len(versions) - 1}
    for event in itertools.chain.from_iterable(each["events"] for each in affected["ranges"]):
        bound = parsed(next(iter(event.values())))
        if bound:
            at = bisect.bisect_left(keys, bound)
            places |= {at - 1, at, at + 1}
    return [versions[each] for each in sorted(places) if 0 <= each < len(versions)]


def test_the_records_are_enough_to_tell():
    assert len(list(statements())) > 6000
    assert len({(name, each) for name, versions in real_versions().items() for each in versions}) > 200


def some(versions):
    """Twenty-five or so of many."""
    return [each for each in versions[:: max(1, len(versions) // 25)] if parsed(each)]


def test_every_version_that_a_record_lists_is_affected():
    missed = {
        record["id"]
        for record, affected in statements()
        for advisory in [of_record(record, affected)]
        for version in some(affected.get("versions", ()))
        if is_affected("PyPI", advisory, version) is not True
    }
    assert missed <= NOT_UNDERSTOOD | LISTED_BESIDES


@functools.cache
def of(version):
    try:
        return native.PypiVersion(version)
    except native.InvalidVersion:
        return None


def contains(affected, version):
    """The evaluation of the schema, word by word, over univers' versions; None where univers cannot read a bound.

    https://ossf.github.io/osv-schema/#evaluation
    """
    return any(vulnerable_in(events, of(version)) for events in of_ecosystem(affected))


def vulnerable_in(events, version):
    vulnerable = False
    read = [(kind, of(bound)) for event in events for kind, bound in event.items()]
    for kind, bound in sorted(read, key=lambda each: each[1]):
        if (kind == "introduced" and version >= bound) or (kind == "introduced" and bound == of("0")):
            vulnerable = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            vulnerable = False
    return vulnerable


def is_readable(affected):
    return all(of(bound) for events in of_ecosystem(affected) for event in events for bound in event.values())


def of_ecosystem(affected):
    """The events that speak of versions, and not of commits."""
    return [each["events"] for each in affected["ranges"] if each["type"] == "ECOSYSTEM"]


def test_univers_and_the_schemas_evaluation_say_the_same_of_every_record():
    compared, different = 0, []
    for record, affected in statements():
        if not is_readable(affected):
            continue
        advisory = of_record(record, affected)
        for version in telling(affected):
            compared += 1
            if is_affected("PyPI", advisory, version) is not contains(affected, version):
                different.append((record["id"], version))
    assert compared > 50_000
    assert different == []


PLANTED = {
    "torch": "2.1.0+cu121",
    "vllm": "0.6.0",
    "mlflow": "2.9.0",
    "jupyter-server": "2.7.0",
    "ray": "2.6.0",
    "aiohttp": "3.8.4",
    "gradio": "4.10.0",
    "pillow": "9.5.0",
}
WELL_KNOWN = {"torch": "CVE-2025-32434", "pillow": "CVE-2023-4863", "aiohttp": "CVE-2023-37276"}
LATER = "99.0"


def tree(prefix, packages):
    library = f"{prefix}/lib/python3.11/site-packages"
    files = {f"{prefix}/pyvenv.cfg": "home = /usr/bin\n", f"{prefix}/bin/python3.11": ""}
    for name, version in packages.items():
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n"
        files[f"{library}/{name.replace('-', '_')}-{version}.dist-info/METADATA"] = metadata
    return files


def live():
    """What is said of each package by the records that stand."""
    about = collections.defaultdict(list)
    for record, affected in statements():
        if "withdrawn" not in record:
            about[affected["package"]["name"]].append((record, affected))
    return about


def test_planted_packages_are_found_with_all_their_flaws_and_nothing_else_is(tmp_path):
    about = live()
    fixed = dict.fromkeys(PLANTED, LATER) | {"not-known-to-anybody": "1.0"}
    seen = python_environments(plant(tmp_path, tree("/opt/old", PLANTED) | tree("/opt/new", fixed)), Config())
    database = known({("PyPI", name): [of_record(*each) for each in said] for name, said in about.items()})
    matched = match(components(seen, Unknown(reason="none"), Unknown(reason="none")), database)
    found = {
        (each.name, each.advisory.id, at.component.place) for each in matched.vulnerabilities for at in each.affected
    }
    expected = {
        (name, record["id"], f"{prefix}/lib/python3.11/site-packages")
        for prefix, packages in (("/opt/old", PLANTED), ("/opt/new", fixed))
        for name, version in packages.items()
        for record, affected in about[name]
        if is_readable(affected) and contains(affected, version.partition("+")[0])
    }
    assert found == expected
    assert all(any(name == each for each, *_ in found) for name in PLANTED)
    named = {
        (name, alias)
        for name, said in about.items()
        for record, _ in said
        for alias in record.get("aliases", ())
        if (name, record["id"], "/opt/old/lib/python3.11/site-packages") in found
    }
    assert set(WELL_KNOWN.items()) <= named
