"""APE: a generator that purifies for a frozen network, and adversarial training behind a frozen generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.models.generator import BehindGenerator
from robustvideo.training.adversarial import AdversarialTraining, UnderAttack
from robustvideo.training.generative import Generative, behind_generator
from robustvideo.training.method import Loss, Method, Part, Stage, Step, trainings


@trainings.register("ape")
@dataclass(frozen=True)
class ApeGanTraining(Generative):
    """A generator that takes perturbations out, for a network that stays as it is (3-D APE-GAN; Kinfu & Vidal 2022).

    Eqs. 9 to 12 of their section 4.3. The network is frozen, its batch statistics included: it runs in evaluation mode
    and only inside the attack. Bring it trained, as in
    ``model: embedded:r3d?with=ape_gan()``. The paper's Table 3 raises the budget: ``adversary=cat(...)``.

    Attributes:
        adversary, gamma1, gamma2, generator_steps, width, lr: see the base.
    """

    def generator_loss(self, step: Step, network: BehindGenerator, adversarial: Clip) -> Loss:
        with step.autocast():
            purified = network.purify(adversarial)
        value, terms = self.restoration_loss(step, purified)
        return Loss(value, terms, parts=("generator",))


@trainings.register("ape_at")
@dataclass(frozen=True)
class TrainingBehindGenerator(Method):
    """Adversarial training of a network behind a frozen generator (APE+AT; Kinfu & Vidal 2022, eq. 13).

    ``min_F CE(F(G(x + delta)), y)``, delta found end to end. The generator is that of a finished ``ape`` training,
    as in ``model: trained:runs/ape/model.safetensors``; it stays as it is, in evaluation mode.

    Attributes:
        adversary: what the network is trained by: ``at(attack=...)``, ``cat`` or ``aat``. Default: ``at``.
    """

    adversary: UnderAttack = field(default=AdversarialTraining())

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        return {"network": Part(behind_generator(network).undefended.parameters())}

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        return self.adversary.before_epoch(stage)

    def losses(self, step: Step) -> Iterator[Loss]:
        behind_generator(step.network).generator.eval()
        yield from self.adversary.losses(step)
