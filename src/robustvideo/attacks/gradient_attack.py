"""`GradientAttack`: the parameters that every iterated gradient attack has in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, AttackResult, Problem
from robustvideo.attacks.averaged import Expectation
from robustvideo.attacks.gradients import GradientEstimator, plain
from robustvideo.attacks.objectives import CrossEntropy, Objective
from robustvideo.attacks.search import in_turn
from robustvideo.attacks.updates import UpdateRule
from robustvideo.errors import InputError


@dataclass(frozen=True)
class GradientAttack(Attack):
    """An attack that climbs an objective step by step.

    A subclass names its parts: `update` always, `objective` and `estimator` where they are not the cross-entropy
    and the plain gradient.

    Attributes:
        steps: gradient steps per start, at least 1. Default 10.
        step_size: in the unit of the budget, e.g. ``2 / 255``. Default: the subclass's `default_step` of the
            budget. For a joint threat model it is that of the first part; the others move in proportion to their
            budgets.
        restarts: independent starts, at least 1; more than one needs a random start.
        eot: copies of a clip over which each gradient is averaged, each under other draws of a model that answers
            at random (expectation over transformation, Athalye et al. 2018), new ones in every step and restart, and
            for every seed of the attack. The verdict's own draws are not among them, and a clip is submitted to it
            only when all copies are broken. Default 1: the verdict's own draws, in every step, which only an
            adversary who knows the seed has.
        fresh_draws: a single copy is not under the verdict's draws either, but under new ones in every step, as in
            most papers. Several copies always are.
        eot_noise: uniform noise added to the video of each copy, half its width as a fraction of the range: for a
            defence that answers always the same, but ruggedly. A quarter of the budget is usual. Default: none.
    """

    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    eot: int = 1
    fresh_draws: bool = False
    eot_noise: float = 0.0

    random_start: ClassVar[bool] = False

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.steps < 1:
            raise InputError(f"An attack needs at least one step, got steps={self.steps}.")
        if self.restarts < 1:
            raise InputError(f"An attack needs at least one start, got restarts={self.restarts}.")
        if self.eot < 1 or not self.eot_noise >= 0:
            raise InputError(
                f"An expectation needs at least one copy, and noise of at least 0, got eot={self.eot} and "
                f"eot_noise={self.eot_noise:g}."
            )
        if self.restarts > 1 and not self.random_start:
            raise InputError(f"{self.registered_name} starts at the clean clip: every restart would be the same.")
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"A step must be positive, got step_size={self.step_size:g}.")

    @property
    def default_step(self) -> float:
        """Step as a fraction of the budget, when ``step_size`` is not given: ``1 / steps``."""
        return 1.0 / self.steps

    @property
    def relative_step(self) -> float:
        """Step as a fraction of the budget."""
        first = self.threat.parts[0]
        return self.default_step if self.step_size is None else self.step_size / first.eps

    @abstractmethod
    def update(self) -> UpdateRule:
        """How a gradient moves the variables."""

    def objective(self) -> Objective:
        """What to ascend. Default: the cross-entropy of the label."""
        return CrossEntropy()

    def estimator(self) -> GradientEstimator:
        """How the gradient is obtained, for given draws of the model. Default: one forward and one backward pass."""
        return plain

    def expectation(self) -> GradientEstimator:
        """`estimator`, averaged over ``eot`` copies."""
        if self.eot == 1 and not self.eot_noise and not self.fresh_draws:
            return self.estimator()
        return Expectation(self.estimator(), self.eot, self.eot_per_pass, self.eot_noise)

    @property
    def eot_per_pass(self) -> int | None:
        """Copies of ``eot`` that go through the model at once; None for as many as make up 8 clips."""
        return None

    def solve(self, problem: Problem) -> AttackResult:
        return in_turn(problem, (self.ascent(restart) for restart in range(self.restarts)), self.early_stop)

    def ascent(self, restart: int = 0) -> Ascent:
        """One climb."""
        return Ascent(
            objective=self.objective(),
            estimator=self.expectation(),
            update=self.update(),
            steps=self.steps,
            random_start=self.random_start,
            early_stop=self.early_stop,
            seed=(self.seed, restart),
        )
