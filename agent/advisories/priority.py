"""How urgent a flaw is, in five steps with their reasons in words. Pure. docs/vulnerabilities.md has the table."""

from __future__ import annotations

from agent.advisories.advisory import Advisory
from agent.facts.use import Use
from agent.model import Severity, Value

LIKELY = 0.1
"""From this probability of exploitation within 30 days on a flaw counts as likely exploited.

What a threshold costs and catches: https://www.first.org/epss/model
"""

_USE = {
    Use.GPU: "in use by a GPU process",
    Use.LOADED: "in use",
    Use.ENVIRONMENT: "its environment is in use",
    Use.IDLE: "not in use since the boot",
    None: "whether it is in use cannot be seen",
}
_STEPS = tuple(Severity)


def in_words(use: Use | None) -> str:
    """How much something is in use, as a person reads it."""
    return _USE[use]


class Priority(Value, frozen=True, kw_only=True):
    """The step, and what led to it."""

    severity: Severity
    reasons: tuple[str, ...]

    @property
    def words(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


def rank(advisory: Advisory, use: Use | None, *, is_fixable: bool, fixed: str = "") -> Priority:
    """The step of one flaw in one place. Where the use cannot be known, it counts as that of its environment."""
    step = _step(advisory, use or Use.ENVIRONMENT)
    if not (is_fixable or advisory.malicious or advisory.known_exploited):
        step = _STEPS[min(step.rank + 1, len(_STEPS) - 1)]  # nothing to install: it waits behind what can be done
    return Priority(severity=step, reasons=tuple(filter(None, _reasons(advisory, use, is_fixable, fixed))))


def _step(advisory: Advisory, use: Use) -> Severity:
    seen = use in {Use.GPU, Use.LOADED}
    if advisory.malicious:
        return Severity.CRITICAL
    if advisory.known_exploited:
        return Severity.CRITICAL if seen else Severity.HIGH
    by_use = _BY_USE[advisory.severity or Severity.MEDIUM]
    step = by_use[0 if seen else 2 if use is Use.IDLE else 1]
    return _STEPS[max(step.rank - 1, Severity.HIGH.rank)] if is_likely(advisory) else step


_BY_USE = {
    # What was seen in use; what belongs to an environment in use, or may; what was not in use since the boot.
    Severity.CRITICAL: (Severity.HIGH, Severity.MEDIUM, Severity.LOW),
    Severity.HIGH: (Severity.MEDIUM, Severity.LOW, Severity.LOW),
    Severity.MEDIUM: (Severity.LOW, Severity.LOW, Severity.INFO),
    Severity.LOW: (Severity.INFO, Severity.INFO, Severity.INFO),
    Severity.INFO: (Severity.INFO, Severity.INFO, Severity.INFO),
}
"""By the severity that the advisory gives; one that gives none counts as medium."""


def is_likely(advisory: Advisory) -> bool:
    """Whether it is likely exploited soon."""
    return (advisory.exploit_probability or 0.0) >= LIKELY


def _reasons(advisory: Advisory, use: Use | None, is_fixable: bool, fixed: str) -> tuple[str, ...]:
    needs = f"the fix needs {advisory.fix_needs}" if advisory.fix_needs else ""
    fix = f"fixed in {fixed}" if fixed else "later versions are not affected"
    return (
        "malicious" if advisory.malicious else "",
        _USE[use],
        advisory.severity.value if advisory.severity else "severity not rated",
        "known exploited" if advisory.known_exploited else "likely exploited" if is_likely(advisory) else "",
        "used by ransomware" if advisory.ransomware else "",
        needs or (fix if is_fixable else "no fixed version is known"),
    )
