"""Momentum attacks, made to transfer between models."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.updates import MomentumStep, NesterovStep, UpdateRule
from robustvideo.errors import InputError


@attacks.register("mifgsm")
@dataclass(frozen=True)
class MIFGSM(GradientAttack):
    """Momentum iterative FGSM (Dong et al. 2018).

    ``m <- decay * m + g / mean|g|``; ``x <- P(x + alpha * sign(m))``, with ``alpha = eps / steps``. With decay 0
    it is I-FGSM.

    Attributes:
        decay: the momentum's decay factor, at least 0. Default 1, the paper's.
    """

    decay: float = 1.0

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.decay < 0:
            raise InputError(f"A decay factor is not negative, got decay={self.decay:g}.")

    def update(self) -> UpdateRule:
        return MomentumStep(self.relative_step, self.decay)


@attacks.register("nifgsm")
@dataclass(frozen=True)
class NIFGSM(MIFGSM):
    """Nesterov iterative FGSM (Lin et al. 2020).

    MI-FGSM with the gradient taken where the momentum is about to lead: at ``x + alpha * decay * m``.
    """

    def update(self) -> UpdateRule:
        return NesterovStep(self.relative_step, self.decay)
