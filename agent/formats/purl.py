"""The package URL of an installed thing: https://github.com/package-url/purl-spec. Pure."""

from __future__ import annotations

from urllib.parse import quote

from agent.inventory import Component

_UNRESERVED = ":"
"""Beside what ``quote`` leaves as it is, a colon stays readable: purl-spec, "Character encoding"."""


def purl(component: Component) -> str:
    """The name of it that other tools know; ``pkg:generic`` for what has no type of its own."""
    kind, namespace, name = _named(component)
    version, qualifiers = component.version, _qualifiers(component)
    if kind == "rpm" and ":" in version:
        epoch, _, version = version.partition(":")
        qualifiers["epoch"] = epoch
    path = "/".join(_quoted(part) for part in (kind, namespace, name) if part)
    asked = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{path}" + (f"@{_quoted(version)}" if version else "") + (f"?{asked}" if asked else "")


def _named(component: Component) -> tuple[str, str, str]:
    """Type, namespace and name."""
    family = component.ecosystem.partition(":")[0]
    if family == "PyPI":
        return "pypi", "", component.name.lower().replace("_", "-")
    if family == "conda":
        return "conda", "", component.name
    if component.kind in {"deb", "rpm"}:
        return component.kind, family.lower().replace(" linux", "").replace("linux", ""), component.name
    return "generic", family.lower(), component.name


def _qualifiers(component: Component) -> dict[str, str]:
    family, _, release = component.ecosystem.partition(":")
    if component.kind not in {"deb", "rpm"}:
        return {}
    distro = f"{family.lower().replace(' ', '-')}-{release.partition(':')[0]}" if release else ""
    return {"arch": component.architecture, "distro": distro}


def _quoted(text: str) -> str:
    return quote(text, safe=_UNRESERVED)
