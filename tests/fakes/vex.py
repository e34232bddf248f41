"""OpenVEX documents, made for one test."""

from __future__ import annotations

import json
from typing import Any


def a_statement(**more: Any) -> dict[str, Any]:
    """A statement; what is None is left out."""
    fields = {
        "vulnerability": {"name": "CVE-2025-32434", "aliases": ["GHSA-53q9-r3pm-6pq6"]},
        "products": [{"@id": "pkg:pypi/torch@2.1.0"}],
        "status": "not_affected",
        "justification": "vulnerable_code_not_in_execute_path",
        "impact_statement": "torch.load is not called",
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def a_document(*statements: dict[str, Any], **more: Any) -> str:
    return json.dumps(
        {
            "@context": "https://openvex.dev/ns/v0.2.0",
            "@id": "https://example.org/vex/1",
            "author": "Ann",
            "timestamp": "2026-11-01T00:00:00Z",
            "version": 1,
            "statements": statements,
            **more,
        }
    )
