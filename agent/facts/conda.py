"""Conda environments and the packages that conda put into them."""

from __future__ import annotations

from agent.model import Fact, Value


class CondaPackage(Value, frozen=True, kw_only=True):
    """A package as conda installed it."""

    name: str
    version: str
    build: str
    channel: str = ""


class CondaEnvironment(Value, frozen=True, kw_only=True):
    """A directory with a ``conda-meta``; its Python, if it has one, is an environment of its own, below it."""

    prefix: str
    packages: tuple[CondaPackage, ...]


class CondaPackages(Fact, frozen=True, kw_only=True):
    """Every conda environment, by prefix."""

    environments: tuple[CondaEnvironment, ...]
