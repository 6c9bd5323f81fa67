"""What the trainings of a generator in front of a network share: APE-GAN's discriminator, losses and updates.

The paper prints the discriminator's objective as ``log D(X) - log D(G(X'))``, which has no upper bound; here, as in its
released code, the discriminator ascends ``log D(X) + log(1 - D(G(X')))`` and the generator descends
``gamma1 MSE(G(X'), X) - gamma2 log D(G(X'))`` (Kinfu & Vidal 2022, eqs. 11 and 12). "Real" are the clean clips.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.generator import BehindGenerator, Discriminator
from robustvideo.training.adversarial import AdversarialTraining, UnderAttack
from robustvideo.training.method import Loss, Method, Part, Stage, Step


@dataclass(frozen=True)
class Generative(Method):
    """Base of ``ape`` and ``gat``.

    Per batch: the adversary attacks network and generator end to end; one update of the discriminator; some of the
    generator; then whatever the subclass adds. Networks are attacked in evaluation mode and updated in training mode.

    Attributes:
        adversary: how the adversarial clips are made: ``at(attack=...)``, or ``cat`` or ``aat`` for a budget that
            changes. Default: that of ``at``.
        gamma1: weight of the mean squared error. Default 0.7, as in the paper's code. (Eq. 10 divides by T W H, not
            by the channels too; here it is the usual mean.)
        gamma2: weight of the discriminator's verdict. Default 0.3, as in the paper's code.
        generator_steps: updates of the generator per batch. Default 2, as published.
        width: channels after the discriminator's first convolution. Default 64, as published.
        lr: Adam's rate for generator and discriminator, with betas 0.5 and 0.999. Default 2e-4, all as published; a
            training of a thousand updates needs ten times that. The recipe's schedule scales it.

    Raises:
        InputError: a negative weight, a number below 1, or a rate that is not above 0.
    """

    adversary: UnderAttack = field(default=AdversarialTraining())
    gamma1: float = 0.7
    gamma2: float = 0.3
    generator_steps: int = 2
    width: int = 64
    lr: float = 2e-4

    def __post_init__(self) -> None:
        for name in ("gamma1", "gamma2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"A weight is finite and at least 0, got {name}={getattr(self, name):g}.")
        if self.generator_steps < 1 or self.width < 1:
            raise InputError(f"generator_steps and width are at least 1, got {self.generator_steps} and {self.width}.")

        if not 0 < self.lr < float("inf"):
            raise InputError(f"A rate is finite and above 0, got lr={self.lr:g}.")

    def companions(self, network: Model) -> nn.ModuleDict:
        return nn.ModuleDict({"discriminator": Discriminator(self.width)})

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        adam = partial(torch.optim.Adam, lr=self.lr, betas=(0.5, 0.999))
        return {
            "generator": Part(behind_generator(network).generator.parameters(), adam),
            "discriminator": Part(companions["discriminator"].parameters(), adam),
        }

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        return self.adversary.before_epoch(stage)

    def losses(self, step: Step) -> Iterator[Loss]:
        network = behind_generator(step.network)
        adversarial = self.adversary.adversarial(step)
        yield discriminator_loss(step, network, adversarial)
        for _ in range(self.generator_steps):
            yield self.generator_loss(step, network, adversarial)
        yield from self.network_losses(step, network, adversarial)

    @abstractmethod
    def generator_loss(self, step: Step, network: BehindGenerator, adversarial: Clip) -> Loss:
        """What one update of the generator minimises."""

    def network_losses(self, step: Step, network: BehindGenerator, adversarial: Clip) -> Iterator[Loss]:
        """What the network behind the generator minimises. Default: nothing, it is frozen."""
        return iter(())

    def restoration_loss(self, step: Step, purified: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """``gamma1 MSE(G(X'), X) - gamma2 log D(G(X'))`` (eq. 12), and its two terms."""
        with step.autocast():
            verdict = step.companions["discriminator"](purified.video)
        mse, fooling = F.mse_loss(purified.video, step.clip.video), F.softplus(-verdict).mean()
        return self.gamma1 * mse + self.gamma2 * fooling, {"mse": mse, "fooling_loss": fooling}


def discriminator_loss(step: Step, network: BehindGenerator, adversarial: Clip) -> Loss:
    """``-log D(X) - log(1 - D(G(X')))``, the mean over clips; it does not reach the generator."""
    discriminator = step.companions["discriminator"]
    with step.autocast():
        with torch.no_grad():
            purified = network.purify(adversarial)
        clean, cleaned = discriminator(step.clip.video), discriminator(purified.video)
    value = F.softplus(-clean).mean() + F.softplus(cleaned).mean()
    return Loss(value, {"discriminator_loss": value}, parts=("discriminator",))


def behind_generator(network: Model) -> BehindGenerator:
    """The network as one behind a generator.

    Raises:
        InputError: it has none in front.
    """
    if not isinstance(network, BehindGenerator):
        raise InputError("This training is of a network behind a generator: add with=ape_gan() to the model's spec.")
    return network
