"""Auto-PGD: projected gradient ascent with momentum and a step size that halves when a clip makes no progress."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, Variables, attacks
from robustvideo.attacks.dlr import DLR, TARGETS, TargetedDLR, likeliest_wrong
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.search import in_turn
from robustvideo.attacks.updates import Position, State
from robustvideo.clip import per_clip
from robustvideo.errors import InputError, RobustVideoWarning

FEW_STEPS = 30
"""Below this the windows of `checkpoints` are too short to tell progress from chance."""


@cache
def checkpoints(steps: int) -> dict[int, int]:
    """Iteration -> length of the window that ends there, for a climb of ``steps``.

    The first window is 22 % of the steps, each later one 3 % shorter, down to 6 %. For 100 steps the checks fall
    after 22, 41, 57, 70, 80, 87, 93 and 99. No window is shorter than 3 (the authors' go down to 1, which halves
    the step almost every time where steps are few).
    """
    least = max(int(0.06 * steps), 3)
    window, at, found = max(int(0.22 * steps), least), 0, {}
    while at + window <= steps:
        at += window
        found[at] = window
        window = max(window - max(int(0.03 * steps), 1), least)
    return found


@dataclass(frozen=True)
class APGDStep:
    """A step along the steepest direction with momentum; checks, halvings and returns are each clip's own.

    ``z = P(x + alpha * d)``, ``x <- P(x + a * (z - x) + (1 - a) * (x - previous))``, a = 1 at first, then 0.75.
    At a checkpoint a clip halves alpha and goes back to its best point when its objective rose in at most
    ``rho`` of the window's steps, or when the check before left alpha as it was and the best has not improved
    since. Going back leaves ``previous`` where it was, so the next momentum is a jump (as in the authors' code).

    Source: Croce and Hein 2020, algorithm 1. The authors' code compares the first step with an empty slot of its
    table; here it is compared with the start.

    Attributes:
        size: first step as a fraction of the budget.
        rho: share of rising steps that counts as progress.
    """

    size: float = 2.0
    rho: float = 0.75

    def init(self, variable: Tensor) -> State:
        def filled(value: float) -> Tensor:
            return torch.full((len(variable),), value, dtype=variable.dtype, device=variable.device)

        return {
            "previous": variable,
            "best": variable,
            "best_gradient": torch.zeros_like(variable),
            "best_value": filled(-torch.inf),
            "last_value": filled(torch.inf),  # the start is no rise
            "checked_value": filled(-torch.inf),
            "size": filled(self.size),
            "rises": filled(0.0),
            "halved": torch.ones(len(variable), dtype=torch.bool, device=variable.device),
        }

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        return variables

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        value = here.value.to(state["last_value"].dtype)
        higher = value > state["best_value"]
        state = {
            **state,
            "best": torch.where(per_clip(higher, here.variable), here.variable, state["best"]),
            "best_gradient": torch.where(per_clip(higher, here.gradient), here.gradient, state["best_gradient"]),
            "best_value": torch.where(higher, value, state["best_value"]),
            "rises": state["rises"] + (value > state["last_value"]),
            "last_value": value,
        }
        window = checkpoints(here.steps).get(here.step)
        if window is not None:
            here, state = self._check(here, state, window)
        target = here.project(here.steepest(here.gradient, state["size"]))
        weight = 1.0 if here.step == 0 else 0.75
        point = here.variable
        moved = point + weight * (target - point) + (1 - weight) * (point - state["previous"])
        return moved, {**state, "previous": point}

    def _check(self, here: Position, state: State, window: int) -> tuple[Position, State]:
        stalled = state["rises"] <= self.rho * window
        stalled |= ~state["halved"] & (state["best_value"] <= state["checked_value"])
        back = replace(
            here,
            variable=torch.where(per_clip(stalled, here.variable), state["best"], here.variable),
            gradient=torch.where(per_clip(stalled, here.gradient), state["best_gradient"], here.gradient),
        )
        return back, {
            **state,
            "size": torch.where(stalled, state["size"] / 2, state["size"]),
            "halved": stalled,
            "checked_value": state["best_value"],
            "rises": torch.zeros_like(state["rises"]),
        }


@dataclass(frozen=True)
class APGD(GradientAttack):
    """What the Auto-PGD attacks have in common; see `APGDStep`.

    Each climb starts at a random point of the threat model. Default first step: twice the budget.

    Attributes:
        steps: gradient steps per start. Default 100; a warning below 30, where the windows lose their meaning.
        rho: share of rising steps that counts as progress, in (0, 1). Default 0.75.
        copies_per_pass: of the copies of ``eot``, those that go through the model at once. More need more memory.
            Default 5.
    """

    steps: int = 100
    rho: float = 0.75
    copies_per_pass: int = 5

    random_start: ClassVar[bool] = True

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not 0 < self.rho < 1:
            raise InputError(f"rho is a share of steps in (0, 1), got rho={self.rho:g}.")
        if self.copies_per_pass < 1:
            raise InputError(f"APGD needs copies_per_pass of at least 1, got {self.copies_per_pass}.")
        if self.steps < FEW_STEPS:
            message = f"APGD adapts its step badly in fewer than {FEW_STEPS} steps (got {self.steps}): use pgd instead."
            warnings.warn(message, RobustVideoWarning, stacklevel=3)

    @property
    def default_step(self) -> float:
        return 2.0

    def update(self) -> APGDStep:
        return APGDStep(self.relative_step, self.rho)

    @property
    def eot_per_pass(self) -> int:
        return self.copies_per_pass


@attacks.register("apgd_ce")
@dataclass(frozen=True)
class APGDCE(APGD):
    """Auto-PGD on the cross-entropy (Croce and Hein 2020)."""


@attacks.register("apgd_dlr")
@dataclass(frozen=True)
class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio, which a saturated softmax cannot mask (Croce and Hein 2020)."""

    def objective(self) -> Objective:
        return TargetedDLR() if self.targeted else DLR()


@attacks.register("apgd_t")
@dataclass(frozen=True)
class APGDT(APGD):
    """Auto-PGD towards each of the likeliest wrong classes in turn, on the targeted DLR (Croce and Hein 2020).

    The classes are those of the clean clips. With fewer than four classes the objective is the plain margin. A
    targeted call has one target, its label.

    Attributes:
        targets: wrong classes tried per start, at most; there are K - 1. Default 9.
    """

    targets: int = 9

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.targets < 1:
            raise InputError(f"apgd_t needs at least one target, got targets={self.targets}.")

    def objective(self) -> Objective:
        return TargetedDLR()

    def solve(self, problem: Problem) -> AttackResult:
        if problem.targeted:
            return super().solve(problem)
        ranked = likeliest_wrong(problem, self.targets)
        climbs = (
            replace(self.ascent(restart), objective=TargetedDLR(rank), seed=(self.seed, restart, rank))
            for restart in range(self.restarts)
            for rank in range(ranked.shape[1])
        )
        result = in_turn(replace(problem, reference={TARGETS: ranked}), climbs, self.early_stop)
        return replace(result, forward_passes=result.forward_passes + 1)
