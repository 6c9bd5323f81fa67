"""The page about masked time steps: accuracy against their share, and alignment against transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvideo.evaluation.corruption import AlignedTransfer, MaskedAccuracy, Mode, rank_correlation
from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.run import environment, now
from robustvideo.report import wording
from robustvideo.report.figures import STYLES, Chart, Line, Mark, Tick, polyline
from robustvideo.report.page import fill
from robustvideo.storage import write_text

_NAMES: dict[Mode, str] = {
    "video": "video",
    "audio": "audio",
    "synchronous": "both, synchronous",
    "asynchronous": "both, asynchronous",
}
_Place = Callable[[float], float]
_SHARES = tuple(Tick(share, f"{share}{wording.THIN}%") for share in (0, 25, 50, 75, 100))


@dataclass(frozen=True)
class Section:
    """A model on the page.

    Attributes:
        name: short, where several have a path in common.
        most: the largest share of the time steps that was masked.
        shares: all of them, rising, as the page says them.
        rows: of every mode its name, and the accuracy at each share.
        masked: accuracy at the largest share with both modalities masked at the same steps.
        chart: the same as curves.
    """

    name: str
    most: float
    shares: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Interval, ...]], ...]
    masked: Interval
    chart: Chart

    @property
    def clean(self) -> Interval:
        """Accuracy with nothing masked, or as little as there is."""
        return self.rows[0][1][0]

    @property
    def worst(self) -> tuple[Interval, ...]:
        """Accuracy at the largest share, mode by mode."""
        return tuple(accuracies[-1] for _, accuracies in self.rows)


def build_corruption_page(
    masking: Mapping[str, Sequence[MaskedAccuracy]],
    aligned: Sequence[AlignedTransfer],
    out: Path,
    *,
    data: str,
    clips: int,
    seeds: int,
    attacks: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Write one self-contained page about masked time steps.

    Args:
        masking: model spec -> what `masking_study` found in all its modes. The first model is the surrogate.
        aligned: what `alignment_study` found; empty for a single model.
        out: the file.
        data: spec of the clips.
        clips: how many there are.
        seeds: random masks per clip and share.
        attacks: specs of those in ``aligned``.
        command: the command line to show.
    """
    names = _short(list(masking))
    sections = [_section(name, points) for name, points in zip(names, masking.values(), strict=True)]
    changes = [section.masked.estimate - section.clean.estimate for section in sections]
    page = fill(
        "corruption.html.j2",
        title="Masked time steps of " + wording.listed(names),
        sections=sections,
        most=_share(max(section.most for section in sections)),
        changes=list(dict.fromkeys(map(wording.points, (min(changes), max(changes))))),
        aligned=aligned,
        scatter=_scatter(aligned) if aligned else None,
        correlation=rank_correlation(aligned),
        clean=CLEAN,
        models=list(masking),
        data=data,
        clips=clips,
        seeds=seeds,
        attacks=attacks,
        command=command,
        date=now(),
        environment=environment(),
    )
    write_text(out, page)
    return out


def _short(specs: Sequence[str]) -> list[str]:
    """Specs without the folders, and the file name, that all of several share."""
    parts = [spec.split("/") for spec in specs]
    for end in (0, -1):
        while len(parts) > 1 and min(map(len, parts)) > 1 and len({own[end] for own in parts}) == 1:
            parts = [own[1:] if end == 0 else own[:-1] for own in parts]
    return ["/".join(own) for own in parts]


def _section(name: str, points: Sequence[MaskedAccuracy]) -> Section:
    curves: dict[Mode, dict[float, Interval]] = {}
    for point in points:
        curves.setdefault(point.mode, {})[point.share] = point.accuracy
    shares = sorted({point.share for point in points})
    most = shares[-1] or 1.0
    lines, phrases = [], []
    for style, (mode, curve) in enumerate(curves.items()):
        own = [(100 * share / most, share, curve[share]) for share in shares]
        upper = [(x, 100 * accuracy.high) for x, _, accuracy in own]
        lower = [(x, 100 * accuracy.low) for x, _, accuracy in reversed(own)]
        marks = tuple(
            Mark(x, 100 * accuracy.estimate, f"{_NAMES[mode]}, {_share(share)} masked: {_said(accuracy)}")
            for x, share, accuracy in own
        )
        path = polyline([(mark.x, mark.y) for mark in marks])
        lines.append(Line(_NAMES[mode], style % STYLES, path, polyline([*upper, *lower]) + "Z", marks))
        phrases.append(f"{_NAMES[mode]}: {_said(curve[shares[0]])} to {_said(curve[shares[-1]])}")
    ticks = tuple(Tick(100 * share / most, _share(share)) for share in shares)
    chart = Chart("", "; ".join(phrases), "masked time steps", "clips recognised", ticks, _SHARES, tuple(lines))
    rows = tuple((_NAMES[mode], tuple(curve[share] for share in shares)) for mode, curve in curves.items())
    return Section(name, shares[-1], tuple(map(_share, shares)), rows, curves["synchronous"][shares[-1]], chart)


def _scatter(points: Sequence[AlignedTransfer]) -> Chart:
    """Success against alignment: a cross of two intervals for every attack, the undisturbed clips on top."""
    x_ticks, x_place = _axis([bound for p in points for bound in (p.alignment.low, p.alignment.high)], _plain)
    y_ticks, y_place = _axis([bound for p in points for bound in (p.success.low, p.success.high)], _share)
    lines = []
    for number, point in enumerate(point for point in points if point.attack != CLEAN):
        lines.append(_cross(point, number % STYLES, x_place, y_place))
    lines += [_cross(point, -1, x_place, y_place) for point in points if point.attack == CLEAN]
    return Chart(
        "",
        "; ".join(line.marks[0].text for line in lines),
        "cosine of the features of picture and sound",
        "clips that the others mistake",
        x_ticks,
        y_ticks,
        tuple(lines),
    )


def _cross(point: AlignedTransfer, style: int, x_place: _Place, y_place: _Place) -> Line:
    name = "no attack" if point.attack == CLEAN else point.attack
    x, y = x_place(point.alignment.estimate), y_place(point.success.estimate)
    across = [(x_place(point.alignment.low), y), (x_place(point.alignment.high), y)]
    along = [(x, y_place(point.success.low)), (x, y_place(point.success.high))]
    cosine = f"cosine {_cosine(point.alignment.estimate)}, others mistake {_said(point.success)}"
    return Line(name, style, polyline(across) + polyline(along), marks=(Mark(x, y, f"{name}: {cosine}"),))


def _axis(values: Sequence[float], said: Callable[[float], str]) -> tuple[tuple[Tick, ...], _Place]:
    """An axis from one round number to another that holds all values: its ticks, and where a value is in percent."""
    low, high = min(values), max(values)
    if high - low < 0.01:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)

    def place(value: float) -> float:
        return 100 * (value / step - first) / (last - first)

    return tuple(Tick(place(number * step), said(number * step)) for number in range(first, last + 1)), place


def _share(share: float) -> str:
    return f"{100 * share:.3g}{wording.THIN}%"


def _plain(value: float) -> str:
    return f"{round(value, 3) + 0.0:g}".replace("-", wording.MINUS)  # a sum with 0 has no -0


def _cosine(value: float) -> str:
    return wording.number(round(value, 3) + 0.0, 3)


def _said(share: Interval) -> str:
    return f"{wording.percent(share.estimate)} {wording.bounds(share)}"
