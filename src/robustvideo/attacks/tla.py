"""Temporal Lipschitz attack on a whole model, and what all attacks of its family share (video MoE, section 4.1).

A sparse mixture hides its router from gradients (and, where its gate is renormalised, wholly). ``routing=soft`` and
``routing=straight_through`` take gradients of a surrogate that runs all experts; verdicts are always the model's own.
An attack's spec says which one a number used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import AttackResult, Problem, attacks, check_classes
from robustvideo.attacks.lipschitz import LipschitzTerm, Ratio, Space
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.attacks.temporal_momentum import Momentum, TemporalStep
from robustvideo.attacks.updates import SteepestStep, UpdateRule
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, Routing, route, run

RoutingMode = Literal["hard", "soft", "straight_through"]


@dataclass(frozen=True)
class ReferencedPGD(PGD):
    """PGD on an objective that compares with the clean clip, which is looked at once for all restarts.

    Attributes:
        keep: which point of a climb is returned: "best" by the model's margin, or the "last", for measures of the
            objective itself (a ratio may rise where the margin does not). The last takes all steps.
    """

    keep: Literal["best", "last"] = "best"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.keep == "last" and self.restarts > 1:
            raise InputError("keep=last returns where one climb ended: leave restarts at 1.")

    def solve(self, problem: Problem) -> AttackResult:
        reference = self.objective().reference(problem)
        result = super().solve(replace(problem, reference=reference))
        return replace(result, forward_passes=result.forward_passes + 1) if reference else result

    def ascent(self, restart: int = 0) -> Ascent:
        climb = super().ascent(restart)
        return replace(climb, early_stop=False, last=True) if self.keep == "last" else climb


@dataclass(frozen=True)
class TemporalLipschitzAttack(ReferencedPGD):
    """What the temporal Lipschitz attacks have in common: the ratio in the objective, and the temporal step.

    Both can be left out, for ablations: ``tla_m(step=uniform)`` is the paper's LA, ``tla_m(lam=0)`` its T-PGD and
    ``tla_m(step=uniform, lam=0)`` is PGD. Steps, step size and start are those of `PGD`, so that comparisons are
    fair: alpha is ``2.5 / steps``, 0.25 for 10 steps.

    Attributes:
        lam: lambda, weight of the local Lipschitz ratio. Default 0.001, our decision, from validation clips: the attack
            is then as strong as PGD, with 0.01 weaker (docs/results/videomoe.md).
        step: "temporal" (equations 5 to 7) or "uniform".
        beta, momentum: see `TemporalStep`.
        space: what the ratio compares: the softmax of the outputs, "probs" (default, our decision), or the "logits".
            The paper says neither. Logits of a confident network move furthest where it grows more confident still, and
            there the ratio leads: on the embedded networks such an attack is far weaker than PGD.
        ratio, detach_denominator: see `LipschitzTerm`.
    """

    lam: float = 0.001
    step: Literal["temporal", "uniform"] = "temporal"
    beta: float = 0.9
    momentum: Momentum = "frames"
    space: Space = "probs"
    ratio: Ratio = "mse"
    detach_denominator: bool = False

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not 0 <= self.lam < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got lam={self.lam:g}.")
        if not 0 <= self.beta < 1:
            raise InputError(f"Temporal momentum keeps a share in [0, 1), got beta={self.beta:g}.")

    @property
    def lipschitz(self) -> LipschitzTerm:
        """The ratio's term."""
        return LipschitzTerm(self.lam, self.ratio, self.detach_denominator, self.space)

    def update(self) -> UpdateRule:
        if self.step == "uniform":
            return SteepestStep(self.relative_step)
        return TemporalStep(self.relative_step, self.beta, self.momentum)


@attacks.register("tla_m")
@dataclass(frozen=True)
class TLAM(TemporalLipschitzAttack):
    """Temporal Lipschitz attack: cross-entropy and local Lipschitz ratio, with step sizes frame by frame.

    ``l = CE(F(x + delta), y) + lam * MSE(F(x), F(x + delta)) / MSE(x, x + delta)`` (video MoE, equation 4), ascended
    with equations 5 to 7. It attacks any video model; a mixture of experts as a whole. Towards a target only the
    cross-entropy changes its sign.

    Attributes:
        routing: of a mixture, for gradients: "hard", the model's own; "soft", all experts weighed by the router's
            softmax; "straight_through", the model's own output with the soft one's gradient to the router.
    """

    routing: RoutingMode = "hard"

    def objective(self) -> Objective:
        return WholeLoss(self.lipschitz, self.routing)


@dataclass(frozen=True)
class WholeLoss:
    """``CE(F(x + delta), y) + lam * ratio(F)`` (equation 4).

    Attributes:
        lipschitz: the second term.
        routing: see `TLAM`.
    """

    lipschitz: LipschitzTerm
    routing: RoutingMode = "hard"

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        if problem.reference or self.lipschitz.weight == 0:
            return problem.reference
        with torch.no_grad():
            return {"logits": self._logits(problem.model, problem.clip)[0]}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        logits, own = self._logits(problem.gradient_model, adversarial)
        return self.value(logits, problem, adversarial), own

    def value(self, logits: Tensor, problem: Problem, adversarial: Clip) -> Tensor:
        """(B,) for logits (B, K) of the adversarial clips."""
        check_classes(problem.highest_label, logits.shape[1])
        loss = F.cross_entropy(logits, problem.labels, reduction="none")
        if problem.targeted:
            loss = -loss
        if self.lipschitz.weight == 0:
            return loss
        return loss + self.lipschitz(problem.reference["logits"], logits, problem, adversarial)

    def _logits(self, model: Model, clip: Clip) -> tuple[Tensor, Tensor]:
        """(B, K) what the loss is taken of, and the model's own."""
        if self.routing == "hard":
            logits = run(model, clip)
            logits = logits.float() if logits.element_size() < 4 else logits
            return logits, logits
        routing = route(model, clip, everyone(clip))
        return surrogate_logits(routing, self.routing), routing.logits


def surrogate_logits(routing: Routing, mode: RoutingMode) -> Tensor:
    """(B, K) logits of a mixture under another routing; all experts must have run, except for "hard".

    * "hard": the model's own.
    * "soft": ``sum_i softmax(R)_i E_i``.
    * "straight_through": the model's own values; the router sees the gradient of "soft", the experts that of "hard".
    """
    if mode == "hard":
        return routing.logits
    weights = routing.router_logits.softmax(1)
    if mode == "straight_through":
        weights = routing.weights.detach() + (weights - weights.detach())
    return (weights[:, :, None] * routing.expert_logits).sum(1)


def everyone(clip: Clip) -> Tensor:
    """(B, 1) what `robustvideo.model.route` is asked for when all experts must run."""
    return torch.ones(len(clip), 1, dtype=torch.bool, device=clip.device)
