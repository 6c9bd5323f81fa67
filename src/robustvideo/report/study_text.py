"""A study's results as Markdown, for a terminal, a README or a paper's notes."""

from __future__ import annotations

import math

from robustvideo.evaluation.metrics import Interval
from robustvideo.report.wording import bounds, figure, number, tenths
from robustvideo.reproduction.outcomes import MEASURES, Measure
from robustvideo.reproduction.reproduce import ClaimResult, Outcome
from robustvideo.reproduction.study import Study

MARK = "†"

ONE_TRAINING = (
    f"{MARK} Different networks, each trained once: the interval is over clips, and another seed may give another "
    "difference."
)
"""What an interval over clips does not know."""


def study_text(study: Study, outcome: Outcome) -> str:
    """The table, row by row as far as it has come, and what became of the claims.

    Shares are in percent; every value has its 95 % interval in brackets. Columns that are no accuracy say what they
    are.
    """
    measures = {column.name: MEASURES[column.measure] for column in study.columns}
    heads = [c.name if c.measure == "accuracy" else f"{c.name}, {c.measure.replace('_', ' ')}" for c in study.columns]
    lines = [line([study.source.place, *heads]), line(["---"] * (1 + len(heads)))]
    for key, row in outcome.rows.items():
        cells = zip(row.cells, measures.values(), strict=True)
        lines.append(line([study.rows[key].name, *(_cell(value, measure) for value, measure in cells)]))
    claims = [
        f"* *{c.claim.text}*{MARK if study.compares_networks(c.claim) else ''}: "
        f"{_verdict(c, measures[c.claim.columns[0]])}, {c.clips} clips."
        for c in outcome.claims
    ]
    note = ["", ONE_TRAINING] if any(study.compares_networks(c.claim) for c in outcome.claims) else []
    return "\n".join([*lines, *([""] if claims else []), *claims, *note]) + "\n"


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _cell(value: Interval | None, measure: Measure) -> str:
    if value is None or math.isnan(value.estimate):
        return "-"
    if measure.share:
        return f"{tenths(value.estimate)} {bounds(value)}"
    return f"{figure(value.estimate)}{measure.unit} [{figure(value.low)}, {figure(value.high)}]"


def _verdict(result: ClaimResult, measure: Measure) -> str:
    gain = result.difference
    if measure.share:
        low, estimate, high = (number(100 * value) for value in (gain.low, gain.estimate, gain.high))
        return f"{result.verdict}, {estimate} points [{low}, {high}]"
    return f"{result.verdict}, {figure(gain.estimate)}{measure.unit} [{figure(gain.low)}, {figure(gain.high)}]"
