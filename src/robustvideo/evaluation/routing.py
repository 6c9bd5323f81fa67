"""What an attack does to a mixture of experts: Lipschitz constants, routes, consistency of outputs, transfer.

Lips-R and Lips-J are the local Lipschitz ratios of the router under TLGA-R and of the whole model under J-TLGA
(video MoE, table 2). A router that always answers the same has Lips-R 0, so `RoutingMeasures` tells beside it how
evenly clean clips use the experts and how many routes changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustvideo.attacks import JTLGA, TLGAR
from robustvideo.attacks.attack import Attack, judge
from robustvideo.attacks.lipschitz import local_lipschitz, mean_square_change
from robustvideo.attacks.tla import TemporalLipschitzAttack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, Routing, at_rest, route
from robustvideo.threat import Linf

Batches = Iterable[tuple[Clip, Tensor]]
"""Clean clips and (B,) labels, batch by batch."""

_PERCENTILE = 0.95
_TLGA_R = TLGAR(threat=Linf(8 / 255))
_J_TLGA = JTLGA(threat=Linf(8 / 255))


@dataclass(frozen=True)
class Spread:
    """A distribution over clips; a mean alone hides the heavy tail of Lipschitz ratios.

    Attributes:
        mean: what the paper reports.
        median: half of the clips lie below.
        percentile95: 95 % of the clips lie below.
    """

    mean: float
    median: float
    percentile95: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """The spread of (N,) values."""
        values = values.double()
        return cls(float(values.mean()), float(values.median()), float(values.quantile(_PERCENTILE)))


@dataclass(frozen=True)
class RoutingMeasures:
    """A mixture's router on clean clips and on clips under TLGA-R, and the whole model under J-TLGA.

    Attributes:
        clips: how many were measured.
        lips_r: local Lipschitz ratio of the router's logits at the end of TLGA-R.
        lips_j: that of the whole model's logits at the end of J-TLGA.
        clean_shares, attacked_shares: share of the clips that each expert gets, before and under TLGA-R.
        clean_entropy, attacked_entropy: of these shares, in nats; 0 when one expert takes all, log M when even.
        changed: share of the clips whose route TLGA-R changed.
        to_weakest: share that it led to the expert of the lowest clean logit.
        iou_clean, iou_attacked: `decision_iou` of the router, clean and under TLGA-R.
        iou_whole_clean, iou_whole_attacked: `decision_iou` of the whole model, clean and under J-TLGA.
    """

    clips: int
    lips_r: Spread
    lips_j: Spread
    clean_shares: tuple[float, ...]
    attacked_shares: tuple[float, ...]
    clean_entropy: float
    attacked_entropy: float
    changed: float
    to_weakest: float
    iou_clean: Spread
    iou_attacked: Spread
    iou_whole_clean: Spread
    iou_whole_attacked: Spread


def measure_routing(
    model: Model,
    batches: Batches,
    router_attack: TemporalLipschitzAttack = _TLGA_R,
    joint_attack: TemporalLipschitzAttack = _J_TLGA,
) -> RoutingMeasures:
    """Attack a mixture's router and the whole, and collect what happened.

    The attacks run to their last step, and where they end counts: a point where an attack stopped early is nearer to
    the clean clip and has a larger ratio. It is stored on the grid of a file first.

    Args:
        model: a mixture of experts.
        batches: clean clips with their labels.
        router_attack, joint_attack: in Linf, eps 8/255 by default (the paper does not state its budget here).

    Raises:
        InputError: the model is no mixture of two experts or more, or there are no clips.
    """
    found: list[Mapping[str, Tensor]] = []
    for clip, labels in batches:
        clean = _routing(model, clip)
        under_router = to_the_end(router_attack)(model, clip, labels).clip
        under_joint = to_the_end(joint_attack)(model, clip, labels).clip
        routed, whole = _routing(model, under_router), _routing(model, under_joint)
        found.append(
            {
                "lips_r": local_lipschitz(
                    clean.router_logits, routed.router_logits, mean_square_change(clip, under_router)
                ),
                "lips_j": local_lipschitz(clean.logits, whole.logits, mean_square_change(clip, under_joint)),
                "clean": clean.router_logits,
                "attacked": routed.router_logits,
                "iou_whole_clean": decision_iou(clean.logits, clean.logits),
                "iou_whole_attacked": decision_iou(clean.logits, whole.logits),
            }
        )
    if not found:
        raise InputError("There are no clips to measure the routing on.")
    joined = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    clean_router, attacked_router = joined["clean"], joined["attacked"]
    clean_shares, attacked_shares = expert_shares(clean_router), expert_shares(attacked_router)
    routes = attacked_router.argmax(1)
    return RoutingMeasures(
        clips=len(routes),
        lips_r=Spread.of(joined["lips_r"]),
        lips_j=Spread.of(joined["lips_j"]),
        clean_shares=tuple(clean_shares.tolist()),
        attacked_shares=tuple(attacked_shares.tolist()),
        clean_entropy=entropy(clean_shares),
        attacked_entropy=entropy(attacked_shares),
        changed=float((routes != clean_router.argmax(1)).double().mean()),
        to_weakest=float((routes == clean_router.argmin(1)).double().mean()),
        iou_clean=Spread.of(decision_iou(clean_router, clean_router)),
        iou_attacked=Spread.of(decision_iou(clean_router, attacked_router)),
        iou_whole_clean=Spread.of(joined["iou_whole_clean"]),
        iou_whole_attacked=Spread.of(joined["iou_whole_attacked"]),
    )


def to_the_end(attack: TemporalLipschitzAttack) -> TemporalLipschitzAttack:
    """The same attack, returning where it ends."""
    return replace(attack, keep="last", restarts=1)


def transfer_matrix(models: Mapping[str, Model], attack: Attack, batches: Batches) -> dict[tuple[str, str], float]:
    """Accuracy of every model on the clips that an attack crafted on every model (video MoE, table 3).

    Args:
        models: name -> model, all of the same classes, such as mixtures of different experts.
        attack: crafts the clips; without ``early_stop=False`` it stops where the source just fails.
        batches: clean clips with their labels.

    Returns:
        (source, target) -> share of all clips that the target still classifies correctly.

    Raises:
        InputError: there are no clips.
    """
    correct = dict.fromkeys([(source, target) for source in models for target in models], 0)
    count = 0
    for clip, labels in batches:
        count += len(clip)
        for source, model in models.items():
            crafted = attack(model, clip, labels).clip
            for target, other in models.items():
                with at_rest(other):
                    correct[source, target] += int((~judge(other, crafted, labels).success).sum())
    if count == 0:
        raise InputError("There are no clips to transfer.")
    return {pair: number / count for pair, number in correct.items()}


def iou(u: Tensor, v: Tensor) -> Tensor:
    """(B,) ``sum_i min(u_i, v_i) / sum_i max(u_i, v_i)`` of two distributions (B, n); 1 where they are the same.

    Our reading of the IoU score of the paper's figures 4 and 6, which it does not define. In terms of the total
    variation it is ``(1 - TV) / (1 + TV)``.
    """
    return torch.minimum(u, v).sum(1) / torch.maximum(u, v).sum(1)


def decision_iou(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """(B,) `iou` of the clean decision, as a one-hot distribution, and the softmax of ``logits`` (B, n).

    With the clean clips' own logits it shows how sure they are, ``p / (2 - p)`` with p the decision's probability:
    the distribution that attacked clips are compared with.
    """
    v = logits.double().softmax(1)
    return iou(torch.zeros_like(v).scatter(1, clean_logits.argmax(1, keepdim=True), 1.0), v)


def soft_iou(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """(B,) `iou` of the softmax of both: 1 where nothing changed."""
    return iou(clean_logits.double().softmax(1), logits.double().softmax(1))


def top_iou(clean_logits: Tensor, logits: Tensor, top: int) -> Tensor:
    """(B,) `iou` of the sets of the ``top`` largest: shared ones over all."""
    sets = [torch.zeros_like(z).scatter(1, z.topk(top, dim=1).indices, 1.0) for z in (clean_logits, logits)]
    return iou(*sets)


def expert_shares(router_logits: Tensor) -> Tensor:
    """(M,) share of the clips whose largest router logit is each expert's; one share of 1 is a collapse."""
    routes = router_logits.argmax(1)
    return routes.bincount(minlength=router_logits.shape[1]).double() / len(routes)


def entropy(shares: Tensor) -> float:
    """Entropy in nats of (M,) shares."""
    return float(torch.special.entr(shares).sum())


def _routing(model: Model, clip: Clip) -> Routing:
    with at_rest(model), torch.no_grad():
        return route(model, clip)
