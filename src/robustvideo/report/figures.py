"""Figures as geometry: what to draw, in percent of the drawing area. The template draws it as SVG and text.

Keeping text out of the stretched SVG lets one figure fill a desktop, a phone and a printed page at the same type
size, and the page needs no plotting library.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from robustvideo.attacks.attack import attacks
from robustvideo.errors import InputError
from robustvideo.evaluation.metrics import (
    AttackSummary,
    Interval,
    confusions,
    mean_loss,
    standing_by_step,
    tells_its_steps,
)
from robustvideo.report.series import Budget, Series
from robustvideo.report.wording import (
    THIN,
    bounds,
    budget,
    class_name,
    in_levels,
    norm_name,
    number,
    percent,
)
from robustvideo.spec import parse_call

STYLES = 8
"""Number of distinct line styles (colour, dash and marker)."""

RESOLUTION = 200
"""Points of a curve at most; more would not be seen."""

_LARGEST_MATRIX = 12
_MOST_PAIRS = 10
_LEAST_GAP = 4.5  # percent of the axis between two tick labels


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in percent of its length from the left or the bottom."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A marked point: percent from the left, percent from the bottom, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for the legend.
        style: number of its colour, dash and marker; -1 for the emphasised one.
        path: SVG path in a 100 x 100 box.
        band: SVG path of its interval; empty without one.
        marks: its points.
    """

    name: str
    style: int
    path: str
    band: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A figure with two axes.

    Attributes:
        title: heading of the figure; empty when the section's heading says it.
        summary: the figure in words, for readers who cannot see it.
        x_label, y_label: what the axes are.
        x_ticks, y_ticks: labelled places.
        lines: the curves, the emphasised one last, so that it is drawn on top.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Mistake:
    """One class taken for another: how many of the clips that were recognised without the attack."""

    before: str
    after: str
    count: int
    of: int

    @property
    def share(self) -> float:
        return self.count / self.of


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix: number of clips and share of its row."""

    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Which class is taken for which under one attack.

    Attributes:
        attack, budget: the attack shown.
        mistakes: the most frequent mistakes.
        others: mistakes beyond those.
        classes: rows and columns of the matrix; empty when there are too many classes for one.
        matrix: rows are the true class, columns what is said under attack.
    """

    attack: str
    budget: str
    mistakes: tuple[Mistake, ...]
    others: int
    classes: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]


_SHARES = tuple(Tick(share, f"{share}{THIN}%") for share in (0, 25, 50, 75, 100))


def budget_charts(series: Sequence[Series]) -> list[Chart]:
    """Accuracy against budget, one chart per norm.

    One series shows every attack and the worst case; several show each one's worst case.
    """
    norms = dict.fromkeys(norm for one in series for norm, _ in one.unions)
    return [_budget_chart(series, norm, len(norms) > 1) for norm in norms]


def standing_chart(series: Series, chosen: Budget) -> Chart | None:
    """Share of clips an attack has not yet fooled, against the share of the steps it may take; None without any step.

    An attack stops when its last clip is done, which may be before the steps that it may take. How many those are, rows
    of early versions do not always tell: the curve is then against those that are known.
    """
    lines, phrases = [], []
    for place, summary in enumerate(_in_recorded_order(series, chosen)):
        rows = series.of(summary)
        shares, told = standing_by_step(rows), tells_its_steps(rows)
        if len(shares) < 2:
            continue
        taken, configured = len(shares) - 1, _steps_of(summary.attack)
        allowed = max(taken, configured)
        shares += shares[-1:] * (allowed - taken)  # every clip was done before
        xs = [100 * step / allowed for step in range(allowed + 1)]
        count = f"{allowed} {'step' if allowed == 1 else 'steps'}"
        if told and taken < configured:
            count = f"at most {taken} of {count} taken"
        if not configured and allowed != 1:
            count = f"at {'most' if told else 'least'} {count} taken"
        name = f"{summary.title}, {count}"
        points = _thinned(list(zip(xs, [100 * s for s in shares], strict=True)))
        lines.append(Line(name, place % STYLES, _steps(points)))
        phrases.append(f"{name}: from {percent(shares[0])} to {percent(shares[-1])}")
    if not lines:
        return None
    return Chart(
        "Clips not yet fooled",
        "; ".join(phrases),
        "share of the steps that the attack may take",
        "",
        _SHARES,
        _SHARES,
        tuple(lines),
    )


def loss_charts(series: Series, chosen: Budget) -> list[Chart]:
    """The mean objective per step, one small chart per attack, because objectives have different units."""
    charts = []
    for place, summary in enumerate(_in_recorded_order(series, chosen)):
        losses = [(step, loss) for step, loss in enumerate(mean_loss(series.of(summary)), 1) if math.isfinite(loss)]
        if len(losses) < 2:
            continue
        low, high = min(loss for _, loss in losses), max(loss for _, loss in losses)
        span = high - low or 1.0
        last = losses[-1][0]
        points = [(100 * (step - 1) / (last - 1), 5 + 90 * (loss - low) / span) for step, loss in losses]
        charts.append(
            Chart(
                summary.title,
                f"Mean objective of {summary.title}: {_short(losses[0][1])} at step 1, {_short(losses[-1][1])} "
                f"at step {last}",
                "step",
                "mean objective",
                (Tick(0, "1"), Tick(100, str(last))),
                (Tick(5, _short(low)), Tick(95, _short(high))) if high > low else (Tick(5, _short(low)),),
                (Line(summary.title, place % STYLES, polyline(_thinned(points))),),
            )
        )
    return charts


def confusion(series: Series, chosen: Budget) -> Confusion | None:
    """What the strongest single attack at a budget makes of each class; None when it fools none."""
    strongest = series.at(chosen)[:1]
    counts = confusions(series.of(strongest[0])) if strongest else Counter()
    fooled = {pair: count for pair, count in counts.items() if pair[0] != pair[1]}
    if not fooled:
        return None
    clips: Counter[int] = Counter()
    for (before, _), count in counts.items():
        clips[before] += count
    names = {index: class_name(series.labels, index) for pair in counts for index in pair}
    order = sorted(fooled, key=lambda pair: (-fooled[pair], pair))
    mistakes = [Mistake(names[before], names[after], fooled[before, after], clips[before]) for before, after in order]
    classes = sorted(names) if len(names) <= _LARGEST_MATRIX else []
    return Confusion(
        attack=strongest[0].title,
        budget=budget(chosen[1], chosen[0]),
        mistakes=tuple(mistakes[:_MOST_PAIRS]),
        others=sum(mistake.count for mistake in mistakes[_MOST_PAIRS:]),
        classes=tuple(names[index] for index in classes),
        matrix=tuple(
            tuple(Cell(counts[row, column], counts[row, column] / max(clips[row], 1)) for column in classes)
            for row in classes
        ),
    )


def _budget_chart(series: Sequence[Series], norm: str, several_norms: bool) -> Chart:
    scale = 255.0 if in_levels(norm) else 1.0
    budgets = sorted({eps for one in series for known, eps in one.unions if known == norm})
    most = budgets[-1]
    lines: list[Line] = []
    phrases: list[str] = []
    for one in series:
        if not one.clips:
            continue
        worst = [(u.eps, u.robust_accuracy) for (known, _), u in one.unions.items() if known == norm and u.clips]
        titles = dict.fromkeys(s.title for s in one.attacked if s.norm == norm)
        together = len(titles) > 1 or len(series) > 1
        if len(series) == 1:
            for place, attack in enumerate(titles):
                own = [(s.eps, s.robust_accuracy) for s in one.attacked if (s.norm, s.title) == (norm, attack)]
                line = _accuracy_line(attack, place % STYLES, one.clean, own, norm, most, with_band=not together)
                lines.append(line)
        if together:
            name = one.name or "worst case per clip"
            style = one.style % STYLES if one.name else -1
            lines.append(_accuracy_line(name, style, one.clean, worst, norm, most, with_band=True))
        said = ", ".join(f"{percent(a.estimate)} {bounds(a)} at {budget(e, norm)}" for e, a in worst)
        phrases.append(f"{one.name or 'worst case'}: {percent(one.clean.estimate)} at 0, {said}")
    return Chart(
        norm_name(norm) if several_norms else "",
        "; ".join(phrases),
        f"budget ({norm_name(norm)}, in 1/255)" if in_levels(norm) else f"budget ({norm_name(norm)})",
        "clips correctly recognised",
        _spaced([Tick(0, "0"), *(Tick(100 * eps / most, f"{eps * scale:.3g}") for eps in budgets)]),
        _SHARES,
        tuple(lines),
    )


def _accuracy_line(
    name: str,
    style: int,
    clean: Interval,
    own: Sequence[tuple[float, Interval]],
    norm: str,
    most: float,
    *,
    with_band: bool,
) -> Line:
    measured = [(0.0, clean, "no attack"), *((100 * eps / most, a, budget(eps, norm)) for eps, a in own)]
    measured = [(x, a, text) for x, a, text in measured if not math.isnan(a.estimate)]
    upper = [(x, 100 * a.high) for x, a, _ in measured]
    lower = [(x, 100 * a.low) for x, a, _ in reversed(measured)]
    return Line(
        name,
        style,
        polyline([(x, 100 * a.estimate) for x, a, _ in measured]),
        polyline([*upper, *lower]) + "Z" if with_band and len(measured) > 1 else "",
        tuple(
            Mark(x, 100 * a.estimate, f"{name}, {text}: {percent(a.estimate)} {bounds(a)}") for x, a, text in measured
        ),
    )


def _steps_of(attack: str) -> int:
    """Steps that an attack's spec, or else its default, allows over all starts; 0 where that is unknown."""
    call = parse_call(attack)
    try:
        known: object = attacks.get(call.name)
    except InputError:  # of another version, or registered by a program that is not running
        known = None
    steps, restarts = (call.arguments.get(name, getattr(known, name, 0)) for name in ("steps", "restarts"))
    if not isinstance(steps, int):
        return 0
    return steps * restarts if isinstance(restarts, int) and restarts > 1 else steps


def _in_recorded_order(series: Series, chosen: Budget) -> list[AttackSummary]:
    return [s for s in series.attacked if (s.norm, s.eps) == chosen]


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """An SVG path through points given in percent from the left and the bottom."""
    return "M" + "L".join(f"{x:.2f} {100 - y:.2f}" for x, y in points)


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path that keeps each value until the next point."""
    corners = [points[0]]
    for (_, before), (x, after) in pairwise(points):
        corners += [(x, before), (x, after)]
    return polyline(corners)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= RESOLUTION:
        return points
    return [points[round(i * (len(points) - 1) / (RESOLUTION - 1))] for i in range(RESOLUTION)]


def _spaced(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """The ticks without those whose label would touch that of a larger one; the first stays."""
    kept: list[Tick] = []
    for tick in reversed(ticks):
        if not kept or kept[-1].at - tick.at >= _LEAST_GAP:
            kept.append(tick)
    if kept[-1] != ticks[0]:
        kept[-1] = ticks[0]
    return tuple(reversed(kept))


def _short(value: float) -> str:
    return number(value, 0 if abs(value) >= 100 else 2)
