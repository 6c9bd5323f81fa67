"""Natural evolution strategies: a gradient attack whose gradient is estimated from scores alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, AttackResult, Problem, Variables, attacks
from robustvideo.attacks.gradients import Estimate
from robustvideo.attacks.objectives import Margin, Objective
from robustvideo.attacks.queries import VISIBLE, Space, ask, asks_on_grid, check_queries, check_space, directions
from robustvideo.attacks.updates import Position, State
from robustvideo.clip import per_clip
from robustvideo.errors import InputError


@attacks.register("nes")
@dataclass(frozen=True)
class NES(Attack):
    """Natural evolution strategies: projected steps along a gradient estimated from scores (Ilyas et al. 2018).

    ``g = 1 / (n sigma) * sum_{i <= n/2} (L(z + sigma u_i) - L(z - sigma u_i)) u_i``, L the margin, u normal noise;
    then a steepest step, as in PGD. The model is never differentiated. Every query is shown as a file would hold it;
    probes keep to the box, and the point that they surround to the budget too.

    With few queries in many dimensions the estimate is nearly orthogonal to the gradient (cosine about
    ``sqrt((n/2) / d)``: 0.006 for a 16x112x112 clip), so by default the noise is drawn at low resolution.

    Defaults: n 48, a step of a fifth of the budget (0.01 of 0.05), halved after 20 steps without progress down to a
    tenth of itself, after V-BAD's public code (Jiang et al. 2019). Its sigma is at most 1e-5; an 8-bit file cannot
    hold that, so ours is 2/255 for queries on the grid, and 1e-3 off it.

    Attributes:
        queries: forward passes per clip, at most; the last ones confirm the result. Default 5000.
        samples: n, queries per estimate, even. Fewer are used where ``queries`` does not allow for one estimate.
        sigma: size of the probes, in the variable's unit (the range [0, 1]).
        step_size: first step, in the unit of the budget.
        space: where u is drawn: "lowres" (C, T/4, H/8, W/8), "pixel", "frame" (one picture for all frames) or
            "flicker" (one colour per frame).
        query_grid: show the model only clips that a file could hold. Default: if the verdict is on stored clips.
    """

    queries: int = 5000
    samples: int = 48
    sigma: float | None = None
    step_size: float | None = None
    space: Space = "lowres"
    query_grid: bool | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        check_queries(self, self.queries)
        check_space(self.space)
        if self.samples < 2 or self.samples % 2:
            raise InputError(f"nes asks in pairs: samples must be even and positive, got {self.samples}.")
        if self.sigma is not None and not self.sigma > 0:
            raise InputError(f"A probe has a size, got sigma={self.sigma:g}.")
        if self.sigma is not None and self._on_grid and self.sigma < VISIBLE * (1 - 1e-6):
            raise InputError(
                f"sigma={self.sigma:g} is lost when a query is rounded to 8 bits: use at least 2/255, or "
                "query_grid=false."
            )
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"A step must be positive, got step_size={self.step_size:g}.")

    @property
    def _on_grid(self) -> bool:
        return asks_on_grid(self.threat, self.query_grid)

    def solve(self, problem: Problem) -> AttackResult:
        # the verdicts: one for the end and one for the best point; off the grid any point may need one of its own
        reserve, extra = (2, 1) if self._on_grid else (2, 2)
        samples = min(self.samples, (self.queries - reserve - extra) // 2 * 2)
        steps = (self.queries - reserve) // (samples + extra) if samples >= 2 else 0
        sigma = (VISIBLE if self._on_grid else 1e-3) if self.sigma is None else self.sigma
        size = 0.2 if self.step_size is None else self.step_size / self.threat.parts[0].eps
        climb = Ascent(
            objective=Margin(),
            estimator=NESGradient(samples, sigma, self.space, self._on_grid),
            update=PlateauStep(size, least=size / 10),
            steps=steps,
            early_stop=self.early_stop,
            seed=self.seed,
        )
        return climb(problem)


@dataclass(frozen=True)
class NESGradient:
    """The gradient of the margin, estimated from ``samples`` antithetic queries; see `NES`.

    It takes one query more, at the point itself, whose answer is the estimate's ``logits``.

    Attributes:
        samples: queries per estimate, even.
        sigma: size of the probes.
        space: where they are drawn.
        on_grid: show the model clips as a file would hold them.
    """

    samples: int
    sigma: float
    space: Space = "pixel"
    on_grid: bool = False

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        here = ask(problem, variables, self.on_grid)
        random = problem.random("nes", step)
        gradients = tuple(torch.zeros_like(v) for v in variables)
        for _ in range(self.samples // 2):
            probes = tuple(directions(v, self.space, random) for v in variables)
            ahead, behind = (self._margin(problem, variables, probes, sign) for sign in (1, -1))
            slope = (ahead - behind) / (self.samples * self.sigma)
            for gradient, probe in zip(gradients, probes, strict=True):
                gradient += per_clip(slope.to(probe.dtype), probe) * probe
        return Estimate(gradients, here.margin, here.logits, forwards=self.samples + 1, backwards=0)

    def _margin(self, problem: Problem, variables: Variables, probes: Variables, sign: int) -> Tensor:
        moved = tuple(v + sign * self.sigma * u for v, u in zip(variables, probes, strict=True))
        return ask(problem, moved, self.on_grid, bounded=False).margin


@dataclass(frozen=True)
class PlateauStep:
    """Steepest steps, halved for each clip whose objective has not risen above its best for a while.

    Attributes:
        size: first step, as a fraction of the budget.
        least: smallest step.
        patience: steps without progress before a step is halved.
    """

    size: float
    least: float
    patience: int = 20

    def init(self, variable: Tensor) -> State:
        size = variable.new_full((len(variable),), self.size)
        return {"size": size, "best": torch.full_like(size, -torch.inf), "stale": torch.zeros_like(size)}

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        return variables

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        value = here.value.to(state["best"].dtype)
        stale = torch.where(value > state["best"], 0, state["stale"] + 1)
        tired = stale >= self.patience
        size = torch.where(tired, (state["size"] / 2).clamp_min(self.least), state["size"])
        new = {"size": size, "best": torch.maximum(value, state["best"]), "stale": torch.where(tired, 0, stale)}
        return here.steepest(here.gradient, size), new
