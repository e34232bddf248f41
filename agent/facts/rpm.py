"""RPM packages: what is installed, from the database itself or from rpm."""

from __future__ import annotations

from agent.model import Fact, Value


class RpmPackage(Value, frozen=True, kw_only=True):
    """An installed package. ``source`` is the name of its source package, ``module`` as ``nodejs:18``."""

    name: str
    epoch: int
    version: str
    release: str
    architecture: str
    source: str
    vendor: str = ""
    module: str = ""

    @property
    def subject(self) -> str:
        """The key of findings about it."""
        return f"rpm:{self.name}:{self.architecture}"

    @property
    def evr(self) -> str:
        """Its version as rpm compares it: ``epoch:version-release``, without an epoch of zero."""
        return f"{f'{self.epoch}:' if self.epoch else ''}{self.version}-{self.release}"


class RpmPackages(Fact, frozen=True, kw_only=True):
    """The packages that rpm knows, by name and architecture; several versions of a kernel are several."""

    packages: tuple[RpmPackage, ...]
