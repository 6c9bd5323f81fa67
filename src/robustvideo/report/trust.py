"""The trust checks as the page shows them: eleven lines per series, each with its word, its number and its advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvideo.evaluation.trust import Check, load_checks
from robustvideo.evaluation.trust.check import Grade, count
from robustvideo.report.series import Series
from robustvideo.report.wording import MINUS, NOTHING, THIN, number, percent

SYMBOLS: dict[Grade, str] = {"pass": "✓", "warn": "!", "fail": "✕", "not applicable": NOTHING}


@dataclass(frozen=True)
class TrustLine:
    """One check in words.

    Attributes:
        check: the check.
        symbol: a sign for its grade.
        number: in its unit; a dash where there is none.
        threshold: from where on the number passes, likewise.
    """

    check: Check
    symbol: str
    number: str
    threshold: str


@dataclass(frozen=True)
class TrustTable:
    """The checks of one series.

    Attributes:
        series: which.
        lines: one per check.
        verdict: the worst grade among them: "pass", "warn" or "fail".
        summary: how many pass, and how many warnings and failures there are, in words.
    """

    series: Series
    lines: tuple[TrustLine, ...]
    verdict: str
    summary: str


def trust_tables(series: Sequence[Series]) -> list[TrustTable]:
    """The tables of the series that were examined.

    Raises:
        InputError: a damaged ``trust.json``.
    """
    known: dict[Path, dict[str, list[Check]]] = {}
    tables = []
    for one in series:
        checks = known.setdefault(one.run.path, load_checks(one.run.path)).get(one.defense)
        if checks:
            tables.append(_table(one, checks))
    return tables


def _table(series: Series, checks: Sequence[Check]) -> TrustTable:
    grades = Counter(check.grade for check in checks)
    verdict = "fail" if grades["fail"] else "warn" if grades["warn"] else "pass"
    nouns: dict[Grade, str] = {"warn": "warning", "fail": "failure"}
    said = [f"{grades['pass']} pass", *(count(grades[grade], noun) for grade, noun in nouns.items() if grades[grade])]
    lines = tuple(
        TrustLine(check, SYMBOLS[check.grade], _number(check.number, check.unit), _threshold(check)) for check in checks
    )
    return TrustTable(series, lines, verdict, ", ".join(said))


def _threshold(check: Check) -> str:
    sign = {"at most": "≤", "at least": "≥"}[check.bound]
    return NOTHING if check.threshold is None else f"{sign}{THIN}{_number(check.threshold, check.unit)}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    if unit == "%":
        return percent(value) if value >= 0 else f"{MINUS}{percent(-value)}"
    return number(value, 0 if value == round(value) else 2)
