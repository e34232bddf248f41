"""Everything that is installed, from the facts, in the words of those who publish advisories. Pure."""

from __future__ import annotations

from agent.model import Value


class Component(Value, frozen=True, kw_only=True):
    """One installed thing.

    ``ecosystem`` is OSV's name for where it comes from: ``PyPI``, ``Debian:12``, ``Ubuntu:24.04:LTS``,
    ``Rocky Linux:9``, ``AlmaLinux:9``; or ``conda``, ``snap``, ``NVIDIA``, of which OSV has none. ``version`` is the
    thing's own; ``source`` and ``source_version`` are those of the source package where advisories go by it.
    ``place`` is where it is: an environment's path, ``deb``, ``rpm``, ``snap``, or a path in a container
    (``container:IMAGE:/path``, ``container:IMAGE:deb``). ``kind`` says what sort of place: system, venv, conda, deb, …
    ``owner`` is the key of the system package that brought it (``deb:python3-yaml:all``); ``built`` is ``release``, or
    ``editable``, ``vcs``, ``local`` where the version is only a hint; ``inside`` is the distribution that carries a
    copy of it.
    """

    ecosystem: str
    name: str
    version: str
    place: str
    kind: str
    source: str = ""
    source_version: str = ""
    architecture: str = ""
    installer: str = ""
    interpreter: str = ""
    owner: str = ""
    built: str = "release"
    inside: str = ""
    path: str = ""
