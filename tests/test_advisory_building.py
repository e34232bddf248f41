"""Making the database: what it comes to, and what makes it refuse."""

from __future__ import annotations

import contextlib
import datetime as dt

import pytest

from agent import knowledge
from agent.advisories.advisory import Advisories, Shard, Source
from agent.advisories.building import BuildError, Gates, Inputs, Ready, build, bulletins, of_nvidia
from agent.advisories.shards import OpenShard
from agent.knowledge import AdvisorySources, NvidiaBulletins
from agent.model import CannotLookError
from tests.fakes.osv import a_record, an_advisory, an_export

DATE = dt.date(2026, 11, 23)
BUILT = dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc)
UNKNOWN = Gates(known=False)
FIXED = (("introduced", "0"), ("fixed", "2"))


def made(tmp_path, *records, gates=UNKNOWN, names=(), **inputs):
    export = an_export(tmp_path / "all.jsonl", *records)
    return build(Inputs(records=(export,), **inputs), date=DATE, names=names, gates=gates)


@contextlib.contextmanager
def opened(tmp_path, built):
    path = tmp_path / f"{built.shard.name}.sqlite"
    path.write_bytes(built.content)
    with contextlib.closing(OpenShard(str(path))) as file:
        yield file


def test_records_become_a_shard_for_each_ecosystem_that_they_are_about(tmp_path):
    done = made(
        tmp_path,
        a_record("PYSEC-1", "x", *FIXED, aliases=["CVE-2026-1000"]),
        a_record("DEBIAN-CVE-2026-1000", "x", *FIXED, ecosystem="Debian:12", upstream=["CVE-2026-1000"]),
        a_record("PYSEC-2", "x", *FIXED, withdrawn="2026-01-01T00:00:00Z"),
        a_record("GHSA-npm", "left-pad", *FIXED, ecosystem="npm"),
    )
    assert [(each.shard.name, each.shard.records) for each in done.built] == [("pypi", 1), ("debian-12", 1)]
    assert (done.read, done.withdrawn) == (4, 1)
    with opened(tmp_path, done.built[0]) as file:
        (found,) = file.about("PyPI", "x")
        assert (found.id, found.ids) == ("CVE-2026-1000", ("CVE-2026-1000", "PYSEC-1"))
        assert file.shard == done.built[0].shard


def test_aliases_unite_records_that_do_not_know_each_other(tmp_path):
    done = made(
        tmp_path,
        a_record("PYSEC-1", "x", *FIXED, aliases=["GHSA-a"]),
        a_record("GHSA-a", "y", *FIXED, aliases=["CVE-2026-1000"]),
        a_record("GHSA-b", "x", *FIXED, aliases=["CVE-2026-1000"]),
    )
    with opened(tmp_path, done.built[0]) as file:
        (found,) = file.about("PyPI", "x")
        assert (found.id, found.ids) == ("CVE-2026-1000", ("CVE-2026-1000", "GHSA-a", "GHSA-b", "PYSEC-1"))


def test_a_withdrawn_record_unites_nothing(tmp_path):
    done = made(
        tmp_path,
        a_record("PYSEC-1", "x", *FIXED, aliases=["CVE-2026-1000"]),
        a_record("PYSEC-2", "x", *FIXED, aliases=["CVE-2026-1001"]),
        a_record("PYSEC-3", "x", *FIXED, aliases=["CVE-2026-1000", "CVE-2026-1001"], withdrawn="2026-01-01T00:00:00Z"),
    )
    assert done.built[0].shard.records == 2


def test_the_order_of_records_and_files_does_not_matter(tmp_path):
    records = [a_record(f"PYSEC-{each}", f"x{each % 3}", *FIXED, aliases=[f"GHSA-{each % 5}"]) for each in range(20)]
    first = made(tmp_path, *records)
    second = made(tmp_path, *reversed(records))
    assert first.built == second.built


def test_what_is_known_beside_the_records_is_laid_on_them(tmp_path):
    kev, epss = tmp_path / "kev.csv", tmp_path / "epss.csv"
    kev.write_text("cveID,dateAdded,knownRansomwareCampaignUse\nCVE-2026-1000,2026-11-01,Known\n")
    epss.write_text("#model_version:v1,score_date:2026-11-22T00:00:00+0000\ncve,epss,percentile\nCVE-2026-1000,0.5,1\n")
    done = made(
        tmp_path,
        a_record("PYSEC-1", "x", *FIXED, aliases=["CVE-2026-1000"]),
        a_record("PYSEC-2", "x", *FIXED),
        exploited=str(kev),
        probabilities=str(epss),
    )
    with opened(tmp_path, done.built[0]) as file:
        known, other = file.about("PyPI", "x")
        assert (known.known_exploited, known.ransomware) == (True, True)
        assert known.exploit_probability == pytest.approx(0.5, abs=1e-5)
        assert (other.known_exploited, other.exploit_probability) == (False, None)
    names = [(each.name, each.date, each.records) for each in done.built[0].shard.sources]
    assert names == [
        ("Python Packaging Advisory Database", dt.date(2026, 11, 20), 2),
        ("CISA Known Exploited Vulnerabilities", dt.date(2026, 11, 1), 1),
        ("Exploit Prediction Scoring System", dt.date(2026, 11, 22), 1),
    ]


def test_what_is_made_elsewhere_gets_a_shard_of_its_own(tmp_path):
    source = Source(name="N", url="https://n", licence="facts", attribution="N", date=dt.date(2026, 11, 1), records=1)
    ready = Ready(ecosystem="NVIDIA", source=source, packages={"driver": (an_advisory(),)})
    done = build(Inputs(records=(), ready=(ready,)), date=DATE, gates=UNKNOWN)
    (built,) = done.built
    assert (built.shard.name, built.shard.newest.date(), built.shard.sources) == ("nvidia", source.date, (source,))
    with opened(tmp_path, built) as file:
        assert [each.id for each in file.about("NVIDIA", "driver")] == ["CVE-2026-0001"]


def test_nvidias_bulletins_come_as_advisories_and_as_the_table(tmp_path):
    table = knowledge.load(NvidiaBulletins)
    done = build(Inputs(records=(), ready=(of_nvidia(table),)), date=DATE, gates=UNKNOWN)
    (built,) = done.built
    with opened(tmp_path, built) as file:
        assert file.about("NVIDIA", "driver")
        assert Advisories([file.shard], file.about).table(NvidiaBulletins) == table
        assert Advisories([], file.about).table(NvidiaBulletins) is None


def test_a_table_of_another_form_is_said_and_not_taken(tmp_path):
    shard = Shard(
        name="nvidia",
        ecosystems=("NVIDIA",),
        built=BUILT,
        newest=BUILT,
        records=0,
        sources=(),
        tables={NvidiaBulletins.file: '{"updated": 1}'},
    )
    with pytest.raises(CannotLookError, match="nvidia_bulletins"):
        Advisories([shard], lambda _ecosystem, _name: ()).table(NvidiaBulletins)
    path = tmp_path / "bulletins.toml"
    path.write_text("bulletins = 7\n")
    with pytest.raises(BuildError, match=r"bulletins\.toml"):
        bulletins(str(path))


def test_a_record_from_the_future_does_not_make_the_database_newer(tmp_path):
    done = made(
        tmp_path,
        a_record("PYSEC-1", "x", *FIXED),
        {**a_record("PYSEC-2", "x", *FIXED), "modified": "2031-01-01T00:00:00Z"},
    )
    assert done.built[0].shard.newest.date() == dt.date(2026, 11, 20)


def test_whoever_publishes_a_record_of_no_known_prefix_is_osv(tmp_path):
    assert made(tmp_path, a_record("NEW-1", "x", *FIXED)).built[0].shard.sources[0].name == "OSV"


def refused(tmp_path, *records, **options):
    with pytest.raises(BuildError) as caught:
        made(tmp_path, *records, **options)
    return str(caught.value)


def test_a_well_known_flaw_that_is_missing_is_refused(tmp_path):
    said = refused(tmp_path, a_record("PYSEC-1", "torch", *FIXED, aliases=["CVE-2000-1000"]), gates=Gates())
    assert "pypi: CVE-2025-32434 of torch is missing" in said.splitlines()
    assert "debian" not in said


def test_a_shard_that_shrank_is_refused(tmp_path):
    many = [a_record(f"PYSEC-{each}", "x", *FIXED) for each in range(100)]
    (before,) = made(tmp_path, *many).built
    (tmp_path / "pypi.sqlite").write_bytes(before.content)
    gates = Gates(known=False, previous=str(tmp_path))
    assert made(tmp_path, *many[:98], gates=gates).built[0].shard.records == 98
    assert refused(tmp_path, *many[:97], gates=gates) == "pypi: 97 records, where there were 100"


def test_a_shard_that_vanished_is_refused(tmp_path):
    (before,) = made(tmp_path, a_record("PYSEC-1", "x", *FIXED)).built
    (tmp_path / "pypi.sqlite").write_bytes(before.content)
    debian = a_record("DSA-1-1", "x", *FIXED, ecosystem="Debian:12")
    said = refused(tmp_path, debian, gates=Gates(known=False, previous=str(tmp_path)))
    assert said == "pypi: no records, where there were 1"
    assert made(tmp_path, debian, names=["debian-12"], gates=Gates(known=False, previous=str(tmp_path)))


def test_a_previous_shard_that_cannot_be_read_is_no_reason_to_go_on(tmp_path):
    (tmp_path / "pypi.sqlite").write_bytes(b"damaged")
    said = refused(tmp_path, a_record("PYSEC-1", "x", *FIXED), gates=Gates(known=False, previous=str(tmp_path)))
    assert "which is to be compared with" in said


def test_an_export_that_is_not_fresh_is_refused(tmp_path):
    record = a_record("PYSEC-1", "x", *FIXED)
    assert made(tmp_path, record, gates=Gates(known=False, fresh_within=3))
    said = refused(tmp_path, record, gates=Gates(known=False, fresh_within=2))
    assert said == "pypi: no record was changed since 2026-11-20"


def test_an_export_of_something_else_is_refused(tmp_path):
    npm = a_record("GHSA-npm", "left-pad", *FIXED, ecosystem="npm")
    assert "no record is about anything" in refused(tmp_path, npm)
    assert refused(tmp_path, npm, names=["pypi"]) == "pypi: no record is about PyPI"
    assert "expected one of pypi, debian-12" in refused(tmp_path, npm, names=["pipy"])


def test_what_is_no_record_is_refused_with_its_place(tmp_path):
    export = tmp_path / "all.jsonl"
    an_export(export, a_record("PYSEC-1", "x", *FIXED))
    export.write_bytes(export.read_bytes() + b'{"id":"PYSEC-2"}\n')
    with pytest.raises(BuildError, match=r"all\.jsonl: record 2 is not of the OSV schema"):
        build(Inputs(records=(str(export),)), date=DATE, gates=UNKNOWN)


@pytest.mark.parametrize("inputs", [{"exploited": "/nothing.csv"}, {"probabilities": "/nothing.csv"}])
def test_what_is_not_there_is_refused(tmp_path, inputs):
    assert "/nothing.csv" in refused(tmp_path, a_record("PYSEC-1", "x", *FIXED), **inputs)


def test_every_shard_has_a_well_known_flaw_and_every_publisher_its_terms():
    table = knowledge.load(AdvisorySources)
    known = {each.ecosystem for each in table.known}
    assert {each for some in table.shards.values() for each in some} - known == {"NVIDIA"}
    assert all(each.url.startswith("https://") and each.licence and each.attribution for each in table.publishers)
