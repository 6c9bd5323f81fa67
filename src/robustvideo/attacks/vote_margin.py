"""PGD that turns the votes of a defended model one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks
from robustvideo.attacks.objectives import Margin, Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.errors import InputError


@dataclass(frozen=True)
class HingedMargin(Margin):
    """``min(max_{j != y} z_j - z_y, kappa)``, the mean of it over the votes of a model that votes.

    A vote that is lost by kappa contributes nothing more, so that the effort goes to the others.

    Attributes:
        kappa: in units of the logits.
    """

    kappa: float

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        return super().value(logits, problem).clamp_max(self.kappa)


@attacks.register("vote_pgd")
@dataclass(frozen=True)
class VotePGD(PGD):
    """PGD on the mean hinged margin of the votes, for models that vote over several purifications.

    ``(1/M) sum_j min(max_{k != y} z_jk - z_jy, kappa)``. `pgd` ascends the votes' mean cross-entropy, of which a few
    hopeless votes can take all the effort: run both, and keep the stronger per clip. On a model of one vote this is
    PGD on the margin.

    Attributes:
        kappa: margin beyond which a vote counts as lost for good. Default 1.

    Raises:
        InputError: a kappa that is not positive.
    """

    kappa: float = 1.0

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not self.kappa > 0:
            raise InputError(f"kappa of vote_pgd is positive, got {self.kappa:g}.")

    def objective(self) -> Objective:
        return HingedMargin(self.kappa)
