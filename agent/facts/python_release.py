"""Which release of Python an installation is, as ``3.11.7``, from what lies in it. No Python is started to ask it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.host import Host
from agent.model import CannotLookError

_RELEASE = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"
_START = re.compile(_RELEASE)
_HEADER = re.compile(rb'^#define\s+PY_VERSION\s+"(' + _RELEASE.encode() + rb')\+?"', re.MULTILINE)
_CONDA = re.compile(rf"python-({_RELEASE})-[^-]+\.json")
_MANAGED = re.compile(rf"(?:pyenv/versions/|/cpython-)({_RELEASE})(?:[-+/]|$)")


def of_installation(host: Host, prefix: str, python: str) -> str:
    """The release of the Python of that series (``3.11``) under this prefix; empty where nothing tells."""
    found = _from_header(host, prefix, python) or _from_conda(host, prefix) or _from_name(prefix)
    return found if is_of(found, python) else ""


def is_of(release: str, python: str) -> bool:
    """Whether it is a release of this series."""
    return bool(python) and release.startswith(f"{python}.")


def _from_header(host: Host, prefix: str, python: str) -> str:
    """What the headers say that come with every Python but the distributor's.

    https://github.com/python/cpython/blob/main/Include/patchlevel.h
    """
    for name in (f"python{python}", f"python{python}t"):
        try:
            header = host.read(f"{prefix}/include/{name}/patchlevel.h", limit=65536, follow=False)
        except CannotLookError:
            continue
        if said := _HEADER.search(header):
            return said[1].decode()
    return ""


def _from_conda(host: Host, prefix: str) -> str:
    try:
        names = (entry.name for entry in host.entries(f"{prefix}/conda-meta"))
    except CannotLookError:
        return ""
    return next((said[1] for name in names if (said := _CONDA.fullmatch(name))), "")


def _from_name(prefix: str) -> str:
    """What pyenv and uv call the directory: ``versions/3.11.7``, ``cpython-3.11.7-linux-x86_64-gnu``."""
    said = _MANAGED.search(prefix)
    return said[1] if said else ""


def of_venv(settings: Mapping[str, str]) -> str:
    """The release that a virtual environment was made with. Each tool has its own name for it.

    https://peps.python.org/pep-0838/
    """
    said = _START.match(settings.get("version_info", "")) or _START.match(settings.get("version", ""))
    return said[0] if said else ""
