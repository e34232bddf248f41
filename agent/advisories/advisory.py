"""What is known of flaws: advisories about packages, and the shards that they come from. Values alone."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from agent.model import CannotLookError, Severity, Table, Value

T = TypeVar("T", bound=Table)


class Range(Value, frozen=True, kw_only=True):
    """Versions from ``introduced`` on, until before ``fixed``, or until ``last_affected`` with it.

    An empty ``introduced`` means from the beginning; with both ends empty every later version is affected.
    """

    introduced: str = ""
    fixed: str = ""
    last_affected: str = ""


class Advisory(Value, frozen=True, kw_only=True):
    """All that is known of one flaw in one package.

    ``id`` names the set of aliases: its CVE, else its GHSA, else the record's own; ``ids`` are all of them. A version
    is affected that lies in one of ``ranges`` or is one of ``versions``. ``unclear`` says which bound could not be
    understood, so that nobody knows for the versions that nothing else decides. ``condition`` says under which
    configuration alone it applies, and ``fix_needs`` what a fix costs beside an update, as ``Ubuntu Pro``.
    ``exploit_probability`` is that of EPSS, from 0 to 1: https://www.first.org/epss/
    """

    id: str
    ids: tuple[str, ...]
    summary: str = ""
    url: str = ""
    severity: Severity | None = None
    score: float | None = None
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()
    unclear: str = ""
    condition: str = ""
    fix_needs: str = ""
    module: str = ""
    malicious: bool = False
    known_exploited: bool = False
    ransomware: bool = False
    exploit_probability: float | None = None


class Source(Value, frozen=True, kw_only=True):
    """Where records come from, and what may be done with them."""

    name: str
    url: str
    licence: str
    attribution: str
    date: dt.date
    records: int


class Shard(Value, frozen=True, kw_only=True):
    """One file of the database. ``ecosystems`` as OSV names them: ``PyPI``, ``Debian:12``, ``NVIDIA``.

    ``built`` is when, ``records`` how many advisories; ``newest`` is the latest modification among them. ``tables`` are
    newer editions of the program's own tables, as JSON by their names, for what takes more than advisories. ``origin``
    says how it came here: embedded (with this version), refreshed, imported.
    """

    name: str
    ecosystems: tuple[str, ...]
    built: dt.datetime
    newest: dt.datetime
    records: int
    sources: tuple[Source, ...]
    tables: Mapping[str, str] = {}
    origin: str = "embedded"
    serial: int = 0


class Freshness(enum.Enum):
    """How far the database can be trusted to know of what is new; it is used all the same."""

    OK = "ok"
    STALE = "stale"
    DEGRADED = "degraded"


_STALE, _DEGRADED = dt.timedelta(days=3), dt.timedelta(days=7)


def freshness(shards: Iterable[Shard], now: dt.datetime) -> Freshness:
    """How old the oldest of the shards is; none at all know nothing, and one from the future tells no age."""
    ages = [abs(now - shard.built) for shard in shards]
    if not ages or max(ages) > _DEGRADED:
        return Freshness.DEGRADED
    return Freshness.STALE if max(ages) > _STALE else Freshness.OK


class Advisories:
    """The database as a matcher sees it: which shards there are, and what is known about a package."""

    def __init__(
        self,
        shards: Iterable[Shard],
        about: Callable[[str, str], tuple[Advisory, ...]],
        *,
        problems: tuple[str, ...] = (),
    ) -> None:
        """``about`` finds the advisories by ecosystem and name; ``problems`` are shards that could not be used."""
        self.shards = tuple(shards)
        self.about = about
        self.problems = problems

    def table(self, kind: type[T]) -> T | None:
        """The edition of a table that came with a shard; None where none did.

        Raises:
            CannotLookError: it is there and not of the form that this version knows.
        """
        name = kind.file  # type: ignore[attr-defined]  # every table names its file
        text = next((shard.tables[name] for shard in self.shards if name in shard.tables), None)
        try:
            return None if text is None else msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, ValueError) as error:
            raise CannotLookError(f"the table {name} of the advisory database cannot be read: {error}") from error

    def shard(self, ecosystem: str) -> Shard | None:
        """The shard that answers for an ecosystem; None where nothing is known of it, which is not clean."""
        return next((shard for shard in self.shards if ecosystem in shard.ecosystems), None)
