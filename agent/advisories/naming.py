"""What packages are called, and where people read about a flaw. Pure."""

from __future__ import annotations

import re


def canonical(ecosystem: str, name: str) -> str:
    """The one spelling of a package's name.

    https://packaging.python.org/en/latest/specifications/name-normalization/
    """
    return re.sub(r"[-_.]+", "-", name).lower() if ecosystem == "PyPI" else name


_PAGES = (
    ("AlmaLinux", "ALSA-", "https://errata.almalinux.org/{release}/{dashed}.html"),
    ("Rocky Linux", "RLSA-", "https://errata.rockylinux.org/{id}"),
    ("PyPI", "GHSA-", "https://github.com/advisories/{id}"),
    ("Debian", "CVE-", "https://security-tracker.debian.org/tracker/{id}"),
    ("Ubuntu", "CVE-", "https://ubuntu.com/security/{id}"),
    ("PyPI", "PYSEC-", "https://osv.dev/vulnerability/{id}"),
)
"""The page of a record, by the name of the ecosystem and the beginning of the id; the first that fits."""


def link(ecosystem: str, ids: tuple[str, ...]) -> str:
    """The page to read about a flaw with these ids, in the words of whoever fixes it."""
    name, _, release = ecosystem.partition(":")
    for of, prefix, page in _PAGES:
        for record_id in ids:
            if name == of and record_id.startswith(prefix):
                return page.format(id=record_id, dashed=record_id.replace(":", "-"), release=release)
    return f"https://osv.dev/vulnerability/{ids[0]}"
