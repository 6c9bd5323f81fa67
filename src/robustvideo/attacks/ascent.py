"""The ascent loop: one objective, one gradient estimator, one update rule, one threat model.

FGSM, PGD, momentum attacks and most of what the papers propose are compositions of these parts. The loop adds what
they all need: random starts, the active set (a clip leaves the batch at its first verified success), the best
iterate, traces and counters. Every decision is made per clip. Restarts are several ascents `in_turn`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, Variables, Verdict, margin
from robustvideo.attacks.gradients import Estimate, GradientEstimator
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.updates import Position, State, UpdateRule
from robustvideo.clip import per_clip


@dataclass(frozen=True)
class Ascent:
    """One climb from one start.

    Attributes:
        objective: what to increase.
        estimator: how its gradient is obtained.
        update: how the gradient moves the variables.
        steps: gradient steps; 0 tries the start alone.
        random_start: start at a random point of the ball instead of at the clean clip.
        early_stop: a clip that has verifiably succeeded is not attacked further. Without it every clip takes all
            steps, and the largest margin wins.
        last: return where the climb ended, whatever was better on the way; needs ``early_stop=False``.
        seed: seeds every random draw of the climb, with each clip's id. Any printable value.
    """

    objective: Objective
    estimator: GradientEstimator
    update: UpdateRule
    steps: int
    random_start: bool = False
    early_stop: bool = True
    last: bool = False
    seed: object = 0

    def __call__(self, problem: Problem) -> AttackResult:
        """Climb, and return per clip the best verified point: a success before none, then the largest margin."""
        problem = replace(problem, reference=self.objective.reference(problem), seed=self.seed)
        best = _Best(problem, self.steps)
        self._climb(self._front(problem), best)
        return best.result()

    def _front(self, problem: Problem) -> _Front:
        random = problem.random("start") if self.random_start else None
        variables = []
        for part, eps, mask in zip(problem.threat.parts, problem.eps, problem.masks, strict=True):
            signal = problem.clip.signal(part.modality)
            start = part.zeros(signal) if random is None else part.random_start(signal, eps, mask, random)
            variables.append(start)
        rows = torch.arange(len(problem.clip), device=problem.clip.device)
        return _Front(
            problem=problem,
            rows=rows,
            variables=tuple(variables),
            states=tuple(self.update.init(v) for v in variables),
            peak=tuple(variables),
            peak_margin=torch.full((len(rows),), -torch.inf, device=rows.device),
            first_positive=torch.full_like(rows, self.steps),
            trace=torch.full((len(rows), self.steps), torch.nan, device=rows.device),
        )

    def _climb(self, front: _Front, best: _Best) -> None:
        for step in range(self.steps):
            problem = front.problem
            point = self.update.query(problem, front.variables, front.states)
            estimate = self.estimator(problem, self.objective, point, step)
            best.count(front.rows, estimate.forwards, estimate.backwards)
            front.trace[:, step] = estimate.objective.to(front.trace.dtype)
            margins = margin(estimate.logits, problem.labels, problem.targeted)
            candidate = front.projected(point)
            looked_ahead = candidate is not point
            hopeful = margins > 0
            if not looked_ahead:
                front = front.with_peak(point, margins, step)
            elif not self.early_stop:
                hopeful = hopeful & ~best.success[front.rows]
            # the margin of a look-ahead point is a hint: only the verdict counts
            if self.early_stop or (looked_ahead and not self.last):
                left = front.settle(hopeful.nonzero()[:, 0], candidate, step, best)
                if self.early_stop and len(left) == 0:
                    return
                if self.early_stop and len(left) < len(front.rows):
                    front, estimate = front.select(left), estimate.select(left)
            front = self._move(front, estimate, step)
            best.steps[front.rows] += 1
            del estimate, point, candidate  # a long video's gradients are large: free them before the next ones
        everyone = torch.arange(len(front.rows), device=front.rows.device)
        front.settle(everyone, front.variables, self.steps if self.early_stop else front.first_positive, best)
        if not self.early_stop:
            if not self.last:
                higher = front.peak_margin > best.margin[front.rows]
                front.settle(higher.nonzero()[:, 0], front.peak, front.first_positive, best)
            best.trace[front.rows] = front.trace

    def _move(self, front: _Front, estimate: Estimate, step: int) -> _Front:
        problem = front.problem
        moved, states = [], []
        for i, part in enumerate(problem.threat.parts):
            here = Position(
                part=part,
                signal=problem.clip.signal(part.modality),
                eps=problem.eps[i],
                mask=problem.masks[i],
                variable=front.variables[i],
                gradient=estimate.gradients[i],
                value=estimate.objective,
                step=step,
                steps=self.steps,
            )
            variable, state = self.update.step(here, front.states[i])
            moved.append(here.project(variable))
            states.append(state)
        return replace(front, variables=tuple(moved), states=tuple(states))


@dataclass(frozen=True, eq=False)
class _Front:
    """The clips still being attacked.

    ``rows`` are their places in the batch; ``peak`` is each clip's point of largest margin so far, in the working
    precision; ``first_positive`` is the step at which the margin was first positive, or the number of steps. It
    stands for the first success of clips that are not verified on the way, because they take all steps anyway.
    """

    problem: Problem
    rows: Tensor
    variables: Variables
    states: tuple[State, ...]
    peak: Variables
    peak_margin: Tensor
    first_positive: Tensor
    trace: Tensor

    def select(self, index: Tensor) -> _Front:
        return _Front(
            problem=self.problem.select(index),
            rows=self.rows[index],
            variables=tuple(v[index] for v in self.variables),
            states=tuple({k: v[index] for k, v in s.items()} for s in self.states),
            peak=tuple(v[index] for v in self.peak),
            peak_margin=self.peak_margin[index],
            first_positive=self.first_positive[index],
            trace=self.trace[index],
        )

    def projected(self, point: Variables) -> Variables:
        """A point moved into the threat model, unless it is where the front stands already."""
        if point is self.variables:
            return point
        problem = self.problem
        return tuple(
            part.project(problem.clip.signal(part.modality), variable, eps, mask)
            for part, variable, eps, mask in zip(problem.threat.parts, point, problem.eps, problem.masks, strict=True)
        )

    def with_peak(self, point: Variables, margins: Tensor, step: int) -> _Front:
        higher = margins.to(self.peak_margin.dtype) > self.peak_margin
        return replace(
            self,
            peak=tuple(torch.where(per_clip(higher, v), v, p) for v, p in zip(point, self.peak, strict=True)),
            peak_margin=torch.where(higher, margins.to(self.peak_margin.dtype), self.peak_margin),
            first_positive=torch.where(margins > 0, self.first_positive.clamp(max=step), self.first_positive),
        )

    def settle(self, index: Tensor, point: Variables, step: int | Tensor, best: _Best) -> Tensor:
        """Verify the clips at ``index`` as they would be stored; return the indices of those that go on."""
        going = torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)
        if len(index):
            whole = len(index) == len(self.rows)
            problem = self.problem if whole else self.problem.select(index)
            verdict = problem.verdict(point if whole else tuple(v[index] for v in point))
            steps = torch.as_tensor(step, device=index.device).expand(len(self.rows))[index]
            best.count(self.rows[index], 1, 0)
            best.keep(self.rows[index], verdict, steps, self.trace[index])
            going[index] = ~verdict.success
        return going.nonzero()[:, 0]


class _Best:
    """The best verified clip of every row so far, with traces and counters."""

    def __init__(self, problem: Problem, steps: int):
        count, device = len(problem.clip), problem.clip.device
        self._modalities = {part.modality for part in problem.threat.parts}
        self._clip = problem.clip
        self._logits: Tensor | None = None
        self.success = torch.zeros(count, dtype=torch.bool, device=device)
        self.margin = torch.full((count,), -torch.inf, device=device)
        self._first_success = torch.full((count,), -1, device=device)
        self.steps = torch.zeros(count, dtype=torch.long, device=device)
        self.trace = torch.full((count, steps), torch.nan, device=device)
        self._forwards = torch.zeros(count, dtype=torch.long, device=device)
        self._backwards = torch.zeros(count, dtype=torch.long, device=device)

    def count(self, rows: Tensor, forwards: int, backwards: int) -> None:
        self._forwards[rows] += forwards
        self._backwards[rows] += backwards

    def keep(self, rows: Tensor, verdict: Verdict, steps: Tensor, trace: Tensor) -> None:
        """Take over what is better than known: a success before none, then the larger margin."""
        first = verdict.success & (self._first_success[rows] < 0)
        self._first_success[rows] = torch.where(first, steps, self._first_success[rows])
        margins = verdict.margin.to(self.margin.dtype)
        better = verdict.success & ~self.success[rows]
        better |= (verdict.success == self.success[rows]) & (margins > self.margin[rows])
        chosen = better.nonzero()[:, 0]
        rows = rows[chosen]
        if self._logits is None:
            self._logits = verdict.logits.new_full((len(self.success), verdict.logits.shape[1]), torch.nan)
        self._logits[rows] = verdict.logits[chosen]
        self.success[rows] = verdict.success[chosen]
        self.margin[rows] = margins[chosen]
        self.trace[rows] = trace[chosen]
        if len(chosen) == len(self.success):  # no copy: a long video is large
            self._clip = verdict.clip
            return
        for modality in self._modalities:
            known, found = self._clip.signal(modality), verdict.clip.signal(modality)
            self._clip = self._clip.with_signal(modality, known.index_copy(0, rows, found[chosen]))

    def result(self) -> AttackResult:
        assert self._logits is not None, "an ascent ends with a verdict on every clip"
        return AttackResult(
            clip=self._clip,
            success=self.success,
            first_success_step=self._first_success,
            steps=self.steps,
            loss_trace=self.trace,
            forward_passes=self._forwards,
            backward_passes=self._backwards,
            logits=self._logits,
            margin=self.margin,
        )
