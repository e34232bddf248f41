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

from agent.advisories.versions import is_affected
from tests.fakes.advisories import of_record, records

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
    found = collections.defaultdict(set)
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


def test_every_version_that_a_record_lists_is_affected():
    wrong = []
    for record, affected in statements():
        advisory = of_record(record, affected)
        for version in affected.get("versions", ())[:: max(1, len(affected.get("versions", ())) // 25)]:
            if parsed(version) and is_affected("PyPI", advisory, version) is not True:
                wrong.append((record["id"], version))
    assert {identity for identity, _ in wrong} <= NOT_UNDERSTOOD | LISTED_BESIDES


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
    ranges = [each["events"] for each in affected["ranges"] if each["type"] == "ECOSYSTEM"]
    return any(vulnerable_in(events, of(version)) for events in ranges)


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
    return all(of(bound) for each in affected["ranges"] for event in each["events"] for bound in event.values())


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


def test_where_a_bound_is_no_version_a_version_is_never_called_unaffected_for_that():
    unreadable = [(record, affected) for record, affected in statements() if not is_readable(affected)]
    assert {record["id"] for record, _ in unreadable} >= NOT_UNDERSTOOD
    for record, affected in unreadable:
        advisory = of_record(record, affected)
        assert is_affected("PyPI", advisory, "99999") is not False
