"""DiffAttack: PGD that also drives a diffusion purifier off its way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks, check_classes
from robustvideo.attacks.objectives import CrossEntropy, Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Voting, reconstruct


@dataclass(frozen=True)
class DeviatedReconstruction(CrossEntropy):
    """``J_cls + deviation * (1 / |S|) sum_{t in S} mean (z*_t - z~_t)^2``, J_cls the votes' mean cross-entropy.

    z* is the way back; z~ the way out at the same level, with the noise that started the way back, or by inversion,
    and no gradient.

    Attributes:
        deviation: weight of the second term.
    """

    deviation: float

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        model = problem.gradient_model
        votes, deviation = reconstruct(model, adversarial)
        logits = model.verdict(votes) if isinstance(model, Voting) else votes.mean(1)
        check_classes(problem.highest_label, votes.shape[2])
        if votes.element_size() < 4:
            votes, logits = votes.float(), logits.float()
        value = torch.stack([self.value(vote, problem) for vote in votes.unbind(1)]).mean(0)
        return value + self.deviation * deviation, logits


@attacks.register("diffattack")
@dataclass(frozen=True)
class DiffAttack(PGD):
    """PGD on a diffusion purifier's exact gradient and its deviated reconstruction (Kang et al. 2023, reconstructed).

    Two parts. The gradient, computed step by step in constant memory, is that of a purifier with ``gradient=exact`` (or
    of its surrogate, with ``gradient=surrogate``). The objective adds, at every level below the top, the squared
    distance between the way back and the way out; see `DeviatedReconstruction`. Published code is a README; the term
    follows a later re-implementation: mean squared error, all steps, equal weights.

    Attributes:
        deviation: weight of the added term; 0 leaves PGD on the exact gradient. Default 1, our decision: report 0 and
            10 as well, the term can outweigh the cross-entropy.

    Raises:
        InputError: a weight that is negative.
    """

    deviation: float = 1.0

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not 0 <= self.deviation < float("inf"):
            raise InputError(f"deviation of diffattack is finite and at least 0, got {self.deviation:g}.")

    def objective(self) -> Objective:
        return DeviatedReconstruction(self.deviation)
