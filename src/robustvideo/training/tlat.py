"""Temporal Lipschitz adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks import TLAM, Attack
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Step, trainings
from robustvideo.training.regularisers import Lipschitz, Regulariser, Views


@trainings.register("tlat")
@dataclass(frozen=True)
class TLAT(Method):
    """Cross-entropy and local Lipschitz ratio on clips under a temporal Lipschitz attack (video MoE, equation 11).

    ``min max CE(F(x + delta), y) + lambda * MSE(F(x), F(x + delta)) / MSE(x, x + delta)``, the mean over clips of
    each clip's own ratio. Clean and attacked clips pass the network together, in training mode. It trains any video
    model; of a mixture of experts all parts at once.

    Attributes:
        attack: the adversary. Default: `TLAM` in Linf, eps 8/255 (the paper's budget), 5 steps (our decision).
        regulariser: the second term, see `robustvideo.training.regularisers`. Default: the ratio with weight 0.0001.
        detach_clean: let no gradient pass the clean clips.

    Raises:
        InputError: a targeted attack.
    """

    attack: Attack = field(default=TLAM(threat=Linf(8 / 255), steps=5, early_stop=False))
    regulariser: Regulariser = field(default=Lipschitz())
    detach_clean: bool = False

    def __post_init__(self) -> None:
        require_untargeted(self.attack)

    def losses(self, step: Step) -> Iterator[Loss]:
        adversarial = attacked(self.attack, step.network, step.clip, step.labels, seed=step.seed)
        views = Views.of(step.forward, step.clip, adversarial, step.labels, step.seed)
        terms, penalty = regularised(views, self.regulariser, self.detach_clean)
        yield Loss(
            terms.mean(),
            {
                "accuracy": (views.clean_logits.argmax(1) == step.labels).float().mean(),
                "robust_accuracy": (views.logits.argmax(1) == step.labels).float().mean(),
                "regulariser": penalty.mean(),
            },
        )


def regularised(views: Views, regulariser: Regulariser, detach_clean: bool) -> tuple[Tensor, Tensor]:
    """(B,) cross-entropy on the attacked clips plus the weighted regulariser, and (B,) the regulariser alone."""
    penalty = regulariser(views.detached() if detach_clean else views)
    return F.cross_entropy(views.logits, views.labels, reduction="none") + regulariser.weight * penalty, penalty
