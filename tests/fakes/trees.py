"""A machine as a tree of files, made for one test."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

from agent.host import Host
from agent.model import Moment

NOW = Moment(now=dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc))
"""The time at which tests judge, unless they say otherwise."""


def plant(root: Path, files: Mapping[str, str | bytes]) -> Host:
    """A host over ``root`` with these files; a key that ends in / is an empty directory.

    Text that starts with ``-> `` makes a symbolic link.
    """
    for name, content in files.items():
        path = root / name.lstrip("/")
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            os.symlink(content.removeprefix("-> "), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Host(str(root))
