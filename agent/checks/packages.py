"""Debian packages: pending security updates, packages kept from updates, and updates that wait for a reboot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from fnmatch import fnmatchcase

from agent.config import Config
from agent.facts.debian_version import order
from agent.facts.packages import Package, Packages, Reboot, Update, Updates
from agent.knowledge import ExposedPackages
from agent.model import Duty, Finding, Moment, Severity, check

# What decides over the kernel and the GPU driver: these are the packages that Google's GPU installer holds, beside
# headers, which hold nothing that runs. https://github.com/GoogleCloudPlatform/compute-gpu-installation
_KERNEL_AND_DRIVER = (
    "linux-image-*", "linux-modules-*", "linux-gcp*", "linux-generic*",
    "nvidia-*", "libnvidia-*", "cuda-drivers*",
)  # fmt: skip


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="sudo apt-get update && sudo apt-get upgrade",
)
def security_update_pending(updates: Updates, exposed: ExposedPackages) -> Iterator[Finding]:
    """A security update is available and not installed.

    The distributor has published the fix, so the flaw is public and exploits may follow within days. It rests on the
    package lists of the security archives as the last `apt-get update` left them, compared as dpkg compares. It is
    high for what guards the borders of the machine: the kernel, the C library, TLS, SSH, sudo, container runtimes.
    """
    for update in updates.pending:
        reason = next((each.reason for each in exposed.packages if fnmatchcase(update.package.name, each.match)), "")
        yield Finding(
            subject=update.package.subject,
            detail=f"{update.package.name} {update.package.version}: {update.archive} has {update.available}"
            + (f" ({reason})" if reason else ""),
            evidence={
                "installed": update.package.version,
                "available": update.available,
                "archive": update.archive,
                "source": update.package.source,
            },
            severity=Severity.HIGH if reason else None,
            fix=_install(update, updates.architecture),
        )


def _install(update: Update, native: str) -> str:
    package = update.package
    name = package.name if package.architecture in {"all", native} else f"{package.name}:{package.architecture}"
    unhold = f"sudo apt-mark unhold {name} && " if package.held else ""
    return f"{unhold}sudo apt-get install --only-upgrade {name}"


@check(
    severity=Severity.LOW,
    duty=Duty.LATEST_IMAGES,
    fix="sudo apt-mark unhold NAME",
)
def package_held(packages: Packages) -> Iterator[Finding]:
    """A package is held back from all updates, security updates included.

    A hold stays until somebody takes it off; it is easily forgotten, and no tool upgrades the package meanwhile.
    It weighs more for kernels and NVIDIA drivers: Google's GPU installer holds them so that the driver keeps
    fitting the kernel, and the machine then runs with every kernel flaw found since. Take the hold off, upgrade
    both together, and hold again if you must.
    """
    for package in packages.packages:
        if package.held and package.present:
            weighty = any(fnmatchcase(package.name, match) for match in _KERNEL_AND_DRIVER)
            yield Finding(
                subject=package.subject,
                detail=f"{package.name} is held at {package.version}",
                evidence={"version": package.version},
                severity=Severity.MEDIUM if weighty else None,
                fix=f"sudo apt-mark unhold {package.name}:{package.architecture}",
            )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="Reboot when no job runs: sudo systemctl reboot",
)
def reboot_required(reboot: Reboot) -> Iterator[Finding]:
    """An installed update takes effect only after a reboot.

    A package such as the C library or the kernel asked for it in /run/reboot-required. Until then the flaw that
    the update fixes is still in memory and can be used, although the package database says that it is fixed.
    """
    if reboot.required:
        names = ", ".join(reboot.asked_by[:5]) + (", …" if reboot.asked_by[5:] else "")
        yield Finding(
            subject="reboot",
            detail=f"a reboot was asked for by {names or 'an update'}",
            evidence={"asked_by": names},
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="Reboot into it when no job runs, once the NVIDIA module is built for it (dkms status): sudo systemctl reboot",
)
def kernel_outdated_in_memory(reboot: Reboot) -> Iterator[Finding]:
    """A newer kernel is installed than the one that runs.

    Kernel fixes count only once the new kernel runs. It compares `uname -r` with the newest installed linux-image
    package of the same flavour, and on Debian also the build that runs with the package of the same name, which
    may have been updated in place.
    """
    newest = reboot.newest
    if newest is None:
        return
    rebuilt = newest.release == reboot.running and reboot.build and order(newest.version) > order(reboot.build)
    if rebuilt or order(newest.release) > order(reboot.running):
        running = f"{reboot.running} ({reboot.build})" if reboot.build else reboot.running
        yield Finding(
            subject="kernel",
            detail=f"{running} runs; {newest.release} ({newest.version}) is installed",
            evidence={"running": reboot.running, "installed": newest.release, "version": newest.version},
        )


@check(
    severity=Severity.MEDIUM,
    duty=Duty.LATEST_IMAGES,
    fix="sudo apt-get update; if it changes nothing, see in its output which security archive it cannot reach.",
)
def package_lists_stale(updates: Updates, config: Config, moment: Moment) -> Iterator[Finding]:
    """The package lists are too old to tell which security updates are missing.

    "No pending updates" is worth as much as the lists are fresh. Their age is taken from the date that the security
    archive itself put on them, not from when apt last ran: behind a firewall apt succeeds for the archives that it
    reaches and leaves the others as they were. `packages.lists_maximum_age_days` sets the limit.
    """
    if moment.now - updates.refreshed > dt.timedelta(days=config.packages.lists_maximum_age_days):
        yield Finding(
            subject="package-lists",
            detail=f"{', '.join(updates.archives)}: the lists are those of {updates.refreshed:%Y-%m-%d}",
            evidence={"date": f"{updates.refreshed:%Y-%m-%d}"},
        )


@check(
    severity=Severity.LOW,
    duty=Duty.LATEST_IMAGES,
    fix="sudo dpkg --configure -a",
)
def package_broken(packages: Packages) -> Iterator[Finding]:
    """A package is neither installed nor removed.

    An installation was interrupted. Until it is finished apt refuses further work, security updates included, and
    the package's files may be a mixture of two versions. It is worse where files are missing or damaged.
    """
    for package in packages.packages:
        if package.reinstall or package.state == "half-installed":
            yield Finding(
                subject=package.subject,
                detail=_broken(package),
                evidence={"state": package.state},
                severity=Severity.MEDIUM,
                fix=f"sudo apt-get install --reinstall {package.name}",
            )
        elif package.state in {"unpacked", "half-configured"}:
            yield Finding(subject=package.subject, detail=_broken(package), evidence={"state": package.state})


def _broken(package: Package) -> str:
    return f"{package.name} {package.version} is {package.state}" + (", to be reinstalled" if package.reinstall else "")
