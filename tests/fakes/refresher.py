"""A process that refreshes the advisory database once, to be killed or kept from writing: STATE URL [BYTES].

It says a line when it begins; with BYTES it can write no file longer than that, as on a disk that is full.
"""

from __future__ import annotations

import resource
import sys

from agent.advisories import refreshing
from agent.advisories.installed import NotTakenError
from agent.config import AdvisoriesSection
from agent.state import State, StateError
from tests.fakes.bucket import NOW, PUBLIC_KEY


def main(directory: str, url: str, most: str = "") -> None:
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    settings = AdvisoriesSection(url=url, public_keys=(PUBLIC_KEY,))
    sys.stdout.write("begin\n")
    sys.stdout.flush()
    try:
        refreshing.refresh(State(directory), settings, ecosystems=("*",), now=NOW)
    except (NotTakenError, StateError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
