"""Inception-v3 on each frame, averaged over time (DeepSAVA, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.catalog import networks
from robustvideo.models.framewise import FrameSequence, FramewiseModel
from robustvideo.models.recurrent import frame_encoder


@networks.register("inception_v3")
@dataclass(frozen=True)
class InceptionV3:
    """Inception-v3 (Szegedy et al. 2016) on each frame; the probabilities are averaged over the frames.

    Torchvision's network, untrained, without its auxiliary answer, then a layer of 1024 as in DeepSAVA's code. Pixels
    are scaled to [-1, 1]. The mean over the frames is ours: the paper does not say how a clip is scored.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on.
        frames, size: number and side of the frames it takes. Default 40 and 299 (section 4.1).

    Raises:
        InputError: a number out of range.
    """

    classes: int = 101
    frames: int = 40
    size: int = 299

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("frames", 1), ("size", 75)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of inception_v3 is at least {least}, got {getattr(self, name)}.")

    def build(self) -> Model:
        encoder, width = frame_encoder("inception_v3")
        network = FrameSequence(encoder, MeanProbability(width, self.classes))
        return FramewiseModel(network, frames=self.frames, size=self.size, mean=(0.5,) * 3, std=(0.5,) * 3)


class MeanProbability(nn.Module):
    """Logits whose softmax is the mean over the frames of each frame's softmax: (B, T, D) -> (B, K).

    Args:
        features: D.
        classes: K.
    """

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.answer = nn.Sequential(nn.Linear(features, 1024), nn.ReLU(), nn.Linear(1024, classes))

    def forward(self, features: Tensor) -> Tensor:
        logarithms: Tensor = self.answer(features).log_softmax(2)
        return logarithms.logsumexp(1) - math.log(features.shape[1])
