"""The page of a training run: how accurate it became, how much of that it keeps on new clips, and what it drew."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustvideo.errors import InputError
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.report import wording
from robustvideo.report.figures import STYLES, Chart, Line, Mark, Tick, polyline
from robustvideo.report.page import fill
from robustvideo.storage import write_text

_SHARES = {
    "accuracy": "training clips, undisturbed",
    "robust_accuracy": "training clips, under attack",
    "val_accuracy": "validation clips, undisturbed",
    "val_robust_accuracy": "validation clips, under attack",
}
_NOT_DRAWN = {"epoch", "seconds", "loss", *_SHARES}


@dataclass(frozen=True)
class TrainingRun:
    """What a training directory holds.

    Attributes:
        path: the directory.
        recipe: the recipe.
        versions: of robustvideo and torch.
        epochs: what was logged of every finished epoch.
        accuracies: of the exported weights, by data and attack; empty while training goes on.
    """

    path: Path
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    epochs: Sequence[Mapping[str, float]]
    accuracies: Mapping[str, Interval]


def is_training(path: Path) -> bool:
    """Whether a directory holds a training run."""
    return (path / "training.json").is_file()


def read_training(path: Path) -> TrainingRun:
    """Read a training run, finished or not.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not is_training(path):
        raise InputError(f"{path} holds no training run.")
    try:
        manifest = json.loads((path / "training.json").read_text(encoding="utf-8"))
        metrics, summary = path / "metrics.jsonl", path / "summary.json"
        epochs = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        counts = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
        accuracies = {name: wilson(own["correct"], own["clips"]) for name, own in counts.items()}
        versions = {name: str(manifest[name]) for name in ("robustvideo", "torch")}
        return TrainingRun(path, manifest["recipe"], versions, epochs, accuracies)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged and cannot be read as a training run.") from error


def build_training_page(path: Path, out: Path | None = None) -> Path:
    """Write one self-contained page about a training run; ``report.html`` in its directory by default.

    Raises:
        InputError: see `read_training`.
    """
    run = read_training(path)
    out = path / "report.html" if out is None else out
    page = fill(
        "training.html.j2",
        title=str(run.recipe["title"]),
        run=run,
        charts=charts(run.epochs),
        seconds=sum(epoch.get("seconds", 0.0) for epoch in run.epochs),
        recipe=json.dumps(run.recipe, indent=2),
    )
    write_text(out, page)
    return out


def charts(epochs: Sequence[Mapping[str, float]]) -> list[Chart]:
    """Accuracy, generalisation gap, loss, the adversary's distribution, and whatever else was logged."""
    if not epochs:
        return []
    series = {name: _points(epochs, name) for name in dict.fromkeys(key for epoch in epochs for key in epoch)}
    shares = {label: series[name] for name, label in _SHARES.items() if name in series}
    found = [_chart("Accuracy", "share of clips", shares, (0.0, 1.0), percent=True)]
    gaps = {
        kind: _gap(series[trained], series[validated])
        for kind, trained, validated in (
            ("undisturbed", "accuracy", "val_accuracy"),
            ("under attack", "robust_accuracy", "val_robust_accuracy"),
        )
        if trained in series and validated in series
    }
    if gaps:
        found.append(_chart("Generalisation gap", "training minus validation accuracy", gaps, None, percent=True))
    found.append(_chart("Loss", "mean over the epoch", {"loss": series.get("loss", [])}, None))
    drawn = {name: points for name, points in series.items() if name.startswith("p_")}
    if drawn:
        found.append(_chart("What the adversary draws", "probability", drawn, (0.0, 1.0), percent=True))
    others = [name for name in series if name not in _NOT_DRAWN and name not in drawn]
    found += [_chart(name.replace("_", " "), "", {name: series[name]}, None) for name in others]
    return [chart for chart in found if chart.lines]


def _points(epochs: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch and math.isfinite(epoch[name])]


def _gap(trained: Sequence[tuple[float, float]], validated: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    known = dict(validated)
    return [(epoch, value - known[epoch]) for epoch, value in trained if epoch in known]


def _chart(
    title: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    span: tuple[float, float] | None,
    *,
    percent: bool = False,
) -> Chart:
    """Curves over epochs; the vertical axis shows ``span``, or what the curves need."""
    series = {name: points for name, points in series.items() if points}
    values = [y for points in series.values() for _, y in points]
    low, high = span or (min(values, default=0.0), max(values, default=1.0))
    if high == low:
        low, high = low - 0.5, high + 0.5
    last = max((x for points in series.values() for x, _ in points), default=1.0)

    def said(value: float) -> str:
        return wording.percent(value) if percent else wording.number(value, 3)

    def place(x: float, y: float) -> tuple[float, float]:
        return 100 * (x - 1) / max(last - 1, 1), 100 * (y - low) / (high - low)

    lines = tuple(
        Line(
            name,
            number % STYLES,
            polyline([place(x, y) for x, y in points]),
            marks=tuple(Mark(*place(x, y), f"{name}, epoch {x:.0f}: {said(y)}") for x, y in points),
        )
        for number, (name, points) in enumerate(series.items())
    )
    phrases = [f"{name}: {said(points[0][1])} to {said(points[-1][1])}" for name, points in series.items()]
    ticks = tuple(Tick(100 * i / 4, said(low + (high - low) * i / 4)) for i in range(5))
    epochs = (Tick(0, "1"), Tick(100, f"{last:.0f}")) if last > 1 else (Tick(0, "1"),)
    return Chart(title, "; ".join(phrases), "epoch", y_label, epochs, ticks, lines)
