"""The command that fixes a component where it is, or the words where no command does. Pure."""

from __future__ import annotations

import re
import shlex

from agent.inventory import Component, prefix

_LIBRARY = re.compile(r"/lib(?:64)?/(python\d+\.\d+)/")
_TOOL = re.compile(r"/(?:uv/tools|pipx/venvs)/([^/]+)/")
_KERNEL = re.compile(r"linux-(image|modules)-.*|kernel(-core|-modules.*)?")


def advice(component: Component, *, fixed: str = "", after: str = "", needs: str = "") -> str:
    """What brings a version without the flaw: ``fixed`` or later, or any ``after`` the last that has it.

    ``needs`` is what the fix costs beside an update, as Ubuntu Pro.
    """
    wanted = f">={fixed}" if fixed else f">{after}" if after else ""
    if component.inside:
        return _of_carrier(component)
    if not wanted:
        return _without_fix(component)
    if component.place.startswith("container:"):
        return f"Build the image anew with {component.name}{wanted}, and start the container from it."
    kind, name = _brought_by(component)
    if kind == "conda":
        return _conda(component, name, wanted)
    if kind:
        return f"With {needs}: {_system(kind, name)}" if needs else _system(kind, name)
    return _python(component, shlex.quote(f"{component.name}{wanted}"))


def _of_carrier(component: Component) -> str:
    """A copy goes with the package that carries it, of which a newer version may carry a newer copy."""
    if component.owner or component.kind == "conda" or component.place.startswith("container:"):
        return f"Update {component.inside}, which carries this copy for itself."
    return _python(component, f"--upgrade {shlex.quote(component.inside)}")


def _brought_by(component: Component) -> tuple[str, str]:
    """Kind and name of the package that has to be upgraded, where that is none of pip's."""
    if component.kind in {"deb", "rpm"}:
        return component.kind, component.name
    kind, _, rest = component.owner.partition(":")
    return kind, rest if kind == "conda" else rest.partition(":")[0]


def _without_fix(component: Component) -> str:
    if component.kind in {"deb", "rpm"}:
        return f"{component.ecosystem} has no fixed version yet; keep what is untrusted away from it."
    return "No fixed version is known; keep what is untrusted away from it, or replace it."


def _system(kind: str, name: str) -> str:
    if _KERNEL.fullmatch(name):  # every kernel is a package of its own, so that the old one is not upgraded
        upgrade = "sudo apt-get update && sudo apt-get full-upgrade" if kind == "deb" else "sudo dnf upgrade 'kernel*'"
        return f"{upgrade}, then reboot when no job runs"
    quoted = shlex.quote(name)
    return f"sudo apt-get install --only-upgrade {quoted}" if kind == "deb" else f"sudo dnf upgrade {quoted}"


def _conda(component: Component, name: str, wanted: str) -> str:
    where = prefix(component.place)
    if not name:
        return f"Update the conda package that brings {component.name} in {where} to one with {component.name}{wanted}."
    return f"conda install -p {shlex.quote(where)} {shlex.quote(f'{name}{wanted}')}"


def _python(component: Component, requirement: str) -> str:
    tool = _TOOL.search(f"{component.place}/")
    if component.kind == "uv-tool" and tool:
        return f"uv tool upgrade {shlex.quote(tool[1])}"
    if component.kind == "pipx" and tool:
        is_tool = tool[1] == component.name  # an upgrade of the tool leaves what it depends on as it is
        return f"pipx upgrade {tool[1]}" if is_tool else f"pipx runpip {shlex.quote(tool[1])} install {requirement}"
    library = _LIBRARY.search(f"{component.place}/")
    if component.kind == "user" and library:
        return f"{library[1]} -m pip install --user {requirement}"
    if not component.interpreter:
        return f"Install {requirement} into {component.place}."
    interpreter = shlex.quote(component.interpreter)
    if component.installer == "uv":  # which makes environments without pip
        return f"uv pip install --python {interpreter} {requirement}"
    return f"{interpreter} -m pip install {requirement}"
