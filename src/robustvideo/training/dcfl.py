"""DCFL: features rebuilt from a memory of clean ones, and kept apart between the modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.model import Model, at_rest
from robustvideo.models.refused import MODALITIES, pooled
from robustvideo.models.sparse_memory import SparseMemory
from robustvideo.training.method import Loss, Method, Stage, Step, trainings

_PER_ATOM = 2  # clips looked at per atom, so that every class has its share


@trainings.register("dcfl")
@dataclass(frozen=True)
class DCFL(Method):
    """Sparse feature memory and a dissimilarity constraint, without an adversary (Tian and Xu 2021).

    ``CE(fuse(x'_v, x'_a), y) + weight * cos(x'_v, x'_a)``, the second of two stages: bring a network that was trained
    plainly, as in ``model: trained:runs/plain/model.safetensors?with=sparse_memory()``. Before the first epoch the
    memory is filled with features of clean training clips, class by class in turn (the authors take the first ones
    that come); it then stays as it is, while all else is trained.

    Attributes:
        weight: of the cosine. Default 1, the authors' on MUSIC.

    Raises:
        InputError: a negative weight.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got weight={self.weight:g}.")

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        network = with_memory(stage.network)
        if stage.epoch > 0:
            return {}
        features: dict[str, list[Tensor]] = {name: [] for name in MODALITIES}
        classes: list[Tensor] = []
        with at_rest(network), torch.no_grad():
            for clip, labels in stage.sample(_PER_ATOM * network.atoms):
                for name, feature in zip(MODALITIES, pooled(network.features(clip)), strict=True):
                    features[name].append(feature)
                classes.append(labels)
        order = in_turn_by_class(torch.cat(classes))[: network.atoms]
        for modality, found in features.items():
            network.remember(modality, torch.cat(found)[order])
        return {"remembered": float(len(order))}

    @property
    def for_accuracy(self) -> bool:
        return True

    def losses(self, step: Step) -> Iterator[Loss]:
        network = with_memory(step.network)
        with step.autocast():
            rebuilt = network.rebuilt(network.features(step.clip))
            logits = network.encoders.fuse({name: feature[:, None] for name, feature in rebuilt.items()})
        alike = F.cosine_similarity(rebuilt["video"], rebuilt["audio"], dim=1, eps=1e-8).mean()
        correct = (logits.argmax(1) == step.labels).float().mean()
        loss = F.cross_entropy(logits.float(), step.labels) + self.weight * alike
        yield Loss(loss, {"accuracy": correct, "alignment": alike})


def with_memory(network: Model) -> SparseMemory:
    """The network, if it has a memory.

    Raises:
        InputError: it has none.
    """
    if not isinstance(network, SparseMemory):
        raise InputError("dcfl trains a network with a memory: add with=sparse_memory() to the model's spec.")
    return network


def in_turn_by_class(labels: Tensor) -> Tensor:
    """Indices (N,) that take the clips class by class in turn: any first few of them are balanced."""
    place = torch.zeros_like(labels)
    for label in set(labels.tolist()):
        own = (labels == label).nonzero()[:, 0]
        place[own] = torch.arange(len(own), device=labels.device)
    return (place * (int(labels.max()) + 1) + labels).argsort(stable=True)
