"""From what records say to one advisory for every flaw in every package."""

from __future__ import annotations

import datetime as dt

import pytest

from agent import knowledge
from agent.advisories.advisory import Range
from agent.advisories.normalising import advisory, statements, summary
from agent.knowledge import AdvisoryRepairs
from agent.model import Severity
from tests.fakes.osv import a_record, read

REPAIRS = knowledge.load(AdvisoryRepairs)
ECOSYSTEMS = {"PyPI", "Debian:12", "Ubuntu:22.04:LTS", "AlmaLinux:9", "Rocky Linux:9"}
OPEN, FIXED = (("introduced", "0"),), (("introduced", "0"), ("fixed", "2"))
UBUNTU, PRO = "Ubuntu:22.04:LTS", "Ubuntu:Pro:22.04:LTS"


def said(*records):
    return [each for record in records for each in statements(read(record), ECOSYSTEMS, REPAIRS)]


def one(*records):
    return advisory("CVE-2026-1000", said(*records))


def test_a_withdrawn_record_says_nothing():
    assert said(a_record("PYSEC-1", "x", *FIXED, withdrawn="2026-11-01T00:00:00Z")) == []


@pytest.mark.parametrize("ecosystem", ["npm", "Debian:11", "Debian", "Ubuntu:22.04", "Ubuntu:Pro:FIPS:22.04:LTS"])
def test_other_ecosystems_are_passed_over(ecosystem):
    assert said(a_record("X-1", "x", *FIXED, ecosystem=ecosystem)) == []


def test_a_record_that_affects_no_version_says_nothing():
    assert said(a_record("DEBIAN-CVE-2026-1000", "x", ("introduced", "0"), ("fixed", "0"), ecosystem="Debian:12")) == []


def test_a_package_of_python_has_one_spelling():
    assert said(a_record("PYSEC-1", "Jupyter_Server", *FIXED))[0].name == "jupyter-server"
    assert said(a_record("DSA-1-1", "Foo_Bar", *FIXED, ecosystem="Debian:12"))[0].name == "Foo_Bar"


def test_two_records_about_one_flaw_become_one_advisory_with_the_versions_of_both():
    found = one(
        a_record(
            "PYSEC-1", "x", *FIXED, aliases=["CVE-2026-1000"], details="It leaks the names of all files to others."
        ),
        a_record(
            "GHSA-a",
            "x",
            ("introduced", "3"),
            ("fixed", "4"),
            summary="X leaks",
            database_specific={"severity": "HIGH"},
        ),
    )
    assert (found.id, found.ids) == ("CVE-2026-1000", ("CVE-2026-1000", "GHSA-a", "PYSEC-1"))
    assert found.ranges == (Range(fixed="2"), Range(introduced="3", fixed="4"))
    assert (found.summary, found.severity) == ("X leaks", Severity.HIGH)


def test_a_record_that_is_clear_decides_where_another_is_not():
    found = one(a_record("PYSEC-1", "x", ("introduced", "0"), ("fixed", "2024-09-25")), a_record("GHSA-a", "x", *FIXED))
    assert (found.ranges, found.unclear) == ((Range(fixed="2"),), "")


def test_a_record_that_nobody_understands_is_kept_as_unclear():
    found = one(a_record("PYSEC-1", "x", ("introduced", "0"), ("fixed", "2024-09-25")))
    assert found.ranges == ()
    assert "2024-09-25" in found.unclear


def test_the_word_of_the_publisher_counts_before_a_score():
    vector = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]
    rated = one(a_record("GHSA-a", "x", *FIXED, severity=vector, database_specific={"severity": "MODERATE"}))
    assert (rated.severity, rated.score) == (Severity.MEDIUM, 9.8)
    assert one(a_record("PYSEC-1", "x", *FIXED, severity=vector)).severity is Severity.CRITICAL


def test_what_nobody_rated_is_unrated():
    new = [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}]
    found = one(a_record("PYSEC-1", "x", *FIXED, severity=new))
    assert (found.severity, found.score) == (None, None)


def test_a_malicious_package_is_known_by_its_record_or_an_alias():
    assert one(a_record("MAL-2026-1", "x", versions=("1.0",))).malicious
    assert one(a_record("PYSEC-1", "x", aliases=["MAL-2026-1"], versions=("1.0",))).malicious
    assert not one(a_record("PYSEC-1", "x", *FIXED)).malicious


def test_a_bulletin_about_several_flaws_speaks_of_each():
    record = a_record("DSA-1-1", "x", *FIXED, ecosystem="Debian:12", upstream=["CVE-2026-1000", "CVE-2026-1001"])
    assert [each.flaw for each in said(record)] == ["CVE-2026-1000", "CVE-2026-1001"]
    assert said(record)[0].ids == ("CVE-2026-1000", "DSA-1-1")


def test_the_tracker_stands_over_the_bulletin():
    found = one(
        a_record(
            "DSA-1-1", "x", ("introduced", "0"), ("fixed", "9"), ecosystem="Debian:12", upstream=["CVE-2026-1000"]
        ),
        a_record(
            "DEBIAN-CVE-2026-1000", "x", *FIXED, ecosystem="Debian:12", specific={"urgency": "low**"}, details="A flaw."
        ),
    )
    assert found.ranges == (Range(fixed="2"),)
    assert "DSA-1-1" in found.ids
    assert found.severity is Severity.LOW


def ubuntu(*affected):
    return {
        "id": "UBUNTU-CVE-2026-1000",
        "modified": "2026-11-20T00:00:00Z",
        "severity": [{"type": "Ubuntu", "score": "negligible"}],
        "affected": [a_record("X", "x", *events, ecosystem=ecosystem)["affected"][0] for ecosystem, events in affected],
    }


def test_what_ubuntu_fixes_for_all_needs_nothing():
    found = one(ubuntu((UBUNTU, FIXED), (PRO, (("introduced", "0"), ("fixed", "3~esm1")))))
    assert (found.ranges, found.fix_needs) == ((Range(fixed="2"),), "")
    assert found.severity is Severity.INFO


def test_what_ubuntu_pro_alone_fixes_says_so():
    pro = (PRO, (("introduced", "0"), ("fixed", "2~esm1")))
    for record in (ubuntu(pro), ubuntu((UBUNTU, OPEN), pro)):
        found = one(record)
        assert (found.ranges, found.fix_needs) == ((Range(fixed="2~esm1"),), "Ubuntu Pro")


def test_what_nobody_fixes_needs_nothing_either():
    found = one(ubuntu((UBUNTU, OPEN), (PRO, OPEN)))
    assert (found.ranges, found.fix_needs) == ((Range(),), "")


def test_an_erratum_keeps_its_name_and_all_its_flaws():
    record = a_record(
        "ALSA-2026:1", "nodejs", *FIXED, ecosystem="AlmaLinux:9", related=["CVE-2026-1000", "CVE-2026-1001"],
        summary="Important: nodejs security update",
    )  # fmt: skip
    found = advisory("ALSA-2026:1", said(record))
    assert (found.id, found.severity, found.module) == ("ALSA-2026:1", Severity.HIGH, "")
    assert found.ids == ("CVE-2026-1000", "CVE-2026-1001", "ALSA-2026:1")


def modular(title, **specific):
    return one(
        a_record(
            "RLSA-2026:1", "nodejs", ("introduced", "0"), ("fixed", "1:18.1-1.module+el9.1.0+1"),
            ecosystem="Rocky Linux:9", summary=title, specific=specific,
        )
    )  # fmt: skip


def test_the_module_of_an_erratum_is_that_of_its_record_or_its_title():
    assert modular("Moderate: nodejs security update", module="nodejs:20").module == "nodejs:20"
    assert modular("Moderate: nodejs:18 security update").module == "nodejs:18"


def test_a_module_that_is_not_named_is_unclear():
    found = modular("Moderate: nodejs security update")
    assert (found.ranges, found.module) == ((), "")
    assert "module" in found.unclear


@pytest.mark.parametrize(
    ("title", "details", "shown"),
    [
        ("A title", "Details.", "A title"),
        ("", "Versions before 2 of the program let anybody read every file of the machine that it runs on. More.",
         "Versions before 2 of the program let anybody read every file of the machine that it runs on."),
        ("", "X is a library for numbers. In it anybody may read every file.", "In it anybody may read every file."),
        ("", "A flaw was found in X 1.0. It lets anybody in.", "A flaw was found in X 1.0. It lets anybody in."),
        ("", "two\nlines\x1b[31m and\ta\u202e tab", "two lines [31m and a tab"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_summary_is_one_short_printable_line(title, details, shown):
    assert summary(read(a_record("X-1", "x", summary=title, details=details))) == shown


def test_a_long_summary_is_cut_between_words():
    text = summary(read(a_record("X-1", "x", summary="word " * 100)))
    assert len(text) <= 160
    assert text.endswith("word…")


def test_a_summary_of_a_summary_is_itself():
    for details in ("a" * 300, "X is a thing. Y.", "It is. " * 50):
        once = summary(read(a_record("X-1", "x", details=details)))
        assert summary(read(a_record("X-1", "x", summary=once))) == once


def test_the_tables_are_dated():
    assert REPAIRS.updated >= dt.date(2026, 11, 24)
