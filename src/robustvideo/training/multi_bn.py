"""Adversarial training against several attacks at once, each with batch normalisation of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from robustvideo.attacks import PGD, Attack
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.multi_bn import MultiBN, OneBranch
from robustvideo.threat import Linf
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Part, Step, trainings


@trainings.register("multi_bn")
@dataclass(frozen=True)
class MultiBNTraining(Method):
    """Each attack, and the clean clips, through normalisations of their own (Lo & Patel 2021).

    ``sum_b CE(F_b(x_b), y) + selector_weight * CE(S(x_b), b)``: branch 0 sees the clean clips, branch b the clips that
    attack b made against branch b alone, and the selector S learns to tell them apart, clean and attacked clips in
    equal numbers. For a model with ``with=multi_bn(branches=...)``, one branch more than there are attacks. An attack
    on the finished model is one on the whole, selector included.

    Attributes:
        attacks: one per branch from 1 on. Default: PGD in Linf, eps 4/255, 5 steps, without early stopping, as in
            ``at``. Published: PGD and rectangular occlusion, in three branches.
        selector_weight: weight of the selector's loss, our addition: it is published as a network trained on its own,
            which shares no weights with the other, so that this only scales its learning rate. Default 1.

    Raises:
        InputError: no attack, a targeted one, or a weight that is not positive; when it starts, a model with another
            number of branches.
    """

    attacks: tuple[Attack, ...] = (PGD(threat=Linf(4 / 255), steps=5, early_stop=False),)
    selector_weight: float = 1.0

    def __post_init__(self) -> None:
        require_untargeted(*self.attacks)
        if not self.attacks:
            raise InputError("multi_bn trains against at least one attack.")
        if not 0 < self.selector_weight < float("inf"):
            raise InputError(f"A weight is finite and above 0, got selector_weight={self.selector_weight:g}.")

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        return super().parts(self._mixture(network), companions)

    def losses(self, step: Step) -> Iterator[Loss]:
        mixture = self._mixture(step.network)
        copies = [step.clip]
        for number, attack in enumerate(self.attacks, 1):
            copies.append(attacked(attack, OneBranch(mixture, number), step.clip, step.labels, seed=step.seed))
        kinds = torch.arange(len(copies), device=step.labels.device).repeat_interleave(len(step.labels))
        with step.autocast():
            answers = [mixture.answer(copy, number) for number, copy in enumerate(copies)]
            choices = mixture.selector(torch.cat([copy.video for copy in copies]))
        value = torch.stack([F.cross_entropy(answer, step.labels) for answer in answers]).sum()
        shares = {f"accuracy_{b}": (a.argmax(1) == step.labels).float().mean() for b, a in enumerate(answers)}
        shares["selector_accuracy"] = (choices.argmax(1) == kinds).float().mean()
        yield Loss(value + self.selector_weight * F.cross_entropy(choices, kinds), shares)

    def _mixture(self, network: Model) -> MultiBN:
        wanted = 1 + len(self.attacks)
        if not isinstance(network, MultiBN) or network.branches != wanted:
            raise InputError(
                f"This training needs one branch for clean clips and one for each attack: add "
                f"with=multi_bn(branches={wanted}) to the model's spec."
            )
        return network
