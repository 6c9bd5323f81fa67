"""Adversarial training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn.functional as F

from robustvideo.attacks import PGD, Attack
from robustvideo.clip import Clip
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Step, trainings


@dataclass(frozen=True)
class UnderAttack(Method):
    """Base of the methods that take a loss on adversarial clips alone, and differ in how these are made.

    Methods with a loss of their own (``ape``, ``gat``) take one of them as their adversary.
    """

    @abstractmethod
    def adversarial(self, step: Step) -> Clip:
        """The clips of a batch under attack; the network is left as it was."""

    def losses(self, step: Step) -> Iterator[Loss]:
        logits = step.forward(self.adversarial(step))
        correct = (logits.argmax(1) == step.labels).float().mean()
        yield Loss(F.cross_entropy(logits, step.labels), {"robust_accuracy": correct})


@trainings.register("at")
@dataclass(frozen=True)
class AdversarialTraining(UnderAttack):
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
        require_untargeted(self.attack)

    def adversarial(self, step: Step) -> Clip:
        return attacked(self.attack, step.network, step.clip, step.labels, seed=step.seed)
