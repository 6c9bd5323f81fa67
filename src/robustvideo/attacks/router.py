"""Attacks on the router of a mixture of experts (video MoE, section 4.1).

They never look at the class: a clip counts as broken when the whole model misclassifies it all the same. How often
the route changed, and where to, is measured by `robustvideo.evaluation.routing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks, check_classes
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.tla import ReferencedPGD, TemporalLipschitzAttack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Routing, route


@attacks.register("pgd_r")
@dataclass(frozen=True)
class PGDR(ReferencedPGD):
    """PGD on a router: away from the expert it chose, ``CE(R(x + delta), y_R)`` (video MoE, section 3).

    ``y_R = argmax R(x)``, also where more than one expert is chosen.

    Raises:
        InputError: targeted: the objective has no class.
    """

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        refuse_targets(self)

    def objective(self) -> Objective:
        return RouterLoss(LipschitzTerm(0.0))


@attacks.register("tla_r")
@dataclass(frozen=True)
class TLAR(TemporalLipschitzAttack):
    """Temporal Lipschitz attack on a router: away from its choice, and as steeply as can be.

    ``l_R = CE(R(x + delta), y_R) + lam * ratio(R)`` (video MoE, equation 8), ascended with equations 5 to 7.

    Raises:
        InputError: targeted: the objective has no class.
    """

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        refuse_targets(self)

    def objective(self) -> Objective:
        return RouterLoss(self.lipschitz)


@attacks.register("tlga_r")
@dataclass(frozen=True)
class TLGAR(TLAR):
    """Temporal Lipschitz attack that guides the router to the expert it trusts least.

    ``l_R* = l_R - gamma1 * CE(R(x + delta), yhat_R)``, ``yhat_R = argmin R(x)`` (video MoE, equation 9). With
    ``lam=0`` and ``gamma1=1`` that is the difference of two router logits, which never saturates.

    Attributes:
        gamma1: weight of the guidance. Default 1, our decision.
    """

    gamma1: float = 1.0

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_weight("gamma1", self.gamma1)

    def objective(self) -> Objective:
        return RouterLoss(self.lipschitz, self.gamma1)


@dataclass(frozen=True)
class RouterLoss:
    """``CE(R(x + delta), y_R) + lam * ratio(R) - gamma1 * CE(R(x + delta), yhat_R)`` (equations 8 and 9).

    Attributes:
        lipschitz: the second term.
        gamma1: weight of the third.
    """

    lipschitz: LipschitzTerm
    gamma1: float = 0.0

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        if problem.reference:
            return problem.reference
        with torch.no_grad():
            clean = route(problem.model, problem.clip)
            check_router(clean)
            return {"router_logits": clean.router_logits}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        routing = route(problem.gradient_model, adversarial)
        check_classes(problem.highest_label, routing.logits.shape[1])
        return self.value(routing.router_logits, problem, adversarial), routing.logits

    def value(self, router: Tensor, problem: Problem, adversarial: Clip) -> Tensor:
        """(B,) for router logits (B, M) of the adversarial clips."""
        clean = problem.reference["router_logits"]
        loss = F.cross_entropy(router, clean.argmax(1), reduction="none")
        if self.gamma1 != 0:
            loss = loss - self.gamma1 * F.cross_entropy(router, clean.argmin(1), reduction="none")
        return loss + self.lipschitz(clean, router, problem, adversarial)


def check_router(routing: Routing) -> None:
    """Raise `InputError` where there is one expert, and so nothing to choose."""
    if routing.weights.shape[1] < 2:
        raise InputError("This mixture has one expert: its router chooses nothing that could be attacked.")


def refuse_targets(attack: ReferencedPGD) -> None:
    """Raise `InputError` for a targeted attack on a router."""
    if attack.targeted:
        raise InputError(f"{attack.registered_name} attacks the router, which knows no classes: it has no targets.")


def require_weight(name: str, value: float) -> None:
    """Raise `InputError` unless a weight is finite and at least 0."""
    if not 0 <= value < float("inf"):
        raise InputError(f"A weight is finite and at least 0, got {name}={value:g}.")
