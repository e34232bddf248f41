"""How a distribution came to be where it is: who installed it, and from what."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from agent.host import Host
from agent.model import AbsentError, CannotLookError

Built = Literal["release", "editable", "vcs", "local"]

_INSTALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_LARGEST_URL = 65536


class _Directory(msgspec.Struct):
    editable: bool = False


class _DirectUrl(msgspec.Struct):
    dir_info: _Directory | None = None
    vcs_info: dict[str, msgspec.Raw] | None = None
    archive_info: dict[str, msgspec.Raw] | None = None


def installer(host: Host, directory: str) -> str:
    """The tool that installed it, as its metadata says; empty where that tells nothing.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-installer-file
    """
    try:
        name = host.read_start(f"{directory}/INSTALLER", limit=64, follow=False).decode("ascii", "replace").strip()
    except CannotLookError:
        return ""
    return name if _INSTALLER.fullmatch(name) else ""


def built(host: Host, directory: str) -> Built:
    """What it was installed from. Where that is written down and cannot be read it may be anything, as ``local``."""
    try:
        return parse_direct_url(host.read(f"{directory}/direct_url.json", limit=_LARGEST_URL, follow=False))
    except AbsentError:
        return "release"
    except CannotLookError:
        return "local"


def parse_direct_url(text: bytes) -> Built:
    """What a direct_url.json says: a directory of sources, a repository, or an archive, which is a release.

    The address itself, which may hold a password, is not looked at.
    Format: https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    try:
        said = msgspec.json.decode(text, type=_DirectUrl)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "local"
    if said.vcs_info is not None:
        return "vcs"
    if said.dir_info is not None and said.dir_info.editable:
        return "editable"
    return "local" if said.archive_info is None else "release"
