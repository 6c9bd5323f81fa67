"""TRADES: a trade-off between accuracy and the constancy of predictions around each clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn.functional as F

from robustvideo.attacks import Attack
from robustvideo.attacks.divergence import DivergencePGD
from robustvideo.attacks.objectives import divergence
from robustvideo.errors import InputError
from robustvideo.model import at_rest, classify
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("trades")
@dataclass(frozen=True)
class TRADES(Method):
    """Clean cross-entropy, and the divergence between predictions on clean and attacked clips (Zhang et al. 2019).

    ``CE(F(x), y) + beta * KL(p(x) || p(x + delta))``, the mean over clips; delta maximises the same divergence, with
    the network in evaluation mode. Gradients of the loss flow through both predictions. Clean and attacked clips
    pass the network one after the other, in training mode.

    The adversary is not told the classes: it leaves the network's own prediction on the clean clip. So a clip that
    is misclassified already is still moved, and what an attack counts as its best point is where the prediction
    has changed most.

    Attributes:
        attack: the adversary. Default: `DivergencePGD` in Linf, eps 8/255, 5 steps of a quarter of it, our decision
            for video (the source's 10 steps, eps 0.031, step 0.007 are for pictures).
        beta: weight of the divergence. Default 6, the source's.

    Raises:
        InputError: a targeted attack, or a negative beta.
    """

    attack: Attack = field(default=DivergencePGD(threat=Linf(8 / 255), steps=5, step_size=2 / 255, early_stop=False))
    beta: float = 6.0

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if not 0 <= self.beta < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got beta={self.beta:g}.")

    def losses(self, step: Step) -> Iterator[Loss]:
        with at_rest(step.network):
            predicted = classify(step.network, step.clip).argmax(1)
        adversarial = attacked(self.attack, step.network, step.clip, predicted, seed=step.seed)
        clean, perturbed = step.forward(step.clip), step.forward(adversarial)
        apart = divergence(clean, perturbed).mean()
        yield Loss(
            F.cross_entropy(clean, step.labels) + self.beta * apart,
            {
                "accuracy": (clean.argmax(1) == step.labels).float().mean(),
                "robust_accuracy": (perturbed.argmax(1) == step.labels).float().mean(),
                "divergence": apart,
            },
        )
