"""Generative adversarial training: generator, discriminator and network together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.models.generator import BehindGenerator
from robustvideo.training.generative import Generative, behind_generator
from robustvideo.training.method import Loss, Part, Step, trainings


@trainings.register("gat")
@dataclass(frozen=True)
class GenerativeAdversarialTraining(Generative):
    """A generator and the network behind it, trained end to end (GAT; Kinfu & Vidal 2022, eq. 14).

    Per batch: the end-to-end attack, one update of the discriminator, two of the generator on
    ``gamma1 MSE(G(X'), X) - gamma2 log D(G(X')) + CE(F(G(X')), y)``, and one of the network on ``CE(F(G(X')), y)``,
    all on the same adversarial clips. The network's optimizer is the recipe's.

    Attributes:
        adversary, gamma1, gamma2, generator_steps, width, lr: see the base.
        ce_into_generator: the cross-entropy is part of the generator's loss, as in eq. 14. Default true; the paper's
            released code leaves it out.
    """

    ce_into_generator: bool = True

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        return {
            **super().parts(network, companions),
            "network": Part(behind_generator(network).undefended.parameters()),
        }

    def generator_loss(self, step: Step, network: BehindGenerator, adversarial: Clip) -> Loss:
        with step.autocast():
            purified = network.purify(adversarial)
            logits = network.undefended(purified) if self.ce_into_generator else None
        value, terms = self.restoration_loss(step, purified)
        if logits is not None:
            value = value + F.cross_entropy(logits.float(), step.labels)
        return Loss(value, terms, parts=("generator",))

    def network_losses(self, step: Step, network: BehindGenerator, adversarial: Clip) -> Iterator[Loss]:
        with step.autocast():
            with torch.no_grad():
                purified = network.purify(adversarial)
            logits = network.undefended(purified).float()
        correct = (logits.argmax(1) == step.labels).float().mean()
        yield Loss(F.cross_entropy(logits, step.labels), {"robust_accuracy": correct}, parts=("network",))
