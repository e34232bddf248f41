"""Looking: what probes are handed, and what is kept of what they saw."""

from __future__ import annotations

import pytest

from agent import collect
from agent.config import Config
from agent.host import Host
from agent.model import CannotLookError, Fact, probe


class Visits(Fact, frozen=True, kw_only=True):
    count: int


@probe()
def visits(host: Host, config: Config, earlier: Visits | None) -> Visits:
    """How often we were here."""
    return Visits(count=earlier.count + 1 if earlier else 1)


@probe()
def forgetful(host: Host, config: Config) -> Visits:
    """A probe without a memory."""
    return Visits(count=1)


def looked(text=None, probes=(visits,)):
    return collect.collect(probes, Host(), Config(), earlier=collect.remembered(text))


def test_a_probe_that_remembers_is_handed_what_it_returned_last():
    first = looked()
    (second,) = looked(collect.encode(first))
    assert (first[0].fact, second.fact) == (Visits(count=1), Visits(count=2))


def test_a_probe_that_does_not_remember_is_handed_nothing():
    (look,) = looked(collect.encode(looked()), probes=(forgetful,))
    assert look.fact == Visits(count=1)


@pytest.mark.parametrize(
    "text",
    [None, b"", b"{", b"[]", b'{"agent_version":"1","looks":[{"probe":"visits"}]}', collect.encode(())],
)
def test_a_snapshot_that_tells_nothing_is_no_memory(text):
    (look,) = looked(text)
    assert look.fact == Visits(count=1)


def test_what_another_version_kept_in_another_shape_is_no_memory():
    text = collect.encode(looked()).replace(b'"count":1', b'"count":"one"')
    (look,) = looked(text)
    assert look.fact == Visits(count=1)


def test_a_look_that_failed_is_no_memory():
    @probe()
    def visits(host: Host, config: Config, earlier: Visits | None) -> Visits:
        """A probe that cannot look."""
        raise CannotLookError("dark")

    (look,) = looked(collect.encode(looked(probes=(visits,))))
    assert look.fact == Visits(count=1)
