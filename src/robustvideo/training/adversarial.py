"""Adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn.functional as F

from robustvideo.attacks import PGD, Attack
from robustvideo.errors import InputError
from robustvideo.threat import Linf
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("at")
@dataclass(frozen=True)
class AdversarialTraining(Method):
    """Cross-entropy on adversarial clips alone (Madry et al. 2018): ``min CE(F(x + delta), y)``.

    The network is attacked in evaluation mode, so that half-made clips leave no trace in its batch statistics, and
    then updated in training mode. Every epoch draws fresh random starts.

    Attributes:
        attack: the adversary. Default: PGD in Linf, eps 4/255, 5 steps, without early stopping, so that every clip
            gets its worst point and not merely the first one that is misclassified.

    Raises:
        InputError: a targeted attack, whose labels would be its targets.
    """

    attack: Attack = field(default=PGD(threat=Linf(4 / 255), steps=5, early_stop=False))

    def __post_init__(self) -> None:
        if self.attack.targeted:
            raise InputError("Adversarial training leaves the true class: its attack cannot be targeted.")

    def losses(self, step: Step) -> Iterator[Loss]:
        attack = self.attack.with_seed(step.seed)
        adversarial = attack(step.network, step.clip, step.labels).clip
        logits = step.forward(adversarial)
        correct = (logits.argmax(1) == step.labels).float().mean()
        yield Loss(F.cross_entropy(logits, step.labels), {"robust_accuracy": correct})
