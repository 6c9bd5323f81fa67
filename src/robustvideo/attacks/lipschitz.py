"""The local Lipschitz ratio: how far an output moves for how far the clip has moved (video MoE, equation 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem
from robustvideo.clip import Clip, Modality

Ratio = Literal["mse", "l2"]
Space = Literal["logits", "probs"]

_LEAST = 1e-12  # of the clip's mean squared change: 0 / 0 where nothing has changed is 0


def local_lipschitz(clean_output: Tensor, output: Tensor, moved: Tensor) -> Tensor:
    """``MSE(g(x), g(x + delta)) / MSE(x, x + delta)``, clip by clip.

    The paper equates this with the ratio of squared norms, which is larger by (values of a clip) / (outputs). The
    means make routers, experts and whole models comparable, and fit the magnitudes the paper reports.

    Args:
        clean_output: (B, n) g(x); subtracted in fp32 at least, because half precision would cancel.
        output: (B, n) g(x + delta).
        moved: (B,) ``MSE(x, x + delta)``, see `mean_square_change`. Its gradient is part of the method.

    Returns:
        (B,).
    """
    change = _full(output) - _full(clean_output)
    return change.square().mean(1) / moved.clamp_min(_LEAST)


def mean_square_change(clean: Clip, changed: Clip, modalities: Iterable[Modality] = ("video",)) -> Tensor:
    """(B,) mean over all values of the given modalities of ``(x - x')^2``, in fp32 at least."""
    squares = [
        (_full(changed.signal(m)) - _full(clean.signal(m))).square().flatten(1) for m in dict.fromkeys(modalities)
    ]
    return squares[0].mean(1) if len(squares) == 1 else torch.cat(squares, dim=1).mean(1)


@dataclass(frozen=True)
class LipschitzTerm:
    """``weight * ratio``, as a term of an attack's objective.

    Attributes:
        weight: lambda of equation 4; 0 leaves the ratio out.
        ratio: "mse", or "l2" for squared norms.
        detach_denominator: let no gradient pass the change of the clip.
        space: what is compared, the "logits" or their softmax, "probs".
    """

    weight: float = 0.01
    ratio: Ratio = "mse"
    detach_denominator: bool = False
    space: Space = "logits"

    def __call__(self, clean_output: Tensor, output: Tensor, problem: Problem, adversarial: Clip) -> Tensor:
        """(B,) for logits (B, n) of the clean and the adversarial clips."""
        if self.weight == 0:
            return output.new_zeros(len(output), dtype=torch.promote_types(output.dtype, torch.float32))
        if self.space == "probs":
            clean_output, output = _full(clean_output).softmax(1), _full(output).softmax(1)
        modalities = [part.modality for part in problem.threat.parts]
        moved = mean_square_change(problem.clip, adversarial, modalities)
        if self.detach_denominator:
            moved = moved.detach()
        scale = 1.0
        if self.ratio == "l2":
            values = sum(problem.clip.signal(m)[0].numel() for m in set(modalities))
            scale = output.shape[1] / values
        return self.weight * scale * local_lipschitz(clean_output, output, moved)


def _full(values: Tensor) -> Tensor:
    return values.float() if values.element_size() < 4 else values
