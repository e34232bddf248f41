"""What the commands of the command line share: the global options, and help for whoever mistypes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable

import click

from agent.config import DEFAULT_PATH, Config
from agent.config import load as load_config
from agent.host import Host
from agent.state import State, locate


class Suggesting(click.Group):
    """A group that names the nearest command when one is mistyped."""

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with a suggestion."""
        if self.get_command(context, words[0]) is None and not words[0].startswith("-"):
            known = self.list_commands(context)
            raise click.UsageError(f"no command {words[0]!r}; {near(words[0], known)}", context)
        return super().resolve_command(context, words)


def near(word: str, known: list[str]) -> str:
    """Words that help whoever mistyped one."""
    matches = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"expected one of {', '.join(known)}"


class Session:
    """What the global options come to."""

    def __init__(self, *, config_path: str, state_directory: str, root: str) -> None:
        """Remember the options; nothing is read yet."""
        self._config_path, self._state_directory, self._root = config_path, state_directory, root
        self._config: Config | None = None

    @property
    def config_path(self) -> str:
        """Where the configuration is, or would be."""
        return os.path.abspath(self._config_path or DEFAULT_PATH)

    def config(self) -> Config:
        """The configuration, with the options applied, as it was when first asked for."""
        if self._config is None:
            self._config = self.load()
        return self._config

    def load(self) -> Config:
        """The configuration as it is now."""
        import msgspec

        config = load_config(self._config_path)
        chosen = self._state_directory or config.state_directory
        return msgspec.structs.replace(config, state_directory=chosen)

    def state(self, *, writing: bool) -> State:
        """The state directory."""
        return locate(self.config().state_directory, writing=writing)

    def ledger(self, *, writing: bool) -> State:
        """The state directory for work on the ledger, which root does not do where it belongs to another user."""
        state = self.state(writing=writing)
        state.give_up_root()
        return state

    def host(self, progress: Callable[[str], None] = lambda _text: None) -> Host:
        """The machine to look at; ``progress`` hears what takes long."""
        return Host(self._root, progress=progress)


pass_session = click.make_pass_decorator(Session)
form_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="For people or programs."
)
