"""What packages must not be: behind on security updates, held, half installed, or newer on disk than in memory."""

from __future__ import annotations

import datetime as dt

import pytest

from agent import discovery, knowledge
from agent.checks.packages import (
    kernel_outdated_in_memory,
    package_broken,
    package_held,
    package_lists_stale,
    reboot_required,
    security_update_pending,
)
from agent.config import Config, PackagesSection
from agent.evaluate import Facts, evaluate
from agent.facts.packages import Kernel, Package, Packages, Reboot, Update, Updates
from agent.knowledge import ExposedPackages
from agent.model import Seen, Severity, Unknown
from tests.fakes.trees import NOW

EXPOSED = knowledge.load(ExposedPackages)


def a_package(name: str = "zip", *, state: str = "installed", **more) -> Package:
    more = {"version": "1", "architecture": "amd64", "source": name, "source_version": "1", **more}
    return Package(name=name, state=state, **more)


def the_packages(*packages: Package) -> Packages:
    return Packages(packages=packages)


def the_updates(*packages: Package, days: float = 0) -> Updates:
    return Updates(
        architecture="amd64",
        archives=("Debian-Security bookworm-security",),
        refreshed=NOW.now - dt.timedelta(days=days),
        pending=tuple(Update(package=package, available="2", archive="security") for package in packages),
    )


def a_reboot(newest: Kernel | None = None, *, required: bool = False, asked_by=(), build: str = "") -> Reboot:
    running = "6.1.0-30-cloud-amd64"
    return Reboot(required=required, asked_by=asked_by, running=running, build=build, newest=newest)


def test_nothing_pending_is_quiet():
    assert list(security_update_pending(the_updates(), EXPOSED)) == []


def test_a_pending_security_update_is_a_finding_of_its_package():
    (finding,) = security_update_pending(the_updates(a_package()), EXPOSED)
    assert (finding.subject, finding.severity) == ("deb:zip:amd64", None)
    assert finding.fix == "sudo apt-get install --only-upgrade zip"
    assert finding.evidence["available"] == "2"


@pytest.mark.parametrize(
    "name", ["linux-image-gcp", "libc6", "libssl3t64", "libgnutls30", "openssh-server", "sudo", "runc"]
)
def test_what_guards_a_border_is_urgent(name):
    (finding,) = security_update_pending(the_updates(a_package(name)), EXPOSED)
    assert finding.severity is Severity.HIGH


@pytest.mark.parametrize("name", ["linux-libc-dev", "libc6-dev", "libssl-dev", "libgnutls28-dev", "openssh-client"])
def test_headers_and_clients_are_not(name):
    (finding,) = security_update_pending(the_updates(a_package(name)), EXPOSED)
    assert finding.severity is None


def test_the_fix_names_a_foreign_architecture_and_takes_off_a_hold():
    (finding,) = security_update_pending(the_updates(a_package(architecture="i386", held=True)), EXPOSED)
    assert finding.fix == "sudo apt-mark unhold zip:i386 && sudo apt-get install --only-upgrade zip:i386"


def test_packages_that_are_not_held_or_not_there_are_quiet():
    gone = a_package(held=True, state="config-files")
    assert list(package_held(the_packages(a_package(), gone))) == []


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("zip", None),
        ("linux-headers-gcp", None),
        ("linux-image-gcp", Severity.MEDIUM),
        ("linux-image-cloud-amd64", Severity.MEDIUM),
        ("nvidia-driver-580-server-open", Severity.MEDIUM),
    ],
)
def test_a_held_package_weighs_more_where_it_holds_the_kernel_or_the_driver(name, severity):
    (finding,) = package_held(the_packages(a_package(name, held=True)))
    assert (finding.subject, finding.severity) == (f"deb:{name}:amd64", severity)
    assert finding.fix == f"sudo apt-mark unhold {name}:amd64"


@pytest.mark.parametrize("state", ["installed", "config-files", "triggers-awaited", "triggers-pending"])
def test_a_package_in_a_sound_state_is_quiet(state):
    assert list(package_broken(the_packages(a_package(state=state)))) == []


@pytest.mark.parametrize(
    ("state", "reinstall", "severity"),
    [
        ("unpacked", False, None),
        ("half-configured", False, None),
        ("half-installed", False, Severity.MEDIUM),
        ("installed", True, Severity.MEDIUM),
    ],
)
def test_a_package_in_between_is_broken(state, reinstall, severity):
    (finding,) = package_broken(the_packages(a_package(state=state, reinstall=reinstall)))
    assert (finding.subject, finding.severity) == ("deb:zip:amd64", severity)


def test_no_reboot_asked_for_is_quiet():
    assert list(reboot_required(a_reboot())) == []


def test_a_reboot_asked_for_names_who_asked():
    (finding,) = reboot_required(a_reboot(required=True, asked_by=("libc6", "linux-image-gcp")))
    assert finding.subject == "reboot"
    assert finding.detail == "a reboot was asked for by libc6, linux-image-gcp"


def test_a_reboot_that_hundreds_ask_for_is_still_one_line():
    (finding,) = reboot_required(a_reboot(required=True, asked_by=tuple(f"package-{n}" for n in range(900))))
    assert len(finding.detail) < 120


@pytest.mark.parametrize(
    ("newest", "build"),
    [
        (None, ""),
        (Kernel(release="6.1.0-30-cloud-amd64", version="6.1.124-1"), "6.1.124-1"),
        (Kernel(release="6.1.0-30-cloud-amd64", version="6.1.128-1"), ""),
        (Kernel(release="6.1.0-29-cloud-amd64", version="6.1.128-1"), "6.1.124-1"),
    ],
)
def test_a_kernel_that_is_the_newest_installed_is_quiet(newest, build):
    assert list(kernel_outdated_in_memory(a_reboot(newest, build=build))) == []


@pytest.mark.parametrize(
    ("newest", "build"),
    [
        (Kernel(release="6.1.0-31-cloud-amd64", version="6.1.128-1"), ""),
        (Kernel(release="6.12.43+deb13-cloud-amd64", version="6.12.43-1"), "6.1.124-1"),
        (Kernel(release="6.1.0-30-cloud-amd64", version="6.1.128-1"), "6.1.124-1"),
    ],
)
def test_a_newer_kernel_on_disk_is_a_finding(newest, build):
    (finding,) = kernel_outdated_in_memory(a_reboot(newest, build=build))
    assert finding.subject == "kernel"
    assert finding.evidence["installed"] == newest.release


def test_lists_are_stale_after_the_configured_days_and_not_before():
    config = Config(packages=PackagesSection(lists_maximum_age_days=3))
    assert list(package_lists_stale(the_updates(days=3), config, NOW)) == []
    (finding,) = package_lists_stale(the_updates(days=3.1), config, NOW)
    assert (finding.subject, finding.evidence) == ("package-lists", {"date": "2026-11-20"})


def test_without_lists_updates_are_unknown_and_held_packages_still_judged():
    facts: Facts = {
        Packages: Seen(fact=the_packages(a_package(held=True)), taken=NOW.now),
        Updates: Seen(fact=Unknown(reason="no list"), taken=NOW.now),
    }
    checks = [check for check in discovery.checks() if check.topic == "packages"]
    outcomes = {outcome.check: outcome for outcome in evaluate(checks, facts, Config(), NOW)}
    assert outcomes["security-update-pending"].unknowns == (Unknown(reason="no list"),)
    assert outcomes["package-lists-stale"].unknowns == (Unknown(reason="no list"),)
    assert len(outcomes["package-held"].findings) == 1
    assert "reboot-required" not in outcomes
