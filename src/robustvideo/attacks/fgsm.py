"""The fast gradient sign method, in one step and in several."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.attacks.updates import SteepestStep, UpdateRule


@attacks.register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method: one step of the whole budget (Goodfellow et al. 2015).

    ``x + eps * d``, with d the steepest direction of the cross-entropy at the clean clip: the sign of the gradient
    for Linf, its normalised value for L2, the frame with the largest gradient for L2,1.

    What is returned is where the step led, also where it overshot and the clean clip had the larger margin: the step is
    the attack, and a clean clip fools no other model. (Iterated attacks return the best point that they met.) With
    ``early_stop`` a clip that is misclassified from the start stays as it is.
    """

    def solve(self, problem: Problem) -> AttackResult:
        climb = Ascent(
            objective=CrossEntropy(),
            estimator=plain,
            update=SteepestStep(1.0),
            steps=1,
            early_stop=self.early_stop,
            last=not self.early_stop,
        )
        return climb(problem)


@attacks.register("ifgsm")
@dataclass(frozen=True)
class IFGSM(GradientAttack):
    """Iterated fast gradient sign method, or basic iterative method (Kurakin et al. 2017).

    ``steps`` steps of ``eps / steps`` from the clean clip. With one step it is FGSM, but for the point that is
    returned.
    """

    def update(self) -> UpdateRule:
        return SteepestStep(self.relative_step)
