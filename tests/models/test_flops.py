"""GFLOPs: a count by hand, and a sparse mixture that costs its router and the experts that ran."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.model import wrap
from robustvideo.models import load_model
from robustvideo.models.flops import gigaflops
from robustvideo.models.moe import MixtureOfExperts


def test_a_convolution_and_a_matrix_are_counted_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 7)
    )
    model = wrap(network, frames=2, size=5)
    by_hand = 2 * (27 * 3 * 4 * 2 * 5 * 5) + 2 * (4 * 7)
    assert gigaflops(model, Clip(torch.rand(3, 3, 2, 5, 5))) * 1e9 == pytest.approx(by_hand)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_a_mixture_costs_its_router_and_the_experts_that_ran(top: int) -> None:
    model = load_model(f"video_moe?experts=3&frames=8&size=32&top={top}")
    assert isinstance(model, MixtureOfExperts)
    clip = Clip(torch.rand(4, 3, 8, 32, 32))
    parts = [gigaflops(part, clip) for part in (model.router, model.experts[0])]
    assert gigaflops(model, clip) == pytest.approx(parts[0] + top * parts[1])
    assert parts[0] < 0.3 * parts[1], "the router is light"
