"""Installed software as probes see it, made for one test."""

from __future__ import annotations

from typing import Any

from agent.facts.python import Environment
from agent.facts.python_distributions import Distribution


def a_distribution(name: str, version: str = "1.0", **more: Any) -> Distribution:
    return Distribution(name=name, version=version, location=f"{name}-{version}.dist-info", **more)


def an_environment(prefix: str, *distributions: Distribution, **more: Any) -> Environment:
    fields = {"kind": "venv", "python": "3.11", "interpreter": f"{prefix}/bin/python3.11", "home": "/usr/bin"}
    return Environment(
        path=f"{prefix}/lib/python3.11/site-packages",
        owner=0,
        writable="",
        distributions=distributions,
        **{**fields, **more},
    )
