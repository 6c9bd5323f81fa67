"""Joint attacks on a mixture of experts: the whole model and its router at once (video MoE, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.router import RouterLoss, check_router, require_weight
from robustvideo.attacks.tla import RoutingMode, TemporalLipschitzAttack, WholeLoss, everyone, surrogate_logits
from robustvideo.clip import Clip
from robustvideo.model import Model, Routing, route


@attacks.register("j_tla")
@dataclass(frozen=True)
class JTLA(TemporalLipschitzAttack):
    """Joint temporal Lipschitz attack: the whole model, and away from the router's choice.

    ``l = whole * l_MoE + gamma2 * l_R`` (video MoE, equation 10), one perturbation and one backward pass; the terms
    are those of `TLAM` and `TLAR`. Towards a target only the class's cross-entropy changes its sign.

    The text speaks of router and experts, the equation of router and whole model: this is the equation.

    Attributes:
        gamma2: weight of the router's loss. Default 1, our decision.
        whole: weight of the whole model's loss. Default 1, the paper's; 0 leaves the attack on the router.
        routing: see `TLAM`.
    """

    gamma2: float = 1.0
    whole: float = 1.0
    routing: RoutingMode = "hard"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_weight("gamma2", self.gamma2)
        require_weight("whole", self.whole)

    def objective(self) -> Objective:
        router = RouterLoss(self.lipschitz)
        return JointLoss(WholeLoss(self.lipschitz, self.routing), router, self.gamma2, self.whole)


@attacks.register("j_tlga")
@dataclass(frozen=True)
class JTLGA(JTLA):
    """Joint temporal Lipschitz attack that guides the router to the expert it trusts least.

    ``l = whole * l_MoE + gamma2 * l_R*`` (video MoE, equation 10), with the router's loss of `TLGAR`.

    Attributes:
        gamma1: weight of the guidance in the router's loss. Default 1, our decision.
    """

    gamma1: float = 1.0

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_weight("gamma1", self.gamma1)

    def objective(self) -> Objective:
        router = RouterLoss(self.lipschitz, self.gamma1)
        return JointLoss(WholeLoss(self.lipschitz, self.routing), router, self.gamma2, self.whole)


@dataclass(frozen=True)
class JointLoss:
    """``weight * l_MoE + gamma2 * l_R``, from one forward pass.

    Attributes:
        whole: the whole model's loss.
        router: the router's loss.
        gamma2: weight of the router's loss.
        weight: weight of the whole model's loss.
    """

    whole: WholeLoss
    router: RouterLoss
    gamma2: float = 1.0
    weight: float = 1.0

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        if problem.reference:
            return problem.reference
        with torch.no_grad():
            clean = self._route(problem.model, problem.clip)
            check_router(clean)
            return {"logits": surrogate_logits(clean, self.whole.routing), "router_logits": clean.router_logits}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        routing = self._route(problem.gradient_model, adversarial)
        logits = surrogate_logits(routing, self.whole.routing)
        value = self.weight * self.whole.value(logits, problem, adversarial)
        value = value + self.gamma2 * self.router.value(routing.router_logits, problem, adversarial)
        return value, routing.logits

    def _route(self, model: Model, clip: Clip) -> Routing:
        return route(model, clip, None if self.whole.routing == "hard" else everyone(clip))
