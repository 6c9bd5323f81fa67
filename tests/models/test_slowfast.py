"""SlowFast: its size and cost are those of the paper, and its pathways see what they should."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.flops import gigaflops
from robustvideo.models.slowfast import SlowFastR50

TINY = "slowfast_r50?width=8&frames=16&size=32&depths=[1,1,1,1]"


def test_size_and_cost_are_the_paper_s() -> None:
    """34.5 million parameters; 36.1 GFLOPs at 256 x 256, a multiplication and its addition as one (table 5)."""
    with torch.device("meta"):
        network = SlowFastR50(frames=32, size=256).build()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(34.5, abs=0.1)
    clip = Clip(torch.empty(1, 3, 32, 256, 256, device="meta"))
    network.normalises = False  # its numbers are no parameters and stay where they are
    assert gigaflops(network, clip) / 2 == pytest.approx(36.1, abs=0.1)


def test_the_slow_pathway_sees_every_eighth_frame() -> None:
    model = load_model(TINY, num_classes=5).double()
    network = model.module
    for lateral in network.laterals:  # cut the connections, and what is left of the fast pathway's answer
        nn.init.zeros_(lateral[0].weight)
    with torch.no_grad():
        network.head[1].weight[:, -32:] = 0
    video = torch.rand(1, 3, 16, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(Clip(video)).square().sum(), video)
    seen = gradient.abs().amax((0, 1, 3, 4)) > 0
    assert seen.nonzero()[:, 0].tolist() == [0, 8]


def test_the_fast_pathway_sees_every_frame_and_clips_stay_apart() -> None:
    model = load_model(TINY, num_classes=5).double()
    video = torch.rand(3, 3, 16, 32, 32, dtype=torch.float64, requires_grad=True)
    logits = model(Clip(video))
    (gradient,) = torch.autograd.grad(logits[1].square().sum(), video)
    assert (gradient[1].abs().amax((0, 2, 3)) > 0).all()
    assert (gradient[[0, 2]] == 0).all()
    assert torch.allclose(model(Clip(video[1:2]))[0], logits[1], atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [("frames=12", "multiple of alpha=8"), ("width=20", "multiple of beta=8"), ("dropout=1", "dropout=")],
)
def test_what_cannot_be_built_is_said(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"slowfast_r50?{options}")
