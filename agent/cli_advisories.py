"""The commands of the advisory database: what it holds, how old it is, and how it is made."""

from __future__ import annotations

import click

from agent.session import Suggesting


@click.group(cls=Suggesting)
def advisories() -> None:
    """The advisory database: what it holds, and how it is made."""
