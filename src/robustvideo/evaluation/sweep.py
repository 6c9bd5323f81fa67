"""The step-size sweep: how strong PGD is for every step size and number of steps, and the law behind the best.

One run of the longest attack gives the loss after every smaller number of steps, so the surface over (step size,
steps) costs one run per step size. Source: Kinfu and Vidal, section 3.1 (figures 1 and 2), whose law for their model
is ``alpha = 0.2 (eps + 1)`` in 1/255 units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from robustvideo.attacks import PGD
from robustvideo.attacks.attack import Precision
from robustvideo.data.dataset import VideoDataset, usable_batches
from robustvideo.errors import InputError, RunConflict
from robustvideo.model import Model, device_of
from robustvideo.progress import track
from robustvideo.storage import write_text


@dataclass(frozen=True)
class Surface:
    """Mean loss of PGD at one budget.

    Attributes:
        eps: the budget, a fraction of the range.
        step_sizes: step sizes tried, fractions of the range, ascending.
        loss: one row per step size: mean cross-entropy over the clips after 0, 1, ..., n steps.
        robust_accuracy: per step size, share of clips that stand after all steps (verified, stored clips).
        clips: number of clips that could be read.
    """

    eps: float
    step_sizes: list[float]
    loss: list[list[float]]
    robust_accuracy: list[float]
    clips: int

    def best_step_size(self, steps: int) -> float:
        """The step size of the largest mean loss after ``steps`` steps."""
        column = [row[steps] for row in self.loss]
        return self.step_sizes[int(np.argmax(column))]

    def enough_steps(self, share: float = 0.99) -> int:
        """The smallest number of steps whose best loss is at least ``share`` of the best found."""
        best = np.max(np.array(self.loss), axis=0)
        gain = (best - best[0]) / max(best.max() - best[0], np.finfo(float).tiny)
        return int(np.argmax(gain >= share))


@dataclass(frozen=True)
class Law:
    """``step_size = slope * eps + intercept``, by least squares over budgets.

    Attributes:
        slope: without unit.
        intercept: a fraction of the range (0.2/255 in the paper's law).
        r_squared: share of the variance explained; NaN with fewer than three budgets.
        steps: the number of steps at which the best step sizes were taken.
        points: (eps, best step size) pairs.
    """

    slope: float
    intercept: float
    r_squared: float
    steps: int
    points: list[tuple[float, float]]


def sweep(
    model: Model,
    data: VideoDataset,
    *,
    eps: Sequence[float],
    relative_steps: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0),
    steps: int = 20,
    out: Path,
    batch_size: int = 8,
    seed: int = 0,
    precision: Precision = "fp32",
    quiet: bool = False,
) -> list[Surface]:
    """Measure PGD's loss surface over (step size, steps) at every budget.

    Every cell (one budget, one step size) is written when it is done; calling again continues.

    Args:
        model: the model under attack.
        data: clips and labels; all that can be read are used.
        eps: budgets, fractions of the range.
        relative_steps: step sizes as multiples of the budget.
        steps: the largest number of steps.
        out: folder for ``sweep.json`` and its cells.
        batch_size: clips per batch.
        seed: seeds the random starts.
        precision: type of gradient passes.
        quiet: show no progress.

    Raises:
        InputError: nothing to sweep.
        RunConflict: ``out`` holds a sweep of another configuration.
    """
    if not eps or not relative_steps or steps < 1:
        raise InputError("A sweep needs at least one budget, one step size and one step.")
    configuration = {"data": data.fingerprint(), "steps": steps, "seed": seed, "precision": precision}
    _claim(out, configuration)
    total = len(eps) * len(relative_steps)
    surfaces = []
    with track("sweep", total, done=len(list(out.glob("cell-*.json"))), quiet=quiet) as advance:
        for budget in eps:
            cells = []
            for ratio in sorted(relative_steps):
                attack = PGD(
                    eps=budget,
                    steps=steps + 1,  # the loss after n steps is seen by step n + 1
                    step_size=ratio * budget,
                    early_stop=False,
                    seed=seed,
                    precision=precision,
                )
                path = out / f"cell-{hashlib.blake2b(attack.spec.encode(), digest_size=6).hexdigest()}.json"
                if not path.exists():
                    write_text(path, json.dumps(_cell(model, data, attack, batch_size)))
                    advance(1, attack.spec)
                cells.append(json.loads(path.read_text(encoding="utf-8")))
            surfaces.append(
                Surface(
                    eps=budget,
                    step_sizes=[ratio * budget for ratio in sorted(relative_steps)],
                    loss=[cell["loss"] for cell in cells],
                    robust_accuracy=[cell["robust_accuracy"] for cell in cells],
                    clips=min(cell.get("clips", len(data)) for cell in cells),
                )
            )
    write_text(out / "sweep.json", json.dumps([asdict(s) for s in surfaces], indent=2))
    return surfaces


def fit_law(surfaces: Sequence[Surface], steps: int) -> Law:
    """Least squares through the best step size of every budget, after ``steps`` steps.

    Raises:
        InputError: fewer than two budgets.
    """
    if len(surfaces) < 2:
        raise InputError("A line through the best step sizes needs at least two budgets.")
    x = np.array([s.eps for s in surfaces])
    y = np.array([s.best_step_size(steps) for s in surfaces])
    slope, intercept = (float(v) for v in np.polyfit(x, y, 1))
    residual, spread = float(((y - slope * x - intercept) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r_squared = 1 - residual / spread if len(x) > 2 and spread > 0 else float("nan")
    return Law(slope, intercept, r_squared, steps, [(float(a), float(b)) for a, b in zip(x, y, strict=True)])


def _cell(model: Model, data: VideoDataset, attack: PGD, batch_size: int) -> dict[str, object]:
    """Mean loss after 0, 1, ... steps, and robust accuracy, over all clips that can be read
    (misclassified ones included)."""
    total = torch.zeros(attack.steps, dtype=torch.float64)
    standing = clips = 0
    for clip, labels in usable_batches(data, batch_size, device_of(model), {}):
        result = attack(model, clip, labels)
        total += result.loss_trace.double().sum(0).cpu()
        standing += int((~result.success).sum())
        clips += len(clip)
    return {"loss": (total / clips).tolist(), "robust_accuracy": standing / clips, "clips": clips}


def _claim(out: Path, configuration: dict[str, object]) -> None:
    path = out / "configuration.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) == configuration:
            return
        if any(out.glob("cell-*.json")):  # one that failed before its first cell has nothing to lose
            raise RunConflict(f"{out} holds a sweep of another configuration: choose another --out.")
    write_text(path, json.dumps(configuration))
