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

    A part that the model ignores, and a model that cuts the graph, get a zero gradient; entries that are not
    finite become zero.
    """
    variables = tuple(v.detach().requires_grad_() for v in variables)
    with autocast(problem):
        adversarial = problem.threat.perturb(problem.clip, variables, problem.masks)
        value, logits = objective(problem, adversarial)
    if not value.requires_grad:
        return Estimate(tuple(torch.zeros_like(v) for v in variables), value, logits, backwards=0)
    scale = _FP16_SCALE if problem.precision == "fp16" else 1.0
    raw = torch.autograd.grad(value.sum() * scale, variables, allow_unused=True, materialize_grads=True)
    gradients = tuple(torch.nan_to_num(g / scale if scale != 1 else g, nan=0.0, posinf=0.0, neginf=0.0) for g in raw)
    return Estimate(gradients, value.detach(), logits.detach())


@contextmanager
def autocast(problem: Problem) -> Iterator[None]:
    """The precision of gradient passes; a gradient twin runs in no other."""
    dtype = _AUTOCAST.get(problem.precision)
    with torch.autocast(problem.clip.device.type, dtype=dtype, enabled=dtype is not None):
        yield
