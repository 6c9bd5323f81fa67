"""Mix-up where the modalities meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.clip import Clip, per_clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Featurised
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("mixup")
@dataclass(frozen=True)
class Mixup(Method):
    """Mix-up in the fusion layer of an audio-visual model, without an adversary (Li et al. 2022; reconstructed).

    ``lam CE(F', y) + (1 - lam) CE(F', y')`` on features ``lam F + (1 - lam) F'`` of two clips of the batch, lam drawn
    from Beta(alpha, alpha) per clip and the same for both modalities. AV calls the method a "mix-up strategy in the
    audio-visual fusion layer" and its authors' code holds no such training: this is a reconstruction. Nothing is
    mixed in evaluation.

    Attributes:
        alpha: of the Beta distribution. Default 1: uniform.
        where: "fusion", or the "input" pixels and samples.

    Raises:
        InputError: ``alpha`` that is not positive, or an unknown place.
    """

    alpha: float = 1.0
    where: Literal["fusion", "input"] = "fusion"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise InputError(f"alpha= of mixup is positive, got {self.alpha:g}.")
        if self.where not in ("fusion", "input"):
            raise unknown("place of mixup:", self.where, ("fusion", "input"))

    @property
    def for_accuracy(self) -> bool:
        return True

    def losses(self, step: Step) -> Iterator[Loss]:
        share, partner = draw(len(step.clip), self.alpha, step.seed, step.labels.device)
        if self.where == "input":
            logits = step.forward(mixed_clip(step.clip, share, partner))
        else:
            if not isinstance(step.network, Featurised):
                raise InputError("mixup(where=fusion) needs a model that shows its features, such as audio_visual.")
            with step.autocast():
                features = {name: mixed(f, share, partner) for name, f in step.network.features(step.clip).items()}
                logits = step.network.fuse(features)
            logits = logits.float()
        own = F.cross_entropy(logits, step.labels, reduction="none")
        other = F.cross_entropy(logits, step.labels[partner], reduction="none")
        yield Loss((share * own + (1 - share) * other).mean())


def draw(clips: int, alpha: float, seed: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """lam (B,) and the number (B,) of each clip's partner: a random permutation."""
    random = np.random.default_rng(seed)
    share = torch.from_numpy(random.beta(alpha, alpha, clips).astype(np.float32))
    return share.to(device), torch.from_numpy(random.permutation(clips)).to(device)


def mixed(values: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """``lam x + (1 - lam) x[partner]`` of (B, ...) values."""
    weight = per_clip(share, values).to(values.dtype)
    return weight * values + (1 - weight) * values[partner]


def mixed_clip(clip: Clip, share: Tensor, partner: Tensor) -> Clip:
    """Clips mixed in picture and sound."""
    video = mixed(clip.video, share, partner)
    return Clip(video, None if clip.audio is None else mixed(clip.audio, share, partner), clip.sample_rate, clip.ids)
