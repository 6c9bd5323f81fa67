"""A small mixture of experts to train: what the tests of its trainings share."""

from __future__ import annotations

import torch
from driving import batch, network
from torch import nn

from robustvideo.model import at_rest, wrap
from robustvideo.models.moe import MixtureOfExperts


def mixture_network(experts: int = 3, *, top: int = 1) -> MixtureOfExperts:
    """Experts with batch norm behind a router with batch norm; every expert is used by some random clips."""
    torch.manual_seed(7)
    layers = nn.Sequential(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.Softplus(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    last = nn.Linear(6, experts)
    router = wrap(nn.Sequential(layers, last, nn.BatchNorm1d(experts)), frames=4, size=8)
    model = MixtureOfExperts([network(seed) for seed in range(experts)], router, top)
    with at_rest(model), torch.no_grad():
        logits = model.router(batch(64)[0])
        last.weight.div_(logits.std(0)[:, None])
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
    return model.train()
