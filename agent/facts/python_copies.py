"""Distributions that others carry a copy of, for themselves alone, where that is known.

They are not installed: only their carrier imports them, and only a new release of it brings others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

PLACES: Mapping[str, tuple[str, ...]] = {
    # https://github.com/pypa/pip/tree/main/src/pip/_vendor
    "pip": ("pip/_vendor/vendor.txt",),
    # https://github.com/pypa/pipenv/tree/main/pipenv/vendor
    "pipenv": ("pipenv/vendor/vendor.txt",),
    # https://github.com/ray-project/ray/blob/master/python/setup.py
    "ray": ("ray/thirdparty_files", "ray/_private/runtime_env/agent/thirdparty_files"),
    # https://github.com/pypa/setuptools/tree/main/setuptools/_vendor
    "setuptools": ("setuptools/_vendor", "pkg_resources/_vendor"),
    # https://github.com/pypa/wheel/tree/main/src/wheel/_vendor
    "wheel": ("wheel/_vendor/vendor.txt", "wheel/vendored/vendor.txt"),
}
"""By carrier, the folders in which copies lie with their metadata, and the files that name copies without any."""

_PINNED = re.compile(
    r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?:\[[^\]]*\])?\s*==\s*([A-Za-z0-9][A-Za-z0-9.!+_~-]{0,127})"
)


def parse_vendor(text: str) -> Iterator[tuple[str, str]]:
    """Names and versions in a vendor.txt, which is written as requirements are; lines of another form are passed over.

    Format: https://pip.pypa.io/en/stable/reference/requirements-file-format/
    """
    for line in text.splitlines():
        if pinned := _PINNED.match(line):
            yield pinned[1], pinned[2]
