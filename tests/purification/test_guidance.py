"""The losses that guide VideoPure, their gradients, and the warp along the flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.purification.guidance import (
    ELEMENTS,
    FRAME,
    Sides,
    Warp,
    spatial_gradient,
    spatial_loss,
    temporal_gradient,
    temporal_loss,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant(x: float, y: float, frames: int = 4, height: int = 6, width: int = 7, batch: int = 2) -> Tensor:
    flow = torch.zeros(batch, 2, frames - 1, height, width, dtype=torch.float64)
    flow[:, 0], flow[:, 1] = x, y
    return flow


def moving(x: int, y: int, frames: int = 4, height: int = 6, width: int = 7) -> Tensor:
    """A scene that moves by whole cells, x to the right and y down, and wraps around."""
    scene = draw(2, 3, height, width)
    return torch.stack([scene.roll((t * y, t * x), (2, 3)) for t in range(frames)], 2)


def test_the_sizes_are_the_paper_s() -> None:
    assert (ELEMENTS, FRAME) == (100352, 3136)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, 1), (2, 1), (-1, 2)])
def test_a_moving_scene_agrees_with_itself_inside_the_frame(x: int, y: int) -> None:
    """Fails where x and y, or from and to, are exchanged."""
    latents = moving(x, y)
    warp = Warp.along(constant(x, y), masked=True)
    assert torch.equal(temporal_loss(latents, warp), torch.zeros(2, dtype=torch.float64))
    if (x, y) != (0, 0):
        assert (temporal_loss(latents, Warp.along(constant(x, y))) > 0).all()  # at the border, with zeros
        assert (temporal_loss(latents, Warp.along(constant(-x, -y), masked=True)) > 0).all()


def test_a_static_scene_has_no_temporal_loss() -> None:
    latents = draw(2, 3, 1, 6, 7).expand(-1, -1, 4, -1, -1)
    assert torch.equal(temporal_loss(latents, Warp.along(constant(0, 0))), torch.zeros(2, dtype=torch.float64))


def test_the_warp_is_that_of_grid_sample() -> None:
    flow, frames = 2 * draw(2, 2, 3, 6, 7), draw(2, 5, 3, 6, 7, seed=1)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    for t in range(3):
        grid = torch.stack([(columns + flow[:, 0, t]) / 3 - 1, (rows + flow[:, 1, t]) / 2.5 - 1], -1)
        expected = torch.nn.functional.grid_sample(frames[:, :, t], grid, align_corners=True)
        assert torch.allclose(Warp.along(flow)(frames)[:, :, t], expected, atol=1e-12)


def test_the_transposed_warp_is_its_adjoint() -> None:
    warp = Warp.along(2 * draw(2, 2, 3, 6, 7))
    there, back = draw(2, 5, 3, 6, 7, seed=1), draw(2, 5, 3, 6, 7, seed=2)
    assert torch.allclose((warp(there) * back).sum(), (there * warp.transposed(back)).sum())


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradients_are_those_of_the_losses(masked: bool) -> None:
    warp = Warp.along(1.5 * draw(2, 2, 3, 6, 7), masked)
    latents, source = draw(2, 5, 4, 6, 7, seed=1).requires_grad_(), draw(2, 5, 4, 6, 7, seed=2)
    (expected,) = torch.autograd.grad(temporal_loss(latents, warp).sum(), latents)
    assert torch.allclose(temporal_gradient(latents, warp, "two_sided"), expected, atol=1e-12)
    (expected,) = torch.autograd.grad(spatial_loss(latents, source).sum(), latents)
    assert torch.allclose(spatial_gradient(latents, source), expected, atol=1e-12)


def test_one_sided_is_the_gradient_with_the_warped_frame_held_fixed() -> None:
    warp = Warp.along(1.5 * draw(2, 2, 3, 6, 7))
    latents = draw(2, 5, 4, 6, 7, seed=1).requires_grad_()
    fixed = warp(latents[:, :, 1:].detach())
    (expected,) = torch.autograd.grad((latents[:, :, :-1] - fixed).abs().sum() / FRAME, latents)
    found = temporal_gradient(latents, warp, "one_sided")
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.equal(found[:, :, -1], torch.zeros_like(found[:, :, -1]))


def test_clips_of_one_frame_have_no_temporal_gradient() -> None:
    latents = draw(2, 3, 1, 6, 7)
    assert not temporal_gradient(latents, Warp.along(constant(0, 0, frames=1)), "two_sided").any()


@pytest.mark.parametrize("sides", ["one_sided", "two_sided"])
def test_soft_signs_are_soft_only_on_the_way_back(sides: Sides) -> None:
    warp = Warp.along(1.5 * draw(2, 2, 3, 6, 7))
    latents = draw(2, 5, 4, 6, 7, seed=1).requires_grad_()
    soft = temporal_gradient(latents, warp, sides, softness=0.5)
    assert torch.allclose(soft, temporal_gradient(latents, warp, sides), atol=1e-15)
    (gradient,) = torch.autograd.grad((soft * draw(2, 5, 4, 6, 7, seed=3)).sum(), latents)
    assert gradient.abs().max() > 0
    if sides == "one_sided":  # the derivative of tanh(r / h) / FRAME in the earlier frame
        residual = latents[:, :, 0] - warp(latents[:, :, 1:])[:, :, 0]
        expected = draw(2, 5, 4, 6, 7, seed=3)[:, :, 0] * (1 - (residual / 0.5).tanh() ** 2) / 0.5 / FRAME
        assert torch.allclose(gradient[:, :, 0], expected, atol=1e-12)
