"""A bill of materials as CycloneDX 1.6: https://cyclonedx.org/docs/1.6/json/. Pure."""

from __future__ import annotations

import uuid
from typing import Any

from agent.formats.bill import Bill, Entry, entries
from agent.inventory import Component

_SAID = ("ecosystem", "kind", "installer", "interpreter", "owner", "built", "inside", "source", "source_version")
"""What is told of each instance as properties beside its place."""


def document(bill: Bill) -> dict[str, Any]:
    """The whole document."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(hex=bill.digest[:32], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": bill.taken.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "tools": {"components": [{"type": "application", "name": "dlvmguard", "version": bill.agent_version}]},
            "component": {"type": "device", "bom-ref": "machine", "name": bill.machine},
        },
        "components": [_component(entry) for entry in entries(bill.components)],
        "compositions": [
            {
                "aggregate": "incomplete" if bill.unknowns else "complete",
                "assemblies": ["machine"],
            }
        ],
        "properties": [
            {"name": "dlvmguard:not-looked-at", "value": f"{each.scope}: {each.reason}" if each.scope else each.reason}
            for each in bill.unknowns
        ],
    }


def _component(entry: Entry) -> dict[str, Any]:
    said = {
        "type": "library",
        "bom-ref": entry.purl,
        "name": entry.name,
        "version": entry.version,
        "purl": entry.purl,
        "evidence": {"occurrences": [{"location": each} for each in sorted({_where(i) for i in entry.instances})]},
        "properties": _properties(entry),
    }
    return {name: value for name, value in said.items() if value}


def _where(instance: Component) -> str:
    return instance.path or instance.place


def _properties(entry: Entry) -> list[dict[str, str]]:
    found = {(name, getattr(each, name)) for each in entry.instances for name in _SAID if getattr(each, name)}
    return [{"name": f"dlvmguard:{name.replace('_', '-')}", "value": value} for name, value in sorted(found)]
