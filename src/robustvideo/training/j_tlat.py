"""Joint temporal Lipschitz adversarial training: a mixture's router, its weak experts, then the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from robustvideo.attacks import PGDE, TLAE, TLAM, TLAR, TLGAR, Attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError, RobustVideoError
from robustvideo.model import Model, at_rest
from robustvideo.models.moe import MixtureOfExperts, gate_weights, load_balance, top_experts
from robustvideo.randomness import seed_for
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.balanced import mixture_in
from robustvideo.training.method import Loss, Method, Part, Stage, Step, trainings
from robustvideo.training.regularisers import Lipschitz, Map, Regulariser, Views
from robustvideo.training.tlat import TLAT, regularised

_SAMPLE = 256
"""Training clips whose routes are looked at before every epoch."""


@trainings.register("j_tlat")
@dataclass(frozen=True)
class JTLAT(Method):
    """Joint temporal Lipschitz adversarial training of a mixture of experts (video MoE, equations 12 to 14).

    1. The router alone, on clips under `TLAR`: ``CE(R(x'), y_R) + lambda * ratio(R)``, y_R its choice on the clean
       clip, and ``balance`` times the load balance. A router that always answers the same minimises the paper's
       own loss (``balance=0``).
    2. The experts alone. `TLGAR` finds the weak ones, ``I = top-2 of R(x')``; each is trained on its own clip under
       `TLAE`: ``sum_I w_i [CE(E_i(x + delta_i), y) + lambda * ratio(E_i)]``, w the softmax of R(x') over I, without
       gradient (our decision: else the loss would scale with the router's confidence). That the attack is the guided
       one follows equation 13's sentence; the paper's prose names TLA-R.
    3. The whole, as in `TLAT`.

    Attributes:
        schedule: "epoch" does one of the three in each epoch of the recipe, in turn: three of them are one of the
            paper's, so give a recipe three times as many. "batch" does all three with every batch (for small runs).
        router: adversary of step 1.
        guide: adversary that finds weak experts in step 2.
        experts: adversary of step 2, `TLAE` or `PGDE`; which experts it attacks is set here. Of these three counts
            where the climb ends (``keep=last``): the best point by the whole model's margin, on which a router or an
            expert that was not chosen may have no influence, can be the random start.
        whole: adversary of step 3. All have Linf, eps 8/255 (the paper's), and 5 steps (our decision).
        weak: how many experts a clip trains in step 2, at most. Default 2, the paper's.
        regulariser: the ratio's place in all steps, see `robustvideo.training.regularisers`.
        balance: weight of the load balance in step 1. Default 0.1, see `Balanced`. A router that always answers the
            same saves up to log M of step 1's cross-entropy and costs M - 1 of the load balance: below
            log M / (M - 1), 0.46 of four experts, a collapse may pay. It did with experts that are copies of one
            network, with 0.1; with 1 nearly all clips went to one expert in the end.
        collapse: the training stops when one expert gets more than this share of the clips, once every step was
            made; 1 never stops it. Default 0.95. The routes' entropy, in nats, is logged with every epoch.
        detach_clean: let no gradient pass the clean clips.

    Raises:
        InputError: a targeted attack, an attack on experts that is none, a number out of range; a network that is no
            mixture of at least two experts.
        RobustVideoError: the router collapsed.
    """

    schedule: Literal["epoch", "batch"] = "epoch"
    router: Attack = field(default=TLAR(threat=Linf(8 / 255), steps=5, keep="last"))
    guide: Attack = field(default=TLGAR(threat=Linf(8 / 255), steps=5, keep="last"))
    experts: Attack = field(default=TLAE(threat=Linf(8 / 255), steps=5, keep="last"))
    whole: Attack = field(default=TLAM(threat=Linf(8 / 255), steps=5, early_stop=False))
    weak: int = 2
    regulariser: Regulariser = field(default=Lipschitz())
    balance: float = 0.1
    collapse: float = 0.95
    detach_clean: bool = False

    def __post_init__(self) -> None:
        require_untargeted(self.router, self.guide, self.experts, self.whole)
        if not isinstance(self.experts, PGDE | TLAE):
            raise InputError(f"experts= is an attack on experts, tla_e or pgd_e, got {self.experts.spec}.")
        if self.weak < 1 or not 0 <= self.balance < float("inf") or not 0 < self.collapse <= 1:
            raise InputError("j_tlat needs weak of at least 1, balance of at least 0 and collapse in (0, 1].")

    def companions(self, network: Model) -> nn.ModuleDict:
        if len(mixture_in(network).experts) < 2:
            raise InputError("j_tlat trains a router: the mixture needs two experts or more.")
        return nn.ModuleDict()

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        mixture = mixture_in(network)
        return {"router": Part(mixture.router.parameters()), "experts": Part(mixture.experts.parameters())}

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        mixture = mixture_in(stage.network)
        routes = torch.cat([choices(mixture, clip) for clip, _ in stage.sample(_SAMPLE)])
        shares = routes.bincount(minlength=len(mixture.experts)) / len(routes)
        if float(shares.max()) > self.collapse and stage.epoch >= self._round:
            raise RobustVideoError(
                f"The router collapsed: one expert gets {float(shares.max()):.0%} of the clips before epoch "
                f"{stage.epoch + 1}; raise balance=, or start from a mixture whose experts are all in use."
            )
        return {"routing_entropy": float(torch.special.entr(shares).sum())}

    def losses(self, step: Step) -> Iterator[Loss]:
        steps = (self._router_loss, self._experts_loss, self._whole_loss)
        for make in steps if self.schedule == "batch" else (steps[step.epoch % self._round],):
            yield make(step, mixture_in(step.network))

    @property
    def _round(self) -> int:
        """Epochs in which every step is made."""
        return 3 if self.schedule == "epoch" else 1

    def _router_loss(self, step: Step, mixture: MixtureOfExperts) -> Loss:
        chosen = choices(mixture, step.clip)
        seed = seed_for(step.seed, "router")
        adversarial = attacked(self.router, mixture, step.clip, step.labels, seed=seed)
        views = Views.of(_in_precision(step, mixture.router_logits), step.clip, adversarial, chosen, seed)
        terms, penalty = regularised(views, self.regulariser, self.detach_clean)
        balance = load_balance(views.clean_logits, mixture.top)
        metrics = {
            "route_kept": (views.logits.argmax(1) == chosen).float().mean(),
            "router_regulariser": penalty.mean(),
            "balance": balance,
        }
        return Loss(terms.mean() + self.balance * balance, metrics, parts=("router",))

    def _experts_loss(self, step: Step, mixture: MixtureOfExperts) -> Loss:
        chosen, weights = self._weak_experts(step, mixture)
        total = step.clip.video.new_zeros(())
        correct = step.clip.video.new_zeros(())
        for i in range(len(mixture.experts)):
            rows = chosen[:, i].nonzero()[:, 0]
            if len(rows) == 0:
                continue
            clip, labels, seed = step.clip.select(rows), step.labels[rows], seed_for(step.seed, "expert", i)
            attack = replace(self.experts, experts=(i,))  # type: ignore[call-arg]  # only attacks on experts come here
            adversarial = attacked(attack, mixture, clip, labels, seed=seed)
            opinion = _in_precision(step, partial(mixture.expert_logits, i))
            views = Views.of(opinion, clip, adversarial, labels, seed)
            terms, _ = regularised(views, self.regulariser, self.detach_clean)
            total = total + (weights[rows, i] * terms).sum()
            correct = correct + (weights[rows, i] * (views.logits.argmax(1) == labels)).sum()
        count = len(step.clip)
        return Loss(total / count, {"weak_expert_accuracy": correct / count}, parts=("experts",))

    def _weak_experts(self, step: Step, mixture: MixtureOfExperts) -> tuple[Tensor, Tensor]:
        """(B, M) bool I and (B, M) weights of sum 1 over it."""
        guided = attacked(self.guide, mixture, step.clip, step.labels, seed=seed_for(step.seed, "guide"))
        router_logits = router_at_rest(mixture, guided)
        chosen = top_experts(router_logits, min(self.weak, len(mixture.experts)))
        return chosen, gate_weights(router_logits, chosen, "renormalised")

    def _whole_loss(self, step: Step, mixture: MixtureOfExperts) -> Loss:
        (loss,) = TLAT(self.whole, self.regulariser, self.detach_clean).losses(step)
        return loss


def choices(mixture: MixtureOfExperts, clip: Clip) -> Tensor:
    """(B,) the expert that the router prefers."""
    return router_at_rest(mixture, clip).argmax(1)


def router_at_rest(mixture: MixtureOfExperts, clip: Clip) -> Tensor:
    """(B, M) router logits in evaluation mode, without a graph."""
    with at_rest(mixture), torch.no_grad():
        return mixture.router_logits(clip)


def _in_precision(step: Step, part: Map) -> Map:
    """A part of the network, run in the recipe's precision."""

    def run(clip: Clip) -> Tensor:
        with step.autocast():
            return part(clip)

    return run
