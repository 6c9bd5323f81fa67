"""Random noise: the weakest attack there is, and the floor that every other one must be above."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.attacks.search import in_turn
from robustvideo.attacks.updates import SteepestStep
from robustvideo.errors import InputError


@attacks.register("noise")
@dataclass(frozen=True)
class Noise(Attack):
    """Uniform noise in the ball, the best of a few draws: no gradient, no knowledge of the model.

    Attributes:
        draws: random points tried per clip; it stops at the first that succeeds. Default 1.
    """

    draws: int = 1

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.draws < 1:
            raise InputError(f"Noise needs at least one draw, got draws={self.draws}.")

    def solve(self, problem: Problem) -> AttackResult:
        draws = (
            Ascent(
                objective=CrossEntropy(),
                estimator=plain,
                update=SteepestStep(0.0),
                steps=0,
                random_start=True,
                seed=(self.seed, draw),
            )
            for draw in range(self.draws)
        )
        return in_turn(problem, draws, self.early_stop)
