"""A bill of materials as SPDX 2.3 in JSON: https://spdx.github.io/spdx-spec/v2.3/. Pure."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

from agent.formats.bill import Bill, Entry, entries

_NAMESPACE = "https://spdx.org/spdxdocs"
"""Under which documents without a home of their own are named: SPDX 2.3, 6.5."""


def document(bill: Bill) -> dict[str, Any]:
    """The whole document."""
    listed = entries(bill.components)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.machine,
        "documentNamespace": f"{_NAMESPACE}/{quote(bill.machine, safe='')}-{bill.digest[:32]}",
        "creationInfo": {
            "created": bill.taken.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "creators": [f"Tool: dlvmguard-{bill.agent_version}"],
            "comment": _completeness(bill),
        },
        "packages": [_package(entry) for entry in listed],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": _id(entry),
            }
            for entry in listed
        ],
    }


def _completeness(bill: Bill) -> str:
    if not bill.unknowns:
        return "Everything that dlvmguard knows to look for was looked at."
    reasons = "; ".join(f"{each.scope}: {each.reason}" if each.scope else each.reason for each in bill.unknowns)
    return f"Incomplete. Not looked at: {reasons}"


def _package(entry: Entry) -> dict[str, Any]:
    said = {
        "SPDXID": _id(entry),
        "name": entry.name,
        "versionInfo": entry.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": "Installed in: " + ", ".join(sorted({each.path or each.place for each in entry.instances})),
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": entry.purl}
        ],
    }
    return {name: value for name, value in said.items() if value != ""}


def _id(entry: Entry) -> str:
    """Letters, digits, dots and hyphens alone are allowed: a hash of the package URL."""
    return f"SPDXRef-{hashlib.sha256(entry.purl.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"
