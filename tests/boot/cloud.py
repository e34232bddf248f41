"""The cloud around a machine: its metadata server and Cloud Logging, which keep count of what was asked and sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.fakes.cloud_logging import LoggingServer
from tests.fakes.metadata import VALUES, MetadataServer


class Cloud:
    """Both servers. They listen in the network of the thread that makes and enters this."""

    def __init__(self) -> None:
        self.metadata = MetadataServer()
        self.logging = LoggingServer(projects={VALUES["project/project-id"]})
        self.logging.start()

    def __enter__(self) -> Cloud:  # noqa: PYI034 -- typing.Self needs Python 3.11
        self.metadata.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.metadata.__exit__()
        self.logging.stop()

    @property
    def config(self) -> str:
        """A configuration file that lets the agent find both."""
        return f"""
[instance]
detect = "always"
metadata_url = "{self.metadata.url}"

[sinks.cloud_logging]
enabled = "always"
endpoint = "{self.logging.endpoint}"
credentials = "none"
"""

    def findings(self, rule: str, event: str = "opened") -> list[dict[str, Any]]:
        """What Logs Explorer shows of one check's events of a kind."""
        return [
            entry["jsonPayload"]
            for entry in self.logging.visible()
            if entry["labels"]["rule_id"] == rule and entry["labels"]["event_type"] == event
        ]

    def repeated(self) -> list[str]:
        """The ids of entries that were written more than once."""
        ids = [entry["insertId"] for entry in self.logging.arrivals]
        return sorted({each for each in ids if ids.count(each) > 1})

    def standing(self) -> Iterator[tuple[str, str]]:
        """What is open by what arrived: opened and not resolved since, as check and subject."""
        state: dict[tuple[str, str], str] = {}
        for entry in self.logging.visible():
            payload = entry["jsonPayload"]
            state[payload["finding"]["rule_id"], payload["subject"]["name"]] = payload["event_type"]
        return (key for key, event in sorted(state.items()) if event != "resolved")
