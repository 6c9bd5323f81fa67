"""An attack on the prediction itself: away from what the model says of the clean clip, whatever the class."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robustvideo.attacks.attack import AttackResult, Problem, attacks
from robustvideo.attacks.objectives import Divergence, Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.attacks.search import Search, in_turn
from robustvideo.errors import InputError


@attacks.register("pgd_kl")
@dataclass(frozen=True)
class DivergencePGD(PGD):
    """PGD on the divergence from the clean prediction, the adversary of TRADES (Zhang et al. 2019).

    It ascends ``KL(p(x) || p(x + delta))`` and learns of the label only by its verdicts. The gradient is exactly zero
    at the clean clip; the source therefore starts at ``x + 0.001 N(0, I)``. Here the start is that of `PGD`, uniform
    in the ball, which depends neither on the ball's unit nor on its size. Defaults are those of `PGD`.

    Raises:
        InputError: it is targeted: a divergence from a prediction has no target.
    """

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.targeted:
            raise InputError("pgd_kl leaves the clean prediction and reaches for no class: use pgd(targeted=true).")

    def objective(self) -> Objective:
        return Divergence()

    def solve(self, problem: Problem) -> AttackResult:
        return in_turn(problem, (self._counted(restart) for restart in range(self.restarts)), self.early_stop)

    def _counted(self, restart: int) -> Search:
        """A climb, with the pass that its objective's reference took."""

        def search(problem: Problem) -> AttackResult:
            result = self.ascent(restart)(problem)
            return replace(result, forward_passes=result.forward_passes + 1)

        return search
