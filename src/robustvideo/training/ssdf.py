"""SSDF: training against an attack on either modality alone, with a judge of which one it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks import PGD, Attack
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.odd_one_out import ODD, OddOneOut
from robustvideo.models.refused import pooled
from robustvideo.threat import AudioVisual, Part
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("ssdf")
@dataclass(frozen=True)
class SSDF(Method):
    """Robust fusion against an attack on one modality (Yang et al. 2021; reconstructed for two modalities).

    ``CE(x) + sum_m CE(x with modality m under attack) + weight * L_odd``. The judge learns without attacks: a feature
    of another clip of the batch in the place of one modality's is that modality's oddity, and none if nothing was
    swapped. The network needs ``with=odd_one_out()``.

    Attributes:
        attack: the adversary; its threat model's parts are used one at a time. Default: PGD, 10 steps, 8/255 of
            the pixels or 0.012 of the waveform, without early stopping.
        weight: of the judge's loss. Default 1, our decision.

    Raises:
        InputError: a targeted attack, or a negative weight.
    """

    attack: Attack = field(default=PGD(threat=AudioVisual(), steps=10, early_stop=False))
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got weight={self.weight:g}.")

    def losses(self, step: Step) -> Iterator[Loss]:
        network = with_judge(step.network)
        with step.autocast():
            seen, heard = pooled(network.features(step.clip))
            odd = oddity_loss(network, seen, heard, step.seed)
            logits = network.weighed(seen, heard, network.oddity(seen, heard).softmax(1)).float()
        loss = F.cross_entropy(logits, step.labels) + self.weight * odd
        metrics = {"accuracy": (logits.argmax(1) == step.labels).float().mean(), "oddity": odd}
        for part in self.attack.threat.parts:
            alone = on_one_part(self.attack, part)
            perturbed = step.forward(attacked(alone, network, step.clip, step.labels, seed=step.seed))
            loss = loss + F.cross_entropy(perturbed, step.labels)
            correct = (perturbed.argmax(1) == step.labels).float().mean()
            metrics[f"robust_accuracy_{part.modality}"] = correct
        yield Loss(loss, metrics)


def on_one_part(attack: Attack, part: Part) -> Attack:
    """The attack on one part of its threat model alone; its step is the same share of the budget as in all of it.

    A ``step_size`` is in the unit of the first part's budget, which may be the other modality's.
    """
    size = getattr(attack, "step_size", None)
    scaled = {} if size is None else {"step_size": size * part.eps / attack.threat.parts[0].eps}
    return replace(attack, threat=part, **scaled)


def with_judge(network: Model) -> OddOneOut:
    """The network, if it has a judge.

    Raises:
        InputError: it has none.
    """
    if not isinstance(network, OddOneOut):
        raise InputError("ssdf trains a network with a judge: add with=odd_one_out() to the model's spec.")
    return network


def oddity_loss(network: OddOneOut, seen: Tensor, heard: Tensor, seed: int) -> Tensor:
    """``-sum_i log o(z, z_i of another clip)_i - log o(z)_none``, the mean over the batch.

    The other clip is one a random number of places further on, never the same; a batch of one has none.
    """
    clips = len(seen)
    cases = [(seen, heard, "none")]
    if clips > 1:
        random = torch.Generator().manual_seed(seed)
        shift = int(torch.randint(1, clips, (1,), generator=random))
        cases += [(seen.roll(shift, 0), heard, "video"), (seen, heard.roll(shift, 0), "audio")]
    losses = []
    for see, hear, odd in cases:
        target = torch.full((clips,), ODD.index(odd), device=seen.device)
        losses.append(F.cross_entropy(network.oddity(see, hear), target))
    return torch.stack(losses).sum()
