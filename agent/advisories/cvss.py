"""Base scores of CVSS vectors, computed where the database is built.

Versions 2, 3.0 and 3.1 are formulas. Version 4 is a table of 270 expert judgements rather than a formula; its vectors
get no number here, so that a record with nothing else is unrated unless its publisher rates it in words.
"""

from __future__ import annotations

import math

from agent.model import Severity

_ATTACK_VECTOR = {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2}
_COMPLEXITY = {"L": 0.77, "H": 0.44}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}
_INTERACTION = {"N": 0.85, "R": 0.62}
_IMPACT = {"N": 0.0, "L": 0.22, "H": 0.56}


def base_score(vector: str) -> float | None:
    """The base score of a vector, from 0 to 10; None for version 4 and for what is no whole vector."""
    kind, _, rest = vector.partition("/")
    try:
        if kind in {"CVSS:3.0", "CVSS:3.1"}:
            return _version_3(_metrics(rest))
        return None if kind.startswith("CVSS:") else _version_2(_metrics(vector.strip("()")))
    except (KeyError, ValueError):
        return None


def _metrics(vector: str) -> dict[str, str]:
    return dict(each.split(":", 1) for each in vector.split("/"))


def _version_3(metrics: dict[str, str]) -> float:
    """https://www.first.org/cvss/v3-1/specification-document, section 7.1."""
    scope = metrics["S"]
    inner = 1 - math.prod(1 - _IMPACT[metrics[each]] for each in "CIA")
    impact = 7.52 * (inner - 0.029) - 3.25 * (inner - 0.02) ** 15 if scope == "C" else 6.42 * inner
    exploitability = (
        8.22
        * _ATTACK_VECTOR[metrics["AV"]]
        * _COMPLEXITY[metrics["AC"]]
        * _PRIVILEGES[scope][metrics["PR"]]
        * _INTERACTION[metrics["UI"]]
    )
    if impact <= 0:
        return 0.0
    score = min((1.08 if scope == "C" else 1.0) * (impact + exploitability), 10)
    return _rounded_up(score)


def _rounded_up(value: float) -> float:
    """Up to one decimal, as appendix A of version 3.1 says it, so that floating point does not matter."""
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10


def _version_2(metrics: dict[str, str]) -> float:
    """https://www.first.org/cvss/v2/guide, section 3.2.1."""
    loss = {"N": 0.0, "P": 0.275, "C": 0.66}
    impact = 10.41 * (1 - math.prod(1 - loss[metrics[each]] for each in "CIA"))
    exploitability = (
        20
        * {"L": 0.395, "A": 0.646, "N": 1.0}[metrics["AV"]]
        * {"H": 0.35, "M": 0.61, "L": 0.71}[metrics["AC"]]
        * {"M": 0.45, "S": 0.56, "N": 0.704}[metrics["Au"]]
    )
    factor = 1.176 if impact else 0.0
    return round((0.6 * impact + 0.4 * exploitability - 1.5) * factor + 1e-9, 1)


_BANDS = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM), (0.1, Severity.LOW))


def rating(score: float) -> Severity:
    """The word for a score: https://www.first.org/cvss/v3-1/specification-document, section 5."""
    return next((severity for least, severity in _BANDS if score >= least), Severity.INFO)
