"""The checks of known flaws: what is said, of what, and that what was not compared is never clean."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from agent.advisories.advisory import Advisories
from agent.checks.vulnerabilities import (
    advisories_stale,
    bundled_copy_vulnerable,
    container_package_vulnerable,
    debian_package_vulnerable,
    package_malicious,
    python_package_vulnerable,
    rpm_package_vulnerable,
    suppression_expired,
)
from agent.config import AdvisoriesSection, Config, SuppressSection
from agent.evaluate import Facts, evaluate
from agent.facts.conda import CondaEnvironment, CondaPackage, CondaPackages
from agent.facts.containers import Container, Containers
from agent.facts.machine import Machine
from agent.facts.packages import Package, Packages
from agent.facts.python import PythonEnvironments
from agent.facts.rpm import RpmPackage, RpmPackages
from agent.facts.use import EnvironmentUse, SoftwareUse
from agent.facts.vex import Vex
from agent.facts.vex import parse as parse_vex
from agent.model import Finding, Instance, Seen, Severity, Unknown
from tests.fakes.advisories import a_shard, an_advisory, known
from tests.fakes.software import a_distribution, an_environment
from tests.fakes.trees import NOW
from tests.fakes.vex import a_document, a_statement

NOT_LOOKED = Unknown(reason="it was not looked at")
TORCH = an_advisory(
    "CVE-2025-32434",
    "0..2.6.0",
    summary="Remote code execution in torch.load",
    severity=Severity.CRITICAL,
    score=9.3,
    exploit_probability=0.0123,
)
ABOUT = {("PyPI", "torch"): [TORCH]}
VENV, OTHER = "/opt/venv/lib/python3.11/site-packages", "/srv/a/lib/python3.11/site-packages"
MACHINE = Machine(
    hostname="gpu-1", release="debian 12", pretty_name="Debian", kernel="6.1.0-30-cloud-amd64", boot="b", identity="i"
)
NO_PACKAGES = Packages(packages=())


def torch(version="2.1.0", prefix="/opt/venv", **more):
    return an_environment(prefix, a_distribution("torch", version, installer="pip", **more))


def used(*environments, complete=True):
    return SoftwareUse(boot="b", complete=complete, environments=environments)


def python(*environments, about=None, use=NOT_LOOKED, conda=NOT_LOOKED, vex=NOT_LOOKED, debs=NO_PACKAGES, suppress=()):
    advisories = about if isinstance(about, Advisories) else known(ABOUT if about is None else about, "PyPI")
    return list(
        python_package_vulnerable(
            python_environments=PythonEnvironments(environments=environments),
            packages=debs,
            conda=conda,
            use=use,
            vex=vex,
            advisories=advisories,
            config=Config(advisories=AdvisoriesSection(suppress=suppress)),
            moment=NOW,
        )
    )


def test_without_known_flaws_it_is_quiet():
    assert python(torch("2.6.0"), an_environment("/srv/a", a_distribution("numpy"))) == []


def test_what_the_distributor_brought_is_left_to_the_distributor():
    deb = Package(
        name="python3-torch", version="1", architecture="all", source="torch", source_version="1",
        state="installed", vendor="Debian",
    )  # fmt: skip
    assert python(torch(owner="deb:python3-torch:all"), debs=Packages(packages=(deb,))) == []


def test_a_known_flaw_is_one_finding_with_its_places_and_the_fix_for_each():
    use = used(EnvironmentUse(path=VENV, gpu=("torch",)))
    (finding,) = python(torch(), torch("2.2.0", "/srv/a"), use=use)
    assert finding == Finding(
        subject="pypi:torch#CVE-2025-32434",
        detail="torch 2.1.0, 2.2.0: Remote code execution in torch.load (CVE-2025-32434), fixed in 2.6.0;"
        " in 2 environments, in use by a GPU process",
        severity=Severity.HIGH,
        fix="/opt/venv/bin/python3.11 -m pip install 'torch>=2.6.0'",
        instances=(
            Instance(
                place=f"{VENV}#torch", version="2.1.0", fix="/opt/venv/bin/python3.11 -m pip install 'torch>=2.6.0'"
            ),
            Instance(
                place=f"{OTHER}#torch", version="2.2.0", fix="/srv/a/bin/python3.11 -m pip install 'torch>=2.6.0'"
            ),
        ),
        evidence={
            "id": "CVE-2025-32434",
            "severity": "critical",
            "known_exploited": False,
            "fixed": "2.6.0",
            "fixed_in_major": "2.6.0",
            "use": "gpu",
            "priority": "in use by a GPU process; critical; fixed in 2.6.0",
            "score": 9.3,
            "exploit_probability": 0.0,
        },
    )


def test_in_one_place_the_place_is_named():
    (finding,) = python(torch(), about={("PyPI", "torch"): [an_advisory("CVE-1", "0..", known_exploited=True)]})
    assert finding.detail == f"torch 2.1.0: a known flaw (CVE-1); in {VENV}, known exploited"


def test_the_same_flaw_is_less_urgent_where_nothing_uses_it():
    (idle,) = python(torch(), use=used())
    (unknown,) = python(torch(), use=used(complete=False))
    assert (idle.severity, idle.evidence["use"]) == (Severity.LOW, "idle")
    assert (unknown.severity, unknown.evidence["use"]) == (Severity.MEDIUM, "unknown")


def test_a_flaw_that_applies_under_a_condition_says_so():
    (finding,) = python(torch(), about={("PyPI", "torch"): [an_advisory("CVE-1", "0..3", condition="with CUDA")]})
    assert finding.detail.endswith("; only with CUDA")


def test_an_ecosystem_without_a_shard_is_unknown_and_not_clean():
    (unknown,) = python(torch(), about=known({}, problems=("pypi is damaged",)))
    assert unknown.covers("pypi:torch#CVE-2025-32434")
    assert "pypi is damaged" in unknown.reason
    assert "advisories refresh" in unknown.hint


def test_a_version_that_cannot_be_compared_leaves_that_place_open_and_no_other():
    unknown, finding = python(torch("2.1-weird_"), torch(prefix="/srv/a"))
    assert [each.place for each in finding.instances] == [f"{OTHER}#torch"]
    assert (unknown.scope, unknown.covers(f"{OTHER}#torch")) == (f"{VENV}#torch", False)


def test_an_unclear_bound_leaves_the_flaw_open():
    about = {("PyPI", "torch"): [an_advisory("CVE-1", unclear="2.6.0-NA is no version", url="https://example.org/1")]}
    (unknown,) = python(torch(), torch(prefix="/srv/a"), about=about)
    assert (unknown.scope, unknown.hint) == ("pypi:torch#CVE-1", "https://example.org/1")
    assert "2.6.0-NA" in unknown.reason


def test_where_one_place_has_the_flaw_and_another_may_the_other_is_left_open():
    about = {("PyPI", "torch"): [an_advisory("CVE-1", "0..2.2", unclear="?")]}
    unknown, finding = python(torch(), torch("2.7", prefix="/srv/a"), about=about)
    assert ([each.place for each in finding.instances], unknown.scope) == ([f"{VENV}#torch"], f"{OTHER}#torch")


def test_where_the_owner_could_not_be_looked_up_the_environment_is_left_open():
    (unknown,) = python(torch(owner="deb:python3-torch:all"), debs=NOT_LOOKED)
    assert unknown.scope == VENV


def test_conda_packages_that_are_compared_with_nothing_are_said():
    packages = (CondaPackage(name="openssl", version="3", build="0"),)
    conda = CondaPackages(environments=(CondaEnvironment(prefix="/opt/conda", packages=packages),))
    (unknown,) = python(conda=conda)
    assert (unknown.scope, unknown.covers("pypi:torch#CVE-1")) == ("conda:", False)


UNTIL = NOW.now.date() + dt.timedelta(days=30)


def an_entry(**more):
    return SuppressSection(
        **{"id": "CVE-2025-32434", "reason": "no untrusted files", "owner": "Ann", "until": UNTIL, **more}
    )


def test_a_suppressed_flaw_stays_as_information():
    (finding,) = python(torch(), suppress=(an_entry(),))
    assert (finding.severity, finding.evidence["suppressed_by"]) == (Severity.INFO, "Ann")
    assert finding.detail.endswith("; suppressed by Ann until 2026-12-23: no untrusted files")
    assert finding.evidence["suppressed_until"] == "2026-12-23"
    assert finding.instances[0].fix.startswith("suppressed by Ann")


def test_where_one_place_is_suppressed_the_others_count():
    (finding,) = python(torch(), torch(prefix="/srv/a"), suppress=(an_entry(place="/opt/*"),))
    assert (finding.severity, len(finding.instances)) == (Severity.MEDIUM, 2)
    assert f"in {OTHER}; suppressed in 1 more" in finding.detail
    assert "suppressed_by" not in finding.evidence


def test_when_a_suppression_expires_the_flaw_returns_and_says_so():
    (finding,) = python(torch(), suppress=(an_entry(until=dt.date(2026, 11, 1)),))
    assert finding.severity is Severity.MEDIUM
    assert finding.detail.endswith("; its suppression by Ann expired on 2026-11-01")


def test_a_document_suppresses_too():
    (finding,) = python(torch(), vex=parse_vex(a_document(a_statement()).encode(), "/v.json"))
    assert (finding.severity, finding.evidence["suppressed_by"]) == (Severity.INFO, "Ann")


def config(*entries):
    return Config(advisories=AdvisoriesSection(suppress=entries))


def test_an_entry_in_force_is_no_finding():
    assert list(suppression_expired(Vex(), config(an_entry()), NOW)) == []


@pytest.mark.parametrize(
    ("until", "expected"),
    [(dt.date(2026, 11, 22), "which has passed"), (dt.date(2028, 1, 1), "is refused: at most 180 days")],
)
def test_an_entry_that_has_expired_or_lasts_too_long_is_a_finding(until, expected):
    (finding,) = suppression_expired(Vex(), config(an_entry(until=until)), NOW)
    assert finding.subject == "suppression:CVE-2025-32434"
    assert expected in finding.detail


def malicious(*environments, about, contained=NOT_LOOKED, **more):
    return list(
        package_malicious(
            python_environments=PythonEnvironments(environments=environments),
            packages=NO_PACKAGES,
            conda=NOT_LOOKED,
            containers=contained,
            vex=Vex(),
            advisories=about,
            config=config(*more.get("suppress", ())),
            moment=NOW,
        )
    )


BAD = an_advisory("MAL-2025-1", "0..", malicious=True, summary="Steals credentials")


def malicious_known(rows):
    rows = {key: tuple(value) for key, value in rows.items()}
    return Advisories([a_shard("PyPI", source="OpenSSF malicious packages")], lambda *key: rows.get(key, ()))


def test_a_flaw_is_not_malice_and_malice_is_no_flaw():
    assert malicious(torch(), about=malicious_known(ABOUT)) == []
    assert python(torch(), about={("PyPI", "torch"): [BAD]}) == []


@pytest.mark.parametrize("contained", [False, True])
def test_a_malicious_package_is_an_incident_wherever_it_is(contained):
    about = malicious_known({("PyPI", "torch"): [BAD]})
    inside = Containers(containers=(Container(place="container:app", id="1", environments=(torch(),)),))
    (finding,) = malicious(about=about, contained=inside) if contained else malicious(torch(), about=about)
    assert (finding.subject, finding.severity) == ("pypi:torch#MAL-2025-1", Severity.CRITICAL)
    assert "incident" in finding.fix


def test_malice_is_not_suppressed_by_package_or_place():
    entry = an_entry(id="", package="torch", place="*")
    (finding,) = malicious(torch(), about=malicious_known({("PyPI", "torch"): [BAD]}), suppress=(entry,))
    assert finding.severity is Severity.CRITICAL


def test_an_own_package_that_is_called_like_a_malicious_one_is_left_open():
    mine = torch("0.0.0", built="editable")
    (unknown,) = malicious(mine, about=malicious_known({("PyPI", "torch"): [BAD]}))
    assert unknown.scope == f"{VENV}#torch"


def test_where_no_list_of_malicious_packages_is_there_it_is_unknown():
    (unknown,) = malicious(torch(), about=known(ABOUT))
    assert (unknown.reason, unknown.scope) == ("no list of malicious packages is on this machine", "")


def test_copies_inside_a_package_are_one_piece_of_information_about_that_package():
    carried = [a_distribution("torch", "2.1.0", inside="ray"), a_distribution("idna", "3.0", inside="ray")]
    facts = PythonEnvironments(environments=(an_environment("/opt/venv", *carried), an_environment("/srv/a", *carried)))
    about = known({**ABOUT, ("PyPI", "idna"): [an_advisory("CVE-2024-3651", "0..3.7")]})
    (finding,) = bundled_copy_vulnerable(facts, NO_PACKAGES, about)
    assert finding.subject == "pypi:ray#inside"
    assert finding.detail == "ray carries idna 3.0 (CVE-2024-3651), torch 2.1.0 (CVE-2025-32434)"
    assert [each.place for each in finding.instances] == [f"{VENV}#ray", f"{OTHER}#ray"]
    assert python(*facts.environments, about=about) == []


def a_deb(name="libssl3", version="3.0.11-1", vendor="Debian", source="openssl"):
    return Package(
        name=name, version=version, architecture="amd64", source=source, source_version=version,
        state="installed", vendor=vendor,
    )  # fmt: skip


def debian(*debs, about):
    return list(debian_package_vulnerable(Packages(packages=debs), MACHINE, NOT_LOOKED, about, Config(), NOW))


def test_the_embedded_database_alone_never_makes_debian_packages_look_clean():
    (unknown,) = debian(a_deb(), about=known(ABOUT))
    assert unknown.reason == "no advisories for Debian:12 are on this machine: 1 packages are compared with none"
    assert unknown.covers("deb:openssl#CVE-1")


def test_a_flaw_in_a_source_is_one_finding_that_names_the_packages():
    about = known({("Debian:12", "openssl"): [an_advisory("CVE-1", "0..3.0.11-2", severity=Severity.HIGH)]})
    (finding,) = debian(a_deb(), a_deb("openssl"), about=about)
    assert finding.detail == "openssl 3.0.11-1: a known flaw (CVE-1), fixed in 3.0.11-2; installed as libssl3, openssl"
    assert [each.place for each in finding.instances] == ["deb:libssl3:amd64", "deb:openssl:amd64"]
    assert finding.severity is Severity.LOW


def test_packages_of_other_makers_are_compared_with_nothing_and_that_is_said():
    (unknown,) = debian(a_deb(vendor="NVIDIA"), about=known({("Debian:12", "openssl"): [an_advisory("CVE-1", "0..9")]}))
    assert unknown.reason.startswith("1 packages are not the distributor's own")
    assert not unknown.covers("deb:openssl#CVE-1")


def test_the_running_kernel_is_in_use():
    about = known({("Debian:12", "linux"): [an_advisory("CVE-1", "0..9", severity=Severity.CRITICAL)]})
    running = a_deb("linux-image-6.1.0-30-cloud-amd64", "6.1.124-1", source="linux-signed-amd64")
    (finding,) = debian(running, about=about)
    assert (finding.subject, finding.severity, finding.evidence["use"]) == ("deb:linux#CVE-1", Severity.HIGH, "loaded")


def test_an_old_kernel_that_does_not_run_is_to_be_removed_and_not_judged():
    about = known({("Debian:12", "linux"): [an_advisory("CVE-1", "0..9")]})
    old, running = (a_deb(f"linux-image-6.1.0-{each}-cloud-amd64", "6.1", source="linux") for each in (28, 30))
    (finding,) = debian(old, running, about=about)
    assert [each.place for each in finding.instances] == ["deb:linux-image-6.1.0-30-cloud-amd64:amd64"]


def test_rpm_packages_without_a_shard_are_unknown():
    rpm = RpmPackage(name="bash", epoch=0, version="5", release="1.el9", architecture="x86_64", source="bash")
    facts, rocky = RpmPackages(packages=(rpm,)), msgspec.structs.replace(MACHINE, release="rocky 9.4")
    (unknown,) = rpm_package_vulnerable(facts, rocky, NOT_LOOKED, known({}), Config(), NOW)
    assert (unknown.scope, "Rocky Linux:9" in unknown.reason) == ("rpm:", True)


def test_packages_in_containers_are_compared_with_their_own_distributions_advisories():
    gap = Unknown(reason="the overlay cannot be read", scope="container:b")
    containers = (
        Container(place="container:a", id="1", release="debian 11", debs=(a_deb(),), environments=(torch(),)),
        Container(place="container:b", id="2", release="debian 12", debs=(a_deb(),), gaps=(gap,)),
    )
    about = known({**ABOUT, ("Debian:12", "openssl"): [an_advisory("CVE-1", "0..9")]})
    said = list(container_package_vulnerable(Containers(containers=containers), NOT_LOOKED, about, Config(), NOW))
    missing, unread, openssl, found = said
    assert (missing.scope, unread) == ("deb:", gap)
    assert [each.place for each in openssl.instances] == ["container:b:deb:libssl3:amd64"]
    assert found.instances[0].place == f"container:a:{VENV}#torch"
    assert found.fix.startswith("Build the image anew")


def shards(*days, **more):
    built = [NOW.now - dt.timedelta(days=each) for each in days]
    return Advisories(
        [a_shard("PyPI", built=each, name=f"shard-{days}") for each, days in zip(built, days, strict=True)],
        lambda *_: (),
        **more,
    )


def test_a_database_of_the_last_days_is_quiet():
    assert list(advisories_stale(shards(0, 2.9), NOW)) == []


@pytest.mark.parametrize(("days", "severity"), [(3.1, None), (7, None), (7.1, Severity.MEDIUM), (400, Severity.MEDIUM)])
def test_a_database_is_stale_after_three_days_and_worse_after_seven(days, severity):
    (finding,) = advisories_stale(shards(0, days), NOW)
    assert (finding.subject, finding.severity) == ("advisories", severity)
    assert [each.place for each in finding.instances] == [f"advisories:shard-{days}"]


def test_a_shard_that_cannot_be_used_is_said():
    (unknown,) = advisories_stale(shards(0, problems=("pypi is damaged",)), NOW)
    assert unknown.reason == "pypi is damaged"


def test_documents_that_cannot_be_read_are_said(tmp_path):
    seen = Vex(gaps=(Unknown(reason="/v.json is no document", scope="vex:/v.json"),))
    (outcome,) = evaluate([suppression_expired], {Vex: Seen(fact=seen, taken=NOW.now)}, Config(), NOW)
    assert outcome.unknowns == seen.gaps


def test_the_checks_say_no_more_than_the_engine_passes_on():
    environments = PythonEnvironments(environments=(torch(),))
    facts: Facts = {PythonEnvironments: Seen(fact=environments, taken=NOW.now)}
    (outcome,) = evaluate([python_package_vulnerable], facts, Config(), NOW, known(ABOUT))
    assert [each.subject for each in outcome.findings] == ["pypi:torch#CVE-2025-32434"]
    assert outcome.unknowns == ()
