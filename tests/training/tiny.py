"""A network of a second's training, for the tests of the trainer: a model file as a user brings it."""

from __future__ import annotations

import torch
from torch import nn

import robustvideo as rv


def build(dropout: str = "0.2", norm: str = "true", classes: str = "8") -> rv.Model:
    """A small 3-D network; with dropout, so that a lost random state shows."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(3, 8, (3, 5, 5), (2, 4, 4), bias=False),
        nn.BatchNorm3d(8) if norm == "true" else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(float(dropout)),
        nn.AdaptiveAvgPool3d(2),
        nn.Flatten(),
        nn.Linear(64, int(classes)),
    )
    return rv.wrap(network, frames=16, size=48)


def exploding() -> rv.Model:
    """A network whose logits overflow once its weights have grown."""

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.pow(9) * 1e30

    network = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 8), Square())
    return rv.wrap(network, frames=16, size=48)
