"""From what records say to what is known of each flaw in each package.

A record becomes one statement for every package that it is about; the statements about one flaw in one package become
one advisory. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from agent.advisories import bounds, cvss
from agent.advisories.advisory import Advisory, Range
from agent.advisories.naming import canonical
from agent.advisories.records import (
    Affected,
    Record,
    RecordSeverity,
    flaws,
    is_bulletin,
    is_erratum,
    is_of_tracker,
    ordered,
    same,
    word,
)
from agent.knowledge import AdvisoryRepairs
from agent.model import Severity, Value

UBUNTU_PRO = "Ubuntu Pro"
_PRO = re.compile(r"Ubuntu:Pro:(\d\d\.\d\d:LTS)")
_SUMMARY = 160
_INTRODUCTION = re.compile(
    r"(?:\S+ ){1,3}(?:is|are|provides?) (?:an?|the) (?!.*(?:vulnerab|flaw|attack|bug))", re.IGNORECASE
)
"""How a first sentence begins that says what the package is, and not what is wrong with it."""
_END = re.compile(r"(?<=[.!?]) ")
_TELLING = 80
"""A shorter sentence only says that something was found, and what comes after it says what."""
_MODULAR = re.compile(r"[.+]module[+_]")
"""In the release of every rpm of a module: https://docs.fedoraproject.org/en-US/modularity/"""
_STREAM = re.compile(r"(?:\w+: )?([\w.-]+:[\w.-]+) ")
"""How the summary of an erratum names the module stream: ``Important: nodejs:18 security update``."""
_WORDS = {
    "critical": Severity.CRITICAL,
    "high": Severity.HIGH,
    "important": Severity.HIGH,
    "medium": Severity.MEDIUM,
    "moderate": Severity.MEDIUM,
    "low": Severity.LOW,
    "negligible": Severity.INFO,
    "unimportant": Severity.INFO,
}


class Statement(Value, frozen=True, kw_only=True, array_like=True):
    """What one record says of one package.

    ``flaw`` is an id of the flaw that it is about, and ``ids`` are all that the record has; ``announced`` marks a
    bulletin, which gives way to the tracker of the same distributor.
    """

    ecosystem: str
    name: str
    flaw: str
    ids: tuple[str, ...]
    summary: str = ""
    severity: Severity | None = None
    score: float | None = None
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()
    unclear: str = ""
    module: str = ""
    pro: bool = False
    announced: bool = False
    tracked: bool = False
    repaired: bool = False


def statements(record: Record, ecosystems: Collection[str], repairs: AdvisoryRepairs) -> Iterator[Statement]:
    """What a record says of packages in the wanted ecosystems; a withdrawn record says nothing.

    ``ecosystems`` are those wanted. What Ubuntu Pro alone fixes is said of the release that it is for.
    """
    if record.withdrawn:
        return
    for affected in record.affected or ():
        if affected.package is None:
            continue
        pro = _PRO.fullmatch(affected.package.ecosystem)
        ecosystem = f"Ubuntu:{pro[1]}" if pro else affected.package.ecosystem
        if ecosystem in ecosystems:
            yield from _about(record, affected, ecosystem, repairs, pro=pro is not None)


def _about(
    record: Record, affected: Affected, ecosystem: str, repairs: AdvisoryRepairs, *, pro: bool
) -> Iterator[Statement]:
    assert affected.package is not None  # noqa: S101 -- the caller looked; this tells the type checker
    name = canonical(ecosystem, affected.package.name)
    said = bounds.versions(record.id, name, affected, repairs, is_pypi=ecosystem == "PyPI")
    if not (said.ranges or said.versions or said.unclear):
        return
    module, unclear = _module(record, affected, said.ranges)
    named = flaws(record) if is_bulletin(record.id) else ()
    for flaw in named if len(named) > 1 else (record.id,):
        yield Statement(
            ecosystem=ecosystem,
            name=name,
            flaw=flaw,
            ids=_ids(record, flaw),
            summary=summary(record),
            severity=_stated(record, affected),
            score=_score(record.severity or affected.severity or ()),
            ranges=() if unclear else said.ranges,
            versions=said.versions,
            unclear=unclear or said.unclear,
            module=module,
            pro=pro,
            announced=is_bulletin(record.id),
            tracked=is_of_tracker(record.id),
            repaired=said.repaired,
        )


def _ids(record: Record, flaw: str) -> tuple[str, ...]:
    if flaw != record.id:
        return (flaw, record.id)
    return (record.id, *flaws(record)) if is_erratum(record.id) else same(record)


def _module(record: Record, affected: Affected, ranges: Sequence[Range]) -> tuple[str, str]:
    """The module stream that an erratum is about, or why that is not known."""
    label = word(affected.ecosystem_specific, "module") or word(affected.database_specific, "module")
    if label:
        return label, ""
    if not any(_MODULAR.search(f"{each.fixed} {each.last_affected}") for each in ranges):
        return "", ""
    stream = _STREAM.match(record.summary or "")
    return (stream[1], "") if stream else ("", "it is about a module stream that it does not name")


def summary(record: Record) -> str:
    """What it is about in one short line: its title, else the first sentence that tells something."""
    text = _line(record.summary or "") or _told(_line(record.details or ""))
    if len(text) <= _SUMMARY:
        return text
    return text[: _SUMMARY - 1].rpartition(" ")[0].rstrip(" ,;:.") + "…"


def _told(details: str) -> str:
    first, _, rest = _END.sub("\n", details, count=1).partition("\n")
    if rest and _INTRODUCTION.match(first):
        return _told(rest)
    return first if len(first) >= _TELLING else details


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text[:4096]).split())


def _stated(record: Record, affected: Affected) -> Severity | None:
    """How bad the publisher says it is, in words: for this package first."""
    said = [each.score for each in (*(affected.severity or ()), *(record.severity or ())) if each.type == "Ubuntu"]
    for specific in (affected.ecosystem_specific, affected.database_specific, record.database_specific):
        said += [word(specific, "severity"), word(specific, "urgency")]
    if is_erratum(record.id):
        said.append((record.summary or "").partition(":")[0])
    known = (_WORDS.get(each.lower().strip(" *")) for each in said)
    return next((each for each in known if each), None)


def _score(severities: Iterable[RecordSeverity]) -> float | None:
    """The score of the newest version of CVSS that can be computed."""
    vectors = {each.type: each.score for each in severities}
    scores = (cvss.base_score(vectors[kind]) for kind in ("CVSS_V3", "CVSS_V2") if kind in vectors)
    return next((score for score in scores if score is not None), None)


def advisory(name: str, said: Sequence[Statement]) -> Advisory:
    """What all statements about one flaw, called ``name``, in one package come to.

    A version is affected if any record says so: their ranges are put beside each other. But a distributor's tracker
    stands over its bulletins, and what Ubuntu Pro fixes counts only where nothing else does. A record that cannot be
    understood says nothing where another one can. The worst severity and the first summary count.
    """
    ids = ordered({name, *(each for statement in said for each in statement.ids)})
    counting = [each for each in said if each.tracked] or said
    free, paid = [each for each in counting if not each.pro], [each for each in counting if each.pro]
    needs_pro = bool(paid) and not any(_is_fixed(each) for each in free) and any(_is_fixed(each) for each in paid)
    counting = paid if needs_pro or not free else free
    clear = [each for each in counting if not each.unclear]
    scores = [each.score for each in said if each.score is not None]
    stated = sorted((each.severity for each in said if each.severity), key=lambda each: each.rank)
    return Advisory(
        id=name,
        ids=ids,
        summary=next((each.summary for each in sorted(said, key=_eloquence) if each.summary), ""),
        severity=stated[0] if stated else cvss.rating(max(scores)) if scores else None,
        score=max(scores, default=None),
        ranges=tuple(dict.fromkeys(each for statement in clear for each in statement.ranges)),
        versions=tuple(sorted({each for statement in clear for each in statement.versions})),
        unclear="" if clear else counting[0].unclear,
        fix_needs=UBUNTU_PRO if needs_pro else "",
        module=next((each.module for each in counting if each.module), ""),
        malicious=any(each.startswith("MAL-") for each in ids),
    )


def _is_fixed(statement: Statement) -> bool:
    return any(each.fixed or each.last_affected for each in statement.ranges)


def _eloquence(statement: Statement) -> tuple[bool, bool]:
    """GitHub's summaries are titles, a bulletin's names the package alone."""
    return (statement.announced, not statement.ids[0].startswith("GHSA-"))
