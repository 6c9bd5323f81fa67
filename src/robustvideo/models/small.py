"""Small 3-D networks that train in minutes on a CPU: what the embedded weights and the small-scale tables use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import networks

MEAN, STD = 0.5, 0.25
"""Normalisation of every channel of the small networks."""


class Residual(nn.Module):
    """``relu(x + branch(x))``."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


@dataclass(frozen=True)
class _Small:
    """Attributes common to the small networks.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on.
        frames, size: number and side of the frames it takes; clips of others are sampled and resized.
    """

    classes: int = 8
    frames: int = 16
    size: int = 48

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("frames", 4), ("size", 16)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of a small network is at least {least}, got {getattr(self, name)}.")

    def _wrapped(self, *layers: nn.Module) -> Model:
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, self.classes))
        return wrap(network, frames=self.frames, size=self.size, mean=[MEAN] * 3, std=[STD] * 3)


@networks.register("r3d_small")
@dataclass(frozen=True)
class R3DSmall(_Small):
    """3-D convolutions, five layers, 0.3 million parameters: the architecture of ``embedded:r3d``.

    Attributes:
        classes, frames, size: see the base.
    """

    def build(self) -> Model:
        return self._wrapped(
            *_conv3d(3, 16, (5, 5, 5), (2, 2, 2)),
            *_conv3d(16, 32, (3, 3, 3), (1, 2, 2)),
            *_conv3d(32, 64, (3, 3, 3), (2, 2, 2)),
            Residual(nn.Sequential(*_conv3d(64, 64, (3, 3, 3)), *_conv3d(64, 64, (3, 3, 3))[:2])),
        )


@networks.register("r2plus1d_small")
@dataclass(frozen=True)
class R2Plus1DSmall(_Small):
    """(2+1)-D convolutions (Tran et al. 2018): each layer sees space, then time, with a ReLU between.

    Attributes:
        classes, frames, size: see the base.
    """

    size: int = 64

    def build(self) -> Model:
        return self._wrapped(
            *_conv2plus1d(3, 16, kernel=5, stride=2),
            *_conv2plus1d(16, 32, kernel=3, stride=2, pace=2),
            *_conv2plus1d(32, 64, kernel=3, stride=2, pace=2),
            Residual(nn.Sequential(*_conv2plus1d(64, 64, kernel=3), *_conv2plus1d(64, 64, kernel=3)[:-1])),
        )


Triple = tuple[int, int, int]


def _conv3d(channels: int, out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return [nn.Conv3d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm3d(out), nn.ReLU()]


def _conv2plus1d(channels: int, out: int, kernel: int, stride: int = 1, pace: int = 1) -> list[nn.Module]:
    space = _conv3d(channels, out, (1, kernel, kernel), (1, stride, stride))
    return [*space, *_conv3d(out, out, (3, 1, 1), (pace, 1, 1))]
