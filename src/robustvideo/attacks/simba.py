"""SimBA: one direction after another, kept where the score of the true class falls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Problem, Verdict, attacks
from robustvideo.attacks.masked import require_one_video_part
from robustvideo.attacks.queries import VISIBLE, ask, asks_on_grid, check_queries
from robustvideo.attacks.search import conclude
from robustvideo.clip import per_clip
from robustvideo.errors import InputError, unknown
from robustvideo.threat import L2, Linf

Basis = Literal["dct", "pixel"]


@attacks.register("simba")
@dataclass(frozen=True)
class SimBA(Attack):
    """Simple black-box attack: orthonormal directions in random order, one at a time (Guo et al. 2019).

    Ask ``z + step * q``, then ``z - step * q``, projected onto the budget; keep the first that lowers p_y (towards
    a target: raises p_target), in the form of log-odds, which does not saturate as p_y does. The directions q are
    3-D cosines of the lowest eighth of the frequencies of each axis, or single values (of the support), in an order of
    each clip's own, without replacement; when all have been tried, they are gone through again. In L2, and far from
    box and budget, k kept directions of the first round make a change of norm ``step * sqrt(k)``.

    Default step: in L2 0.2, image practice (the original has no other budget), raised where a file could not hold it
    to what moves the direction's largest value by 2/255. In Linf q is scaled to a largest value of 1, and the step is
    the budget (ours).

    Attributes:
        queries: forward passes per clip, at most; the last confirms the result. Default 5000.
        step_size: length of a step in the norm of the budget.
        basis: "dct" (default) or "pixel".
        query_grid: show the model only clips that a file could hold. Default: if the verdict is on stored clips.
    """

    queries: int = 5000
    step_size: float | None = None
    basis: Basis = "dct"
    query_grid: bool | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        check_queries(self, self.queries)
        require_one_video_part(self)
        if not isinstance(self.threat, Linf | L2):
            raise InputError("simba needs a linf or l2 budget.")
        if self.basis not in get_args(Basis):
            raise unknown("basis", self.basis, get_args(Basis))
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"A step must be positive, got step_size={self.step_size:g}.")

    def solve(self, problem: Problem) -> AttackResult:
        walk = _Walk(self, replace(problem, seed=self.seed))
        for turn in range(self.queries):
            walk.leave()
            if len(walk.rows) == 0:
                break
            step = walk.step(turn)
            kept = walk.keeps(step, torch.ones_like(walk.rows, dtype=torch.bool), turn)
            walk.keeps(-step, ~kept, turn)
            walk.trace[walk.rows, turn] = walk.odds[walk.rows].to(walk.trace.dtype)
        return walk.result()


class _Walk:
    """Where every clip stands: its change, its log-odds, its queries. ``rows`` are the clips still under way."""

    def __init__(self, attack: SimBA, problem: Problem):
        count, device = len(problem.clip), problem.clip.device
        (self.part,) = problem.threat.parts
        self.attack = attack
        self.on_grid = asks_on_grid(problem.threat, attack.query_grid)
        # kept back: a query for the result, and off the grid one for a success that storing may undo
        self.limit = attack.queries - (1 if self.on_grid else 2)
        self.whole = self.here = problem
        self.rows = torch.arange(count, device=device)
        self.variable = self.part.zeros(problem.clip.video)
        self.bases = [self._basis(n) for n in self.variable.shape[2:]]
        self.order, self.useful = self._order()
        clean = ask(problem, (self.variable,), self.on_grid)
        self.odds = log_odds(clean, problem)
        self.asked = torch.ones(count, dtype=torch.long, device=device)
        self.found = torch.where(clean.success, 0, -1)
        self.trace = torch.full((count, attack.queries), torch.nan, device=device)

    def step(self, turn: int) -> Tensor:
        """The next direction of each clip under way, as long as a step."""
        number = self.order[self.rows, turn % self.useful[self.rows]]
        chosen = []
        for basis in reversed(self.bases):
            chosen.append(basis[number % len(basis)])
            number = number // len(basis)
        columns, rows, frames = chosen
        channel = F.one_hot(number, self.variable.shape[1]).to(self.variable)
        direction = (
            channel[:, :, None, None, None]
            * frames[:, None, :, None, None]
            * rows[:, None, None, :, None]
            * columns[:, None, None, None, :]
        )
        return direction * per_clip(self._length(direction), direction)

    def keeps(self, step: Tensor, wanted: Tensor, turn: int) -> Tensor:
        """Ask for a step of the ``wanted`` clips under way, and take it where it helps: a mask of those that did."""
        index = (wanted & (self.asked[self.rows] < self.limit)).nonzero()[:, 0]
        taken = torch.zeros_like(wanted)
        if len(index) == 0:
            return taken
        problem, rows = self.here.select(index), self.rows[index]
        (eps,), (mask,) = problem.eps, problem.masks
        candidate = self.part.project(problem.clip.video, self.variable[rows] + step[index], eps, mask)
        verdict = ask(problem, (candidate,), self.on_grid)
        self.asked[rows] += 1
        odds, known = log_odds(verdict, problem), self.found[rows] >= 0
        fools = verdict.success if self.on_grid else self._confirmed(problem, candidate, verdict.success, rows)
        helps = torch.where(known, fools & (odds > self.odds[rows]), fools | (odds > self.odds[rows]))
        self.found[rows[fools & ~known]] = turn + 1
        self.variable[rows[helps]] = candidate[helps]
        self.odds[rows[helps]] = odds[helps]
        taken[index] = helps
        return taken

    def leave(self) -> None:
        """Let go of the clips that are done."""
        going = self.asked[self.rows] < self.limit
        if self.attack.early_stop:
            going &= self.found[self.rows] < 0
        if not bool(going.all()):
            self.rows = self.rows[going]
            self.here = self.whole.select(self.rows)

    def result(self) -> AttackResult:
        return conclude(
            self.whole,
            (self.variable,),
            # storing may make a success of what was none: then the search had ended
            first_success_step=torch.where(self.found < 0, (~self.trace.isnan()).sum(1), self.found),
            loss_trace=self.trace,
            forward_passes=self.asked,
            backward_passes=torch.zeros_like(self.asked),
        )

    def _confirmed(self, problem: Problem, candidate: Tensor, claimed: Tensor, rows: Tensor) -> Tensor:
        """Which of the claimed successes are still ones when stored."""
        index = claimed.nonzero()[:, 0]
        confirmed = torch.zeros_like(claimed)
        if len(index):
            confirmed[index] = problem.select(index).verdict((candidate[index],)).success
            self.asked[rows[index]] += 1
        return confirmed

    def _order(self) -> tuple[Tensor, Tensor]:
        """(B, N) numbers of the directions in each clip's order, and (B,) how many of them touch its support."""
        (mask,) = self.whole.masks
        shape = (self.variable.shape[1], *(len(basis) for basis in self.bases))
        draw = self.whole.random("order").uniform(self.variable.new_empty(len(self.rows), math.prod(shape)))
        useful = torch.ones_like(draw, dtype=torch.bool)
        dense = self.variable.shape == self.whole.clip.video.shape
        if self.attack.basis == "pixel" and mask is not None and dense:
            useful = (mask > 0).expand_as(self.variable).flatten(1)
        order = torch.where(useful, draw, draw + 1).argsort(dim=1, stable=True)
        return order, useful.sum(1).clamp_min(1)

    def _basis(self, size: int) -> Tensor:
        basis = cosines(size)[: math.ceil(size / 8)] if self.attack.basis == "dct" else torch.eye(size)
        return basis.to(self.variable)

    def _length(self, direction: Tensor) -> Tensor:
        """(B,) length of a step, per unit of the directions' Euclidean norm."""
        peak = direction.flatten(1).abs().amax(1)
        step = self.attack.step_size
        if isinstance(self.part, Linf):
            (eps,) = self.here.eps
            return (eps if step is None else torch.full_like(eps, step)) / peak
        if step is not None:
            return torch.full_like(peak, step)
        return (VISIBLE / peak).clamp_min(0.2) if self.on_grid else torch.full_like(peak, 0.2)


def log_odds(verdict: Verdict, problem: Problem) -> Tensor:
    """(B,) ``log((1 - p_y) / p_y)``; towards a target ``log(p_target / (1 - p_target))``. It never saturates."""
    column = problem.labels[:, None]
    own = verdict.logits.gather(1, column)[:, 0]
    others = verdict.logits.scatter(1, column, -torch.inf).logsumexp(1)
    return own - others if problem.targeted else others - own


def cosines(size: int) -> Tensor:
    """The orthonormal cosine basis of ``size`` points (DCT-II): row k is frequency k, float64."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
