"""Python environments: old, open to everybody, or broken."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from agent.facts.python import PythonEnvironments
from agent.facts.python_distributions import Distribution
from agent.knowledge import PythonReleases
from agent.model import Duty, Finding, Moment, Severity, check

_DISTRIBUTOR = {"/usr/bin", "/bin"}


@check(
    severity=Severity.MEDIUM,
    duty=Duty.APPLICATIONS,
    fix="Make the environment anew with a supported Python (venv, conda create, uv venv) and remove this one.",
)
def python_release_end_of_life(
    python_environments: PythonEnvironments, releases: PythonReleases, moment: Moment
) -> Iterator[Finding]:
    """An environment runs a Python release that gets no more security fixes.

    Flaws found since then in the interpreter and its standard library (ssl, http, tarfile, zipfile, email) stay open
    in everything that runs there, and current packages no longer install. The dates are those of the Python project.
    The distributor's own Python is left out, with the environments made from it: it gets its fixes from the
    distributor for as long as the operating system does.
    """
    ends = {release.name: release.end for release in releases.releases}
    for environment in python_environments.environments:
        end = ends.get(environment.python)
        is_patched = not environment.interpreter or environment.home in _DISTRIBUTOR
        if end and end < moment.now.date() and not is_patched:
            yield Finding(
                subject=environment.path,
                detail=f"{environment.interpreter} is Python {environment.python}, without fixes since {end:%Y-%m-%d}",
                evidence={"python": environment.python, "end": end.isoformat(), "kind": environment.kind},
            )


@check(
    severity=Severity.HIGH,
    duty=Duty.ACCESS,
    fix="Run chmod o-w on the directory named, then compare what is installed there with what should be.",
)
def python_environment_writable(python_environments: PythonEnvironments) -> Iterator[Finding]:
    """Everybody on this machine may change the packages of a Python environment.

    Python imports from that directory and runs start-up lines of the .pth files in it, so whoever can write there runs
    code as every user who starts this Python, root included. Only directories that everybody can reach and write
    count; one that a group shares does not.
    """
    for environment in python_environments.environments:
        if environment.writable:
            yield Finding(
                subject=environment.path,
                detail=f"everybody may write to {environment.writable}",
                evidence={"directory": environment.writable, "owner": environment.owner},
            )


@check(
    severity=Severity.LOW,
    duty=Duty.APPLICATIONS,
    fix="Install the package again with pip install --force-reinstall, or delete the directory if the package is gone.",
)
def python_distribution_broken(python_environments: PythonEnvironments) -> Iterator[Finding]:
    """An installed Python package does not tell its name and version.

    Its metadata is missing or damaged, mostly by an installation that was interrupted, so that it cannot be compared
    with advisories and pip cannot upgrade or remove it: whether it has known flaws is not known.
    """
    for environment in python_environments.environments:
        for distribution in environment.distributions:
            if distribution.problem and not distribution.inside:
                yield Finding(
                    subject=f"{environment.path}#{distribution.name}",
                    detail=f"{environment.path}/{distribution.location} {distribution.problem}",
                    evidence={"location": distribution.location},
                )


@check(
    severity=Severity.LOW,
    duty=Duty.APPLICATIONS,
    fix="Uninstall the package as often as it is found, then install it again.",
)
def python_distribution_twice(python_environments: PythonEnvironments) -> Iterator[Finding]:
    """A Python package is installed twice in one environment.

    Two tools that do not know of each other, mostly pip and conda, have left the metadata of two versions in one
    directory. The files are those of whichever wrote last, or a mixture; pip, scanners and the program itself may
    each take it for another version, so that an update can look done and not be. Copies that a package carries inside
    for itself do not count, nor does what the system's package manager put there.
    """
    for environment in python_environments.environments:
        known: dict[str, list[Distribution]] = {}
        for each in environment.distributions:
            # Old metadata beside new, .egg-info and .dist-info, is what distributors ship for one and the same package.
            if each.location.endswith(".dist-info") and each.version and not (each.inside or each.owner):
                known.setdefault(each.name, []).append(each)
        for name, several in known.items():
            if len(several) > 1:
                pip = f"{shlex.quote(environment.interpreter)} -m pip" if environment.interpreter else "pip"
                yield Finding(
                    subject=f"{environment.path}#{name}",
                    detail=f"{environment.path} has {' and '.join(each.location for each in several)}",
                    evidence={"versions": ", ".join(sorted(each.version for each in several))},
                    fix=f"Run {pip} uninstall {name} until nothing is found, then {pip} install {name}.",
                )
