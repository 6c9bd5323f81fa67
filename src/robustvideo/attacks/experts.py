"""Attacks on the experts of a mixture (video MoE, section 4.1; equation 13's bracket).

The clip is then judged by the whole model, whose router may send it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks, check_classes
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.tla import ReferencedPGD, TemporalLipschitzAttack, everyone
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Routing, route

Which = Literal["active", "all"] | tuple[int, ...]


@attacks.register("pgd_e")
@dataclass(frozen=True)
class PGDE(ReferencedPGD):
    """PGD on experts: ``sum_i v_i CE(E_i(x + delta), y)`` (video MoE, section 3).

    Attributes:
        experts: "active", those that run on the clean clip, v being their gate weights there, scaled to sum 1 (our
            decision: what a defender would run); "all", with equal weights; or a list of numbers from 0, with equal
            weights. Default: active.
    """

    experts: Which = "active"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        check_experts(self.experts)

    def objective(self) -> Objective:
        return ExpertsLoss(LipschitzTerm(0.0), self.experts)


@attacks.register("tla_e")
@dataclass(frozen=True)
class TLAE(TemporalLipschitzAttack):
    """Temporal Lipschitz attack on experts: cross-entropy and local Lipschitz ratio of each.

    ``sum_i v_i [CE(E_i(x + delta), y) + lam * ratio(E_i)]`` (video MoE, equation 13), with equations 5 to 7.

    Attributes:
        experts: see `PGDE`.
    """

    experts: Which = "active"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        check_experts(self.experts)

    def objective(self) -> Objective:
        return ExpertsLoss(self.lipschitz, self.experts)


@dataclass(frozen=True)
class ExpertsLoss:
    """``sum_i v_i [CE(E_i(x + delta), y) + lam * ratio(E_i)]``.

    Attributes:
        lipschitz: the second term.
        experts: see `PGDE`.
    """

    lipschitz: LipschitzTerm
    experts: Which = "active"

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        if problem.reference:
            return problem.reference
        with torch.no_grad():
            clean = route(problem.model, problem.clip, None if self.experts == "active" else everyone(problem.clip))
            shares = self._shares(clean)
            return {"shares": shares, "expert_logits": _of(clean, shares)}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        shares, clean = problem.reference["shares"], problem.reference["expert_logits"]
        routing = route(problem.gradient_model, adversarial, shares > 0)
        check_classes(problem.highest_label, routing.logits.shape[1])
        found = _of(routing, shares)
        value = shares.new_zeros(len(shares))
        for i in range(shares.shape[1]):
            loss = F.cross_entropy(found[:, i], problem.labels, reduction="none")
            if problem.targeted:
                loss = -loss
            if self.lipschitz.weight != 0:
                loss = loss + self.lipschitz(clean[:, i], found[:, i], problem, adversarial)
            value = value + shares[:, i] * loss
        return value, routing.logits

    def _shares(self, clean: Routing) -> Tensor:
        """(B, M) weights of the experts under attack, of sum 1."""
        weights = clean.weights
        if self.experts == "active":
            return weights / weights.sum(1, keepdim=True)
        count = weights.shape[1]
        which = range(count) if self.experts == "all" else self.experts
        if max(which) >= count:
            raise InputError(f"This mixture has experts 0 to {count - 1}, so it cannot be attacked in {list(which)}.")
        shares = torch.zeros_like(weights)
        shares[:, list(which)] = 1 / len(which)
        return shares


def _of(routing: Routing, shares: Tensor) -> Tensor:
    """(B, M, K) logits of the experts under attack; zeros, which say nothing, for the others."""
    return routing.expert_logits.masked_fill((shares == 0)[:, :, None], 0.0)


def check_experts(experts: Which) -> None:
    """Raise `InputError` for an empty list, a number given twice or a negative one."""
    if not isinstance(experts, str) and (not experts or len(set(experts)) < len(experts) or min(experts) < 0):
        raise InputError(f"experts= is active, all or a list of different numbers from 0, got {list(experts)}.")
