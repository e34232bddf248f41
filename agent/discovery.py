"""What probes and checks there are: found by walking their folders, so that no list is edited to add one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import agent.checks
import agent.facts
from agent.model import Check, Probe


@functools.cache
def probes() -> tuple[Probe[Any], ...]:
    """Every probe, by topic and name."""
    found = [value for module in _modules(agent.facts) for value in vars(module).values() if isinstance(value, Probe)]
    return tuple(sorted(_unique(found, lambda each: each.name), key=lambda each: (each.topic, each.name)))


@functools.cache
def checks() -> tuple[Check, ...]:
    """Every check, by topic and id."""
    found = [value for module in _modules(agent.checks) for value in vars(module).values() if isinstance(value, Check)]
    return tuple(sorted(_unique(found, lambda each: each.id), key=lambda each: (each.topic, each.id)))


def catalogue() -> dict[str, Check]:
    """Every check by its id."""
    return {check.id: check for check in checks()}


def topics() -> tuple[str, ...]:
    """What a scan can be limited to."""
    return tuple(sorted({probe.topic for probe in probes()}))


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        yield importlib.import_module(f"{package.__name__}.{module.name}")


def _unique(found: list[Any], name: Any) -> list[Any]:
    """Drop what a module merely imported; two different ones of a name are a mistake in our own code."""
    by_name: dict[str, Any] = {}
    for each in found:
        if by_name.setdefault(name(each), each) is not each:
            raise TypeError(f"two probes or checks are called {name(each)}")
    return list(by_name.values())
