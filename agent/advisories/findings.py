"""What is said of a flaw: one finding with its places, how urgent it is, and who answers for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agent.advisories import priority
from agent.advisories.advisory import Advisories
from agent.advisories.matching import Match, Matched, Vulnerability, kind_of
from agent.advisories.priority import Priority
from agent.advisories.suppression import Suppression, Suppressions
from agent.facts.use import Use
from agent.inventory import THIRD_PARTY, Component
from agent.model import Finding, Instance, Scalar, Severity, Unknown, Value

REFRESH = "Run `sudo dlvmguard advisories refresh`."
UseOf = Callable[[Component], Use | None]
_NAMED = 3


def unjudged(matched: Matched, kind: str, advisories: Advisories) -> Iterator[Unknown]:
    """What the comparison could not decide, each with the subjects or places that it leaves open."""
    for ecosystem, count in matched.coverage.without_shard.items():
        problems = f" ({'; '.join(advisories.problems)})" if advisories.problems else ""
        name, subjects = ecosystem or "this system", kind or (ecosystem and kind_of(ecosystem))
        reason = f"no advisories for {name} are on this machine{problems}: {count} packages are compared with none"
        yield Unknown(reason=reason, hint=REFRESH, scope=f"{subjects}:" if subjects else "")
    third = matched.coverage.left_out.get(THIRD_PARTY, 0)
    if third:
        reason = f"{third} packages are not the distributor's own and are compared with nothing"
        yield Unknown(reason=reason, hint="Their makers tell of flaws themselves.", scope="third-party:")
    for each in matched.coverage.undecided:
        reason = f"{each.component.key}: flaws of the package are known, and {each.reason}"
        yield Unknown(reason=reason, scope=each.component.key)
    for found in matched.vulnerabilities:
        for doubtful in found.unknown[:1] if not found.affected else found.unknown:
            reason = f"{found.subject} may affect {found.name} {doubtful.version}: {doubtful.doubt}"
            yield Unknown(
                reason=reason,
                hint=found.advisory.url,
                scope=doubtful.component.key if found.affected else found.subject,
            )


def findings(matched: Matched, use_of: UseOf, suppressions: Suppressions) -> Iterator[Finding]:
    """One for each flaw of a package that some place has for certain; what is malicious is told apart."""
    for found in matched.vulnerabilities:
        if found.affected and not found.advisory.malicious:
            yield finding(found, use_of, suppressions)


class _Place(Value, frozen=True, kw_only=True):
    """One affected place with all that is said of it."""

    match: Match
    use: Use | None
    priority: Priority
    suppression: Suppression | None


def finding(found: Vulnerability, use_of: UseOf, suppressions: Suppressions, *, fix: str = "") -> Finding:
    """The flaw with all its places, as urgent as the most urgent of those that nobody answers for."""
    places = [_place(each, use_of(each.component), suppressions) for each in found.affected]
    pending = [each for each in places if not each.suppression]
    worst = min(pending or places, key=_urgency)
    return Finding(
        subject=found.subject,
        detail=_detail(found, pending or places, worst) + "".join(_asides(places, pending, suppressions)),
        evidence={**_evidence(found, worst), **({} if pending else _suppressed(worst.suppression))},
        instances=tuple(_instance(each, fix) for each in places),
        severity=worst.priority.severity if pending else Severity.INFO,
        fix=fix or worst.match.fix,
    )


def _place(found: Match, use: Use | None, suppressions: Suppressions) -> _Place:
    ranked = priority.rank(found.advisory, use, is_fixable=found.is_fixable, fixed=found.fixed)
    return _Place(match=found, use=use, priority=ranked, suppression=suppressions.of(found))


def _urgency(place: _Place) -> tuple[int, int]:
    return (place.priority.severity.rank, (place.use or Use.ENVIRONMENT).rank)


def _instance(place: _Place, fix: str) -> Instance:
    said = place.suppression.words if place.suppression else fix or place.match.fix
    return Instance(place=place.match.component.key, version=place.match.component.version, fix=said)


def _detail(found: Vulnerability, places: list[_Place], worst: _Place) -> str:
    """As ``torch 2.1.0: a flaw in few words (CVE-2025-32434), fixed in 2.6.0; in 2 environments, in use``."""
    advisory = found.advisory
    fixes = sorted({each.match.fixed for each in places} - {""})
    fixed = f", fixed in {few(fixes)}" if fixes else ""
    said = [f"{found.name} {few(sorted({each.match.version for each in places}))}: "]
    said.append(f"{advisory.summary or 'a known flaw'} ({advisory.id}){fixed}")
    said.append(f"; {_where(found.kind, [each.match.component for each in places])}")
    if worst.use:
        said.append(f", {priority.in_words(worst.use)}")
    if advisory.known_exploited:
        said.append(", known exploited")
    if advisory.condition:
        said.append(f"; only {advisory.condition}")
    return "".join(said)


def _where(kind: str, components: list[Component]) -> str:
    places = sorted({each.place for each in components})
    if places[0].startswith("container:") or kind == "pypi":
        what = "environments" if kind == "pypi" else "containers"
        return f"in {places[0]}" if len(places) == 1 else f"in {len(places)} {what}"
    return f"installed as {few(sorted({each.name for each in components}))}"


def _asides(places: list[_Place], pending: list[_Place], suppressions: Suppressions) -> Iterator[str]:
    """What is said about suppression: of all places, of some, or no more."""
    if not pending and places[0].suppression:
        yield f"; {places[0].suppression.words}"
    elif len(pending) < len(places):
        yield f"; suppressed in {len(places) - len(pending)} more"
    expired = next(filter(None, (suppressions.expired(each.match) for each in pending)), None)
    if expired:
        yield f"; its suppression by {expired.owner} expired on {expired.until:%Y-%m-%d}"


def _suppressed(suppression: Suppression | None) -> dict[str, Scalar]:
    if not suppression:
        return {}
    until = suppression.until.isoformat() if suppression.until else ""
    return {"suppressed_by": suppression.by, "suppressed_reason": suppression.reason, "suppressed_until": until}


def _evidence(found: Vulnerability, worst: _Place) -> dict[str, Scalar]:
    """What led to the step, as values; the probability coarsely, since it is another one every day."""
    advisory, match = found.advisory, worst.match
    evidence: dict[str, Scalar] = {
        "id": advisory.id,
        "severity": advisory.severity.value if advisory.severity else "",
        "known_exploited": advisory.known_exploited,
        "fixed": match.fixed,
        "fixed_in_major": match.fixed_in_major,
        "use": worst.use.value if worst.use else "unknown",
        "priority": worst.priority.words,
    }
    if advisory.score is not None:
        evidence["score"] = advisory.score
    if advisory.exploit_probability is not None:
        evidence["exploit_probability"] = round(advisory.exploit_probability, 1)
    return evidence


def few(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    first = list(names)
    return ", ".join(first[:_NAMED]) + (f" and {len(first) - _NAMED} more" if first[_NAMED:] else "")
