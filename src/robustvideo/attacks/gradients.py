"""Gradient estimators: how the ascent direction of an objective is obtained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, Variables
from robustvideo.attacks.objectives import Objective
from robustvideo.clip import per_clip

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FP16_SCALE = 1024.0  # keeps small gradients above fp16's underflow; divided out again


@dataclass(frozen=True, eq=False)
class Estimate:
    """A gradient, and what was seen on the way.

    Attributes:
        gradients: one tensor per part of the threat model, shaped like its variable; never NaN or infinite.
        objective: (B,) detached.
        logits: (B, K) detached, at the point where the gradient was taken.
        forwards, backwards: passes per clip.
    """

    gradients: Variables
    objective: Tensor
    logits: Tensor
    forwards: int = 1
    backwards: int = 1

    def select(self, index: Tensor) -> Estimate:
        """The estimate for some of the clips."""
        return replace(
            self,
            gradients=tuple(g[index] for g in self.gradients),
            objective=self.objective[index],
            logits=self.logits[index],
        )


class GradientEstimator(Protocol):
    """Estimates the gradient of an objective with respect to the variables."""

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        """Gradient at ``variables``, for the climb's step number ``step`` (which seeds an estimator's draws)."""


def plain(problem: Problem, objective: Objective, variables: Variables, step: int = 0) -> Estimate:
    """One forward and one backward pass. Gradients are taken with respect to the variables alone.

    A part that the model ignores, and a model that cuts the graph, get a zero gradient; for entries that are not finite
    see `finite`.
    """
    variables = tuple(v.detach().requires_grad_() for v in variables)
    with autocast(problem):
        adversarial = problem.threat.perturb(problem.clip, variables, problem.masks)
        value, logits = objective(problem, adversarial)
    if not value.requires_grad:
        return Estimate(tuple(torch.zeros_like(v) for v in variables), value, logits, backwards=0)
    scale = _FP16_SCALE if problem.precision == "fp16" else 1.0
    raw = torch.autograd.grad(value.sum() * scale, variables, allow_unused=True, materialize_grads=True)
    gradients = tuple(finite(g / scale if scale != 1 else g) for g in raw)
    return Estimate(gradients, value.detach(), logits.detach())


def finite(gradient: Tensor) -> Tensor:
    """A gradient (B, ...) without NaN, which becomes 0, and without infinities: largest finite size of their clip.

    In fp16 what overflows is the largest there is: as 0 it would hold back just the values that matter most, and as the
    largest number of its type it would leave nothing of the others where a gradient is divided by its norm. Where a
    clip has no other size than 0, an infinity becomes 1.
    """
    if gradient.device.type == "cpu" and gradient.sum().isfinite():  # then all are; a GPU would have to be waited for
        return gradient
    largest = torch.where(gradient.isfinite(), gradient.abs(), 0).flatten(1).amax(1)
    bound = per_clip(torch.where(largest > 0, largest, 1), gradient)
    return torch.nan_to_num(gradient, nan=0.0).clamp(-bound, bound)


@contextmanager
def autocast(problem: Problem) -> Iterator[None]:
    """The precision of gradient passes; a gradient twin runs in no other."""
    dtype = _AUTOCAST.get(problem.precision)
    with torch.autocast(problem.clip.device.type, dtype=dtype, enabled=dtype is not None):
        yield
