"""Difference of logits ratio: margins on a scale that the model cannot choose, plain and towards a target.

Dividing a margin by the spread of the logits makes it blind to their shift and scale, so a model whose softmax is
saturated keeps its gradient. Source: Croce and Hein 2020 (AutoAttack), section 4.2 and equation 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, judge
from robustvideo.attacks.objectives import Margin

TARGETS = "targets"
"""The entry of `Problem.reference` under which an attack keeps what `likeliest_wrong` found."""

_LEAST_SPREAD = 1e-6  # of the logits' range: where the leading logits tie, the ratio must not explode


class DLR(Margin):
    """``(max_{j != y} z_j - z_y) / (z_(1) - z_(3))``, z_(k) the k-th largest logit; gradients pass the denominator.

    Of a correctly classified clip it lies in [-1, 0]. With two classes there is no third logit: the plain margin.
    Towards a target take `TargetedDLR`: this ratio can then be raised by widening the spread alone.
    """

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        margin = super().value(logits, problem)
        if logits.shape[1] < 3:
            return margin
        return margin / _spread(logits, logits.topk(3, dim=1).values[:, 2])


@dataclass(frozen=True)
class TargetMargin(Margin):
    """``z_t - z_y``, t the clip's ``rank``-th likeliest wrong class (see `likeliest_wrong`), y its label.

    In a targeted attack the label is the target, and the margin is that over the largest other logit.

    Attributes:
        rank: which of the wrong classes, from 0.
    """

    rank: int = 0

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {} if problem.targeted else {"target": problem.reference[TARGETS][:, self.rank]}

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        if problem.targeted:
            return super().value(logits, problem)
        pair = logits.gather(1, torch.stack([problem.reference["target"], problem.labels], dim=1))
        return pair[:, 0] - pair[:, 1]


class TargetedDLR(TargetMargin):
    """``(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)``; with fewer than four classes the plain `TargetMargin`."""

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        margin = super().value(logits, problem)
        if logits.shape[1] < 4:
            return margin
        return margin / _spread(logits, logits.topk(4, dim=1).values[:, 2:].mean(1))


def likeliest_wrong(problem: Problem, count: int) -> Tensor:
    """(B, min(count, K - 1)) wrong classes, by falling logit of the clean clips. One forward pass.

    Raises:
        InputError: logits that are not finite, or fewer classes than the labels need.
    """
    logits = judge(problem.model, problem.clip, problem.labels).logits
    wrong = logits.scatter(1, problem.labels[:, None], -torch.inf)
    return wrong.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _spread(logits: Tensor, lower: Tensor) -> Tensor:
    """``z_(1) - lower``, kept away from zero by the logits' range; 1 where all logits are equal."""
    top = logits.amax(1)
    extent = top - logits.amin(1)
    spread = torch.maximum(top - lower, _LEAST_SPREAD * extent)
    return torch.where(extent > 0, spread, torch.ones_like(spread))
