"""CPU seconds to compare so many packages with the advisory database, opening it included: ``-m benchmarks.matching``.

The packages are those that most is known about, in versions of every age, so nothing is cheap here.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

from agent.advisories import database
from agent.advisories.matching import match
from agent.advisories.shards import OpenShard
from agent.inventory import Component


def components(count: int) -> list[Component]:
    """So many packages, all of them with advisories."""
    shard = OpenShard(os.path.join(database.EMBEDDED, "pypi.sqlite"))
    names = sorted(name for _, name in shard.packages())
    shard.close()
    versions = itertools.cycle(("0.1", "1.0.1", "2.1.0+cu121", "3.4.5rc1", "2023.10.1", "10.0"))
    places = itertools.cycle(("/opt/conda", "/srv/a", "/srv/b"))
    return [
        Component(ecosystem="PyPI", name=name, version=version, place=place, kind="venv")
        for name, version, place in itertools.islice(zip(itertools.cycle(names), versions, places, strict=False), count)
    ]


def main() -> None:
    """Print what it took, and how much was found."""
    found = components(int(sys.argv[1]))
    start = time.process_time()
    with database.opened(None) as advisories:
        matched = match(found, advisories)
    print(f"{time.process_time() - start:.3f} {len(matched.vulnerabilities)}")


if __name__ == "__main__":
    main()
