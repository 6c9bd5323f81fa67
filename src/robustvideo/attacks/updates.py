"""Update rules: how a gradient moves the variable of one part of a threat model.

Step sizes are relative to the budget, so one rule serves every part, and every clip of a batch with budgets of
its own. A rule's state is a dictionary of tensors with one row per clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, Variables
from robustvideo.clip import per_clip
from robustvideo.threat import Part

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Position:
    """Where one part of a climb stands when it is about to move.

    Attributes:
        part: the part of the threat model.
        signal: the clean signal of its modality.
        eps: (B,) budgets.
        mask: where changes are allowed; None for everywhere.
        variable: the current point.
        gradient: of the objective, at the point that the rule asked for.
        value: (B,) objective there.
        step: number of this step, from 0.
        steps: number of steps of the climb.
    """

    part: Part
    signal: Tensor
    eps: Tensor
    mask: Tensor | None
    variable: Tensor
    gradient: Tensor
    value: Tensor
    step: int
    steps: int

    def project(self, variable: Tensor) -> Tensor:
        """A point moved into ball, box and support."""
        return self.part.project(self.signal, variable, self.eps, self.mask)

    def steepest(self, direction: Tensor, size: float | Tensor) -> Tensor:
        """The current point, moved by ``size`` budgets (a number, or one per clip) along the steepest direction."""
        steepest = self.part.steepest(direction, self.signal, self.mask)
        return self.variable + per_clip(size * self.eps, self.variable) * steepest


class UpdateRule(Protocol):
    """One step of ascent on one part."""

    def init(self, variable: Tensor) -> State:
        """State before the first step: tensors with one row per clip."""

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        """Where the next gradient is to be taken: ``variables`` itself, unless the rule looks ahead."""

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        """The moved variable, which the loop then projects, and the new state."""


class _AtThePoint:
    """A rule that takes gradients where it stands."""

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        return variables


@dataclass(frozen=True)
class SteepestStep(_AtThePoint):
    """``z + size * eps * d``, d the steepest direction of the part's norm: the sign for Linf (Madry et al. 2018).

    Attributes:
        size: step as a fraction of the budget.
    """

    size: float

    def init(self, variable: Tensor) -> State:
        return {}

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        return here.steepest(here.gradient, self.size), state


@dataclass(frozen=True)
class MomentumStep(_AtThePoint):
    """``m <- decay * m + g / mean|g|``, then a steepest step along m (Dong et al. 2018).

    The paper divides by the L1 norm; the mean absolute value differs by a constant that the sign ignores, and it
    gives `NesterovStep` its intended scale. The mean is per clip and per part: over a batch it would couple clips.

    Attributes:
        size: step as a fraction of the budget.
        decay: the momentum's decay factor; 0 gives the plain steepest step.
    """

    size: float
    decay: float = 1.0

    def init(self, variable: Tensor) -> State:
        return {"momentum": torch.zeros_like(variable)}

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        momentum = self.decay * state["momentum"] + over_mean(here.gradient)
        return here.steepest(momentum, self.size), {"momentum": momentum}


@dataclass(frozen=True)
class NesterovStep(MomentumStep):
    """`MomentumStep` with the gradient taken at ``z + size * eps * decay * m`` (Lin et al. 2020).

    That point may lie outside the ball, as theirs does; what is kept of it is projected. In norms other than
    Linf, m is first scaled to norm 1, so that looking ahead means about one step there too.
    """

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        ahead = []
        for i, part in enumerate(problem.threat.parts):
            signal, mask = problem.clip.signal(part.modality), problem.masks[i]
            lead = part.of_norm_one(states[i]["momentum"], signal, mask)
            ahead.append(variables[i] + per_clip(self.size * self.decay * problem.eps[i], lead) * lead)
        return tuple(ahead)


@dataclass(frozen=True)
class AdamStep(_AtThePoint):
    """Adam (Kingma and Ba 2015), ascending. All its moments are per value, so clips stay apart.

    Attributes:
        rate: learning rate, in the variable's own unit (not relative to the budget).
        beta1, beta2, epsilon: Adam's constants.
    """

    rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, variable: Tensor) -> State:
        return {"first": torch.zeros_like(variable), "second": torch.zeros_like(variable)}

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        first = torch.lerp(here.gradient, state["first"], self.beta1)
        second = torch.lerp(here.gradient.square(), state["second"], self.beta2)
        bias1, bias2 = (1 - beta ** (here.step + 1) for beta in (self.beta1, self.beta2))
        moved = here.variable + self.rate * (first / bias1) / ((second / bias2).sqrt() + self.epsilon)
        return moved, {"first": first, "second": second}


def over_mean(gradient: Tensor) -> Tensor:
    """A gradient (B, ...) divided by its mean absolute value, clip by clip; a zero gradient stays zero."""
    mean = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / per_clip(mean, gradient)
