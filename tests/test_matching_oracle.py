"""The matcher and its database against what others say: every record about Python packages, over real versions.

Two oracles that share no code with ours: the versions that a record lists one by one beside its ranges, and the ranges
as the schema evaluates them, over the versions of univers.
"""

from __future__ import annotations

import bisect
import collections
import functools
from typing import NamedTuple

import pytest
from packaging.version import InvalidVersion, Version

from agent.advisories import database
from agent.advisories.matching import match
from agent.advisories.versions import is_affected
from agent.config import Config
from agent.facts.python import python_environments
from agent.inventory import prefix
from agent.inventory import python_environments as components
from agent.model import Unknown
from tests.fakes.advisories import records, shipped
from tests.fakes.trees import plant

native = pytest.importorskip("univers.versions")

DROPPED = {"PYSEC-2026-57"}
"""It is about a program of the same name that is none of Python's: agent/knowledge/advisory_repairs.toml."""
LISTED_BESIDES = {"PYSEC-2023-61", "PYSEC-2026-686"}
"""Where there are ranges they count. The first lists pre-releases of Django that come before its ranges. Of the second
the bounds are Debian's (`7.2.0-12.1`) and are repaired; it lists all versions after them, which have the fix."""
SEVERAL_ENDS = {"PYSEC-2009-17", "PYSEC-2024-300", "PYSEC-2024-311"}
"""One beginning and many last affected versions, which are all affected: the evaluation would stop at the first."""


@functools.cache
def parsed(version):
    try:
        return Version(version)
    except InvalidVersion:
        return None


def statements():
    """Every record with each package that it gives ranges for: these, and the versions listed with and without them."""
    for record in records():
        about = collections.defaultdict(list)
        for affected in record["affected"] if record["id"] not in DROPPED else ():
            about[affected["package"]["name"]].append(affected)
        for name, said in about.items():
            ranges = [each for affected in said for each in affected.get("ranges", ())]
            of_versions = [each["events"] for each in ranges if each["type"] == "ECOSYSTEM"]
            alone = [each for affected in said if "ranges" not in affected for each in affected.get("versions", ())]
            listed = [each for affected in said for each in affected.get("versions", ())]
            if of_versions:
                yield record["id"], Statement(name=name, ranges=of_versions, listed=listed, alone=alone)


class Statement(NamedTuple):
    name: str
    ranges: list[list[dict[str, str]]]
    listed: list[str]
    alone: list[str]


@functools.cache
def real_versions():
    """All versions of each package that any record lists, in order; those that pip would refuse are left out."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for record in records():
        for affected in record["affected"]:
            found[affected["package"]["name"]] |= {each for each in affected.get("versions", ()) if parsed(each)}
    return {name: sorted(versions, key=parsed) for name, versions in found.items()}


def telling(said):
    """The versions around each bound, where a comparison goes wrong if it does, and the ends."""
    versions = real_versions()[said.name]
    keys = [parsed(each) for each in versions]
    places = {0, 1, len(versions) // 2, len(versions) - 2, len(versions) - 1}
    for bound in filter(None, map(parsed, bounds(said))):
        at = bisect.bisect_left(keys, bound)
        places |= {at - 1, at, at + 1}
    return [versions[each] for each in sorted(places) if 0 <= each < len(versions)]


def bounds(said):
    return [bound for events in said.ranges for event in events for bound in event.values()]


def test_the_records_are_enough_to_tell():
    assert len(list(statements())) > 6000
    assert len({(name, each) for name, versions in real_versions().items() for each in versions}) > 200


def some(versions):
    """Twenty-five or so of many."""
    return [each for each in versions[:: max(1, len(versions) // 25)] if parsed(each)]


def test_every_version_that_a_record_lists_is_affected():
    missed = {
        record
        for record, said in statements()
        for version in some(said.listed)
        if is_affected("PyPI", shipped()[said.name][record], version) is not True
    }
    assert missed == LISTED_BESIDES


@functools.cache
def of(version):
    try:
        return native.PypiVersion(version)
    except native.InvalidVersion:
        return None


def contains(said, version):
    """The evaluation of the schema, word by word, over univers' versions.

    https://ossf.github.io/osv-schema/#evaluation
    """
    return version in said.alone or any(is_in(events, of(version)) for events in said.ranges)


def is_in(events, version):
    vulnerable = False
    read = [(kind, of(bound)) for event in events for kind, bound in event.items()]
    for kind, bound in sorted(read, key=lambda each: each[1]):
        if kind == "introduced" and (version >= bound or bound == of("0")):
            vulnerable = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            vulnerable = False
    return vulnerable


def is_readable(said):
    return all(map(of, bounds(said)))


def test_univers_and_the_schemas_evaluation_say_the_same_of_every_record():
    compared, different = 0, set()
    for record, said in statements():
        advisory = shipped()[said.name][record]
        for version in telling(said) if is_readable(said) else ():
            compared += 1
            if is_affected("PyPI", advisory, version) is not contains(said, version):
                different.add(record)
    assert compared > 50_000
    assert different == SEVERAL_ENDS


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


def found_in(tmp_path, planted):
    """The ids of the flaws that are found, by package and environment."""
    files = {path: content for prefix, packages in planted.items() for path, content in tree(prefix, packages).items()}
    seen = python_environments(plant(tmp_path, files), Config())
    with database.opened(None) as advisories:
        matched = match(components(seen, Unknown(reason="none"), Unknown(reason="none")), advisories)
    found: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for each in matched.vulnerabilities:
        for at in each.affected:
            found[prefix(at.component.place), each.name] |= set(each.advisory.ids)
    return found


def test_planted_packages_are_found_with_all_their_flaws_and_nothing_else_is(tmp_path):
    fixed = dict.fromkeys(PLANTED, LATER) | {"not-known-to-anybody": "1.0"}
    planted = {"/opt/old": PLANTED, "/opt/new": fixed}
    found = found_in(tmp_path, planted)
    assert all(found["/opt/old", name] for name in PLANTED)
    assert all(alias in found["/opt/old", name] for name, alias in WELL_KNOWN.items())
    for record, said in statements():
        for where, packages in planted.items() if is_readable(said) else ():
            if said.name in packages:
                expected = contains(said, packages[said.name].partition("+")[0])
                assert (record in found[where, said.name]) is expected, (where, said.name, record)


def test_what_only_the_repaired_bounds_tell_is_found_and_later_versions_are_without_it(tmp_path):
    found = found_in(tmp_path, {"/opt/old": {"torch": "2.6.0"}, "/opt/new": {"torch": "2.8.0"}})
    repaired = "PYSEC-2025-192"  # its bound is written 2.6.0-NA
    assert repaired in found["/opt/old", "torch"]
    assert repaired not in found["/opt/new", "torch"]
