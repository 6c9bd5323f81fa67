"""Projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.updates import SteepestStep, UpdateRule
from robustvideo.threat import GRID, Linf


@attacks.register("pgd")
@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected gradient descent: steepest steps from a random start (Madry et al. 2018).

    ``z <- P(z + alpha * d)``, d the steepest direction of the cross-entropy in the threat model's norm, P the
    projection onto its ball and the box. Default step: ``2.5 * eps / steps``, which lets a clip cross the ball
    from any start (the ratio of Madry et al.); for a stored Linf budget at least one level (1/255), because steps
    below what a file can hold are lost when the result is rounded.
    """

    random_start: ClassVar[bool] = True

    @property
    def default_step(self) -> float:
        first = self.threat.parts[0]
        level = 1 / GRID[first.modality] / first.eps if isinstance(first, Linf) and first.stored else 0.0
        return max(2.5 / self.steps, level)

    def update(self) -> UpdateRule:
        return SteepestStep(self.relative_step)
