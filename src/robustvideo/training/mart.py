"""MART: adversarial training that looks more closely at what is misclassified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks import PGD, Attack
from robustvideo.attacks.objectives import divergence
from robustvideo.errors import InputError
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("mart")
@dataclass(frozen=True)
class MART(Method):
    """Boosted cross-entropy on adversarial clips, and a divergence where the clean clip is unsure (Wang et al. 2020).

    ``BCE(p_adv, y) + weight * KL(p(x) || p_adv) * (1 - p(x)_y)``, the mean over clips, with
    ``BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k)``. All of it is computed from logits in log space, where the
    public code adds offsets inside the logarithms. Clean and adversarial clips pass the network one after the other,
    in training mode.

    Attributes:
        attack: the adversary. Default: PGD in Linf on the cross-entropy, eps 8/255, 5 steps of a quarter of it, our
            decision for video (the source's 10 steps are for pictures).
        weight: of the divergence, lambda in the source. Default 6, the public code's.
        detach_weight: no gradient through ``1 - p(x)_y``. Default false, as the public code.

    Raises:
        InputError: a targeted attack, or a negative weight.
    """

    attack: Attack = field(default=PGD(threat=Linf(8 / 255), steps=5, step_size=2 / 255, early_stop=False))
    weight: float = 6.0
    detach_weight: bool = False

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got weight={self.weight:g}.")

    def losses(self, step: Step) -> Iterator[Loss]:
        adversarial = attacked(self.attack, step.network, step.clip, step.labels, seed=step.seed)
        clean, perturbed = step.forward(step.clip), step.forward(adversarial)
        unsure = 1 - clean.softmax(1).gather(1, step.labels[:, None])[:, 0]
        if self.detach_weight:
            unsure = unsure.detach()
        apart = divergence(clean, perturbed)
        loss = (boosted_cross_entropy(perturbed, step.labels) + self.weight * apart * unsure).mean()
        yield Loss(
            loss,
            {
                "accuracy": (clean.argmax(1) == step.labels).float().mean(),
                "robust_accuracy": (perturbed.argmax(1) == step.labels).float().mean(),
                "divergence": apart.mean(),
            },
        )


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) ``-log p_y - log(1 - max_{k != y} p_k)`` of logits (B, K), with ``1 - p_k`` as a sum over the others."""
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)
    without_rival = logits.scatter(1, rival, -torch.inf).logsumexp(1) - logits.logsumexp(1)
    return F.cross_entropy(logits, labels, reduction="none") - without_rival
