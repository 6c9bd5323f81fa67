"""A warp and noise under one bound: what it changes, that the bound holds as stored, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from toys import SHAPE, clips, weights

from robustvideo.distances import l21, ssim_per_frame, structural_distance
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.support import Frames
from robustvideo.threat import WarpAndNoise, WarpAndNoiseL21, threats, warp

BOUNDS = {"ssim": WarpAndNoise(0.05), "l21": WarpAndNoiseL21(0.05)}


def large(part: WarpAndNoise, video: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A variable far outside of every bound."""
    random = torch.Generator().manual_seed(seed)
    variable = torch.randn(part.zeros(video).shape, generator=random, dtype=video.dtype)
    variable[:, 2:] *= 0.3
    return variable


def test_no_change_is_the_identity_bit_for_bit() -> None:
    video = clips(2).video
    part = BOUNDS["ssim"]
    assert torch.equal(part.apply(video, part.zeros(video), None), video)
    assert torch.equal(part.quantise(video, part.zeros(video), None, torch.full((2,), 0.05)), video)


def test_it_warps_and_then_adds() -> None:
    video, part = clips(2).video, BOUNDS["ssim"]
    variable = large(part, video)
    expected = (warp(video, variable[:, :2]) + variable[:, 2:]).clamp(0, 1)
    assert torch.allclose(part.apply(video, variable, None), expected, atol=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_the_bound_holds_after_projecting_and_after_rounding(bound: str, eps: float, dtype: torch.dtype) -> None:
    part = BOUNDS[bound]
    video = clips(3, shape=(3, 4, 16, 16), dtype=dtype).video
    budget = torch.tensor([eps, eps / 2, 0.0], dtype=dtype)
    variable = part.project(video, large(part, video), budget, None)
    measure = {"ssim": structural_distance, "l21": l21}[bound]
    continuous = part.apply(video, variable, None)
    stored = part.quantise(video, variable, None, budget)
    for changed in (continuous, stored):
        assert (measure(video.double(), changed.double()) <= budget.double() * (1 + 1e-5)).all()
    assert part.within_budget(video, stored, budget).all()
    assert part.within_box_and_grid(video, stored).all()
    assert torch.equal(stored[2], video[2])
    if 1e-3 < eps < 0.4:
        assert (measure(video, continuous)[:2] >= 0.94 * budget[:2]).all(), "nearly all of the budget is used"
        assert (measure(video, stored)[:2] >= 0.5 * budget[:2]).all()
        assert not part.within_budget(video, stored, budget / 2)[:1].any()


def test_the_scale_is_common_to_warp_and_noise_and_each_clip_s_own() -> None:
    part, video = BOUNDS["ssim"], clips(3, shape=(3, 4, 16, 16)).video
    wanted, budget = large(part, video), torch.tensor([0.02, 0.2, 0.05], dtype=torch.float64)
    together = part.project(video, wanted, budget, None)
    for i in range(3):
        alone = part.project(video[i : i + 1], wanted[i : i + 1], budget[i : i + 1], None)
        assert torch.allclose(alone[0], together[i], atol=1e-12)
        ratio = together[i] / wanted[i]
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), atol=1e-9)


def test_what_is_within_the_bound_is_not_touched() -> None:
    part, video = BOUNDS["ssim"], clips(2, shape=(3, 4, 16, 16)).video
    small = large(part, video) * 1e-4
    assert torch.equal(part.project(video, small, torch.full((2,), 0.05), None), small)


def test_one_frame_of_a_support_and_no_other_changes() -> None:
    part = WarpAndNoise(2.0, support=Frames((1,)))
    video = clips(2, shape=(3, 4, 16, 16)).video
    mask = part.support.mask(video, ClipRandom([]))
    stored = part.quantise(video, large(part, video), mask, torch.full((2,), 2.0, dtype=video.dtype))
    touched = (stored != video).flatten(3).any(3).any(1)
    assert touched.tolist() == [[False, True, False, False]] * 2


def test_gradients_against_finite_differences() -> None:
    part, video = BOUNDS["ssim"], clips(1, shape=(3, 2, 12, 13)).video
    variable = (large(part, video) * 0.3).clamp(-0.45, 0.45) + 0.013
    weight = weights((3, 2, 12, 13))

    def value(z: torch.Tensor) -> torch.Tensor:
        changed = part.apply(video, z, None)
        return (changed * weight).sum() + (1 - ssim_per_frame(video, changed)).sum()

    z = variable.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(z), z)
    random = torch.Generator().manual_seed(3)
    for index in torch.randint(0, z.numel(), (40,), generator=random).tolist():
        step = torch.zeros(z.numel(), dtype=z.dtype)
        step[index] = 1e-6
        step = step.view_as(z)
        slope = (value(variable + step) - value(variable - step)) / 2e-6
        assert float(slope) == pytest.approx(float(gradient.flatten()[index]), rel=1e-4, abs=1e-6)


def test_a_random_start_is_each_clip_s_own_and_lawful() -> None:
    part, video = BOUNDS["ssim"], clips(2, shape=(3, 4, 16, 16)).video
    eps = torch.full((2,), 0.05, dtype=video.dtype)
    start = part.random_start(video, eps, None, ClipRandom([1, 2]))
    alone = part.random_start(video[1:], eps[1:], None, ClipRandom([2]))
    assert torch.allclose(start[1:], alone, atol=1e-12)
    assert (start[:, :2] != 0).any()
    assert part.within_budget(video, part.quantise(video, start, None, eps), eps).all()


def test_a_spec_builds_it_and_mistakes_are_named() -> None:
    assert threats.build("warp_noise(eps=0.1)") == WarpAndNoise(0.1)
    assert threats.build("warp_noise_l21(eps=0.1)") == WarpAndNoiseL21(0.1) != WarpAndNoise(0.1)
    with pytest.raises(InputError, match="positive"):
        threats.build("warp_noise(eps=0)")
    with pytest.raises(InputError, match="for video"):
        WarpAndNoise(0.1, modality="audio")
    with pytest.raises(InputError, match="deepsava"):
        BOUNDS["ssim"].steepest(torch.zeros(1), torch.zeros(1), None)


def test_pixels_at_the_border_can_be_moved_too() -> None:
    """At rest the slope is that of moving right and down: to the neighbour, or, past the end, to none."""
    video = clips(1, shape=(1, 1, 5, 6)).video.requires_grad_(False)
    flow = torch.zeros(1, 2, 1, 5, 6, dtype=video.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(warp(video, flow).sum(), flow)
    picture = video[0, 0, 0]
    right = torch.cat([picture[:, 1:], picture[:, -1:]], dim=1) - picture
    down = torch.cat([picture[1:], picture[-1:]], dim=0) - picture
    assert torch.allclose(gradient[0, 0, 0], right, atol=1e-9)
    assert torch.allclose(gradient[0, 1, 0], down, atol=1e-9)


def test_shapes() -> None:
    video = clips(2).video
    assert BOUNDS["l21"].zeros(video).shape == (2, 2 + SHAPE[0], *SHAPE[1:])
