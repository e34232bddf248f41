"""What is in use: installed software that processes have run since the machine was booted."""

from __future__ import annotations

import enum

from agent.model import Fact, Value


class Use(enum.Enum):
    """How much something is in use, most first. What was once seen holds until the next boot."""

    GPU = "gpu"
    """Its files are mapped by a process that holds a GPU."""
    LOADED = "loaded"
    """Its files are mapped by a process, or its program was started."""
    ENVIRONMENT = "environment"
    """Something else of its environment runs; that it is loaded cannot be seen, as of pure Python packages."""
    IDLE = "idle"
    """Nothing of its environment was seen to run since the boot."""

    @property
    def rank(self) -> int:
        """0 for the most."""
        return list(Use).index(self)


class EnvironmentUse(Value, frozen=True, kw_only=True):
    """What runs of one Python environment (its directory of packages): GPU and LOADED name distributions."""

    path: str
    gpu: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()


class StaleFile(Value, frozen=True, kw_only=True):
    """A file that programs still run although it was replaced or removed on the disk."""

    path: str
    programs: tuple[str, ...]


class SoftwareUse(Fact, frozen=True, kw_only=True):
    """What was seen in use since the boot of that id, and the files in memory that are no longer those on the disk.

    ``complete`` says that all processes could be looked at; where not, nothing is known to be idle.
    """

    boot: str
    complete: bool
    environments: tuple[EnvironmentUse, ...] = ()
    stale: tuple[StaleFile, ...] = ()

    def of(self, path: str, distribution: str) -> Use | None:
        """How much a distribution of this environment is in use; None where that cannot be known."""
        for each in self.environments:
            if each.path == path:
                if distribution in each.gpu:
                    return Use.GPU
                return Use.LOADED if distribution in each.loaded else Use.ENVIRONMENT
        return Use.IDLE if self.complete else None
