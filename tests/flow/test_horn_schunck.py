"""Horn and Schunck's flow on motions that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.flow.horn_schunck import horn_schunck_flow


def sliding(right: float, down: float, frames: int = 3, size: int = 48) -> Tensor:
    """A smooth pattern, periodic in 24 pixels, that moves by so many pixels per frame."""
    place = torch.arange(size, dtype=torch.float64)
    t = torch.arange(frames, dtype=torch.float64)[:, None, None]
    x, y = place - right * t, place[:, None] - down * t
    wave = 2 * torch.pi / 24
    grey = 0.5 + 0.2 * torch.sin(wave * x) * torch.cos(wave * y) + 0.2 * torch.cos(wave * (x + y))
    return grey.expand(1, 3, frames, size, size).clone()


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (1.0, 0.0), (0.0, -1.0), (2.5, 1.5)])
def test_it_finds_how_a_pattern_slides(right: float, down: float) -> None:
    flow = horn_schunck_flow(sliding(right, down))
    assert flow.shape == (1, 2, 2, 48, 48)
    inner = flow[:, :, :, 8:-8, 8:-8].flatten(2).median(2).values[0]
    assert torch.allclose(inner, torch.tensor([right, down], dtype=torch.float64), atol=0.15)


def test_a_clip_s_flow_does_not_follow_its_batch() -> None:
    video = torch.cat([sliding(1, 0), sliding(0, 2)])
    assert torch.allclose(horn_schunck_flow(video)[1:], horn_schunck_flow(video[1:]))


def test_its_gradient_is_that_of_finite_differences() -> None:
    video = sliding(0.6, 0.3, frames=2, size=12).requires_grad_()
    direction = torch.rand(video.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    (gradient,) = torch.autograd.grad(horn_schunck_flow(video).square().sum(), video)
    step = 1e-6
    with torch.no_grad():
        ends = [horn_schunck_flow(video + sign * step * direction).square().sum() for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-5)
