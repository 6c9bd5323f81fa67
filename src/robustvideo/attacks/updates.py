"""Update rules: how a gradient moves the variable of one part of a threat model.

Step sizes are relative to the budget, so one rule serves every part, and every clip of a batch with budgets of
its own. A rule's state is a dictionary of tensors with one row per clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustvideo.attacks.attack import Variables
from robustvideo.clip import per_clip
from robustvideo.threat import Part

State = dict[str, Tensor]


class UpdateRule(Protocol):
    """One step of ascent on one part."""

    def init(self, variable: Tensor) -> State:
        """State before the first step: tensors (B, ...)."""

    def query(self, variables: Variables, states: tuple[State, ...], eps: tuple[Tensor, ...]) -> Variables:
        """Where the next gradient is to be taken: ``variables`` itself, unless the rule looks ahead."""

    def step(self, part: Part, variable: Tensor, gradient: Tensor, state: State, eps: Tensor) -> tuple[Tensor, State]:
        """The moved variable, not yet projected, and the new state."""


@dataclass(frozen=True)
class SteepestStep:
    """``z + step * eps * d``, d the steepest direction of the part's norm: the sign for Linf (Madry et al. 2018).

    Attributes:
        size: step as a fraction of the budget.
    """

    size: float

    def init(self, variable: Tensor) -> State:
        return {}

    def query(self, variables: Variables, states: tuple[State, ...], eps: tuple[Tensor, ...]) -> Variables:
        return variables

    def step(self, part: Part, variable: Tensor, gradient: Tensor, state: State, eps: Tensor) -> tuple[Tensor, State]:
        return variable + per_clip(self.size * eps, variable) * part.steepest(gradient), state


@dataclass(frozen=True)
class MomentumStep:
    """``m <- decay * m + g / mean|g|``, then a steepest step along m (Dong et al. 2018).

    The paper divides by the L1 norm; the mean absolute value differs by a constant that the sign ignores, and it
    gives `nesterov` its intended scale. The mean is per clip and per part: over a batch it would couple clips.

    Attributes:
        size: step as a fraction of the budget.
        decay: the momentum's decay factor; 0 gives the plain steepest step.
        nesterov: take the gradient at ``z + size * eps * decay * m`` (Lin et al. 2020), a point that may lie
            outside the ball, as theirs does.
    """

    size: float
    decay: float = 1.0
    nesterov: bool = False

    def init(self, variable: Tensor) -> State:
        return {"momentum": torch.zeros_like(variable)}

    def query(self, variables: Variables, states: tuple[State, ...], eps: tuple[Tensor, ...]) -> Variables:
        if not self.nesterov:
            return variables
        return tuple(
            v + per_clip(self.size * self.decay * e, v) * s["momentum"]
            for v, s, e in zip(variables, states, eps, strict=True)
        )

    def step(self, part: Part, variable: Tensor, gradient: Tensor, state: State, eps: Tensor) -> tuple[Tensor, State]:
        mean = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = self.decay * state["momentum"] + gradient / per_clip(mean, gradient)
        moved = variable + per_clip(self.size * eps, variable) * part.steepest(momentum)
        return moved, {"momentum": momentum}
