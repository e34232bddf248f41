"""The maintainers of Debian that write from addresses elsewhere, for ``agent/knowledge/vendors.toml``.

Package lists come in, the text of ``debian_maintainers`` goes out; the table says how to run it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from agent.facts.vendors import fingerprint

_OWN = re.compile(r"[@.]debian\.(?:org|net)$")
_ADDRESS = re.compile(r"<([^<>\s]+@[^<>\s]+)>")
_OTHERS = {"ubuntu-devel-discuss@lists.ubuntu.com"}
"""What stands in every package of Ubuntu, and in one of Debian."""


def addresses(lines: Iterable[str]) -> Iterator[str]:
    """The addresses of maintainers in package lists, in lower case."""
    for line in lines:
        if line.startswith("Maintainer:"):
            yield from _ADDRESS.findall(line.lower())


def table(lines: Iterable[str]) -> str:
    """The fingerprints of the addresses that do not tell by themselves, sorted, twelve in a line."""
    found = sorted({fingerprint(each) for each in addresses(lines) if not _OWN.search(each) and each not in _OTHERS})
    return "\n".join(" ".join(found[start : start + 12]) for start in range(0, len(found), 12)) + "\n"


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]  # it is a text file
    sys.stdout.write(table(sys.stdin))
