"""Distances against closed forms, references and each clip's own value alone."""

from __future__ import annotations

import math

import pytest
import torch
from toys import clips

from robustvideo import distances
from robustvideo.distances import (
    frame_rms,
    frames_touched,
    l2,
    l21,
    linf,
    psnr,
    ssim,
    ssim_per_frame,
    structural_distance,
)

FLAT = torch.full((2, 3, 4, 16, 20), 0.5, dtype=torch.float64)


def test_closed_forms_of_a_constant_shift() -> None:
    shifted = FLAT.clone()
    shifted[0, :, 1] += 0.1
    shifted[1] -= 0.2
    assert torch.allclose(linf(shifted, FLAT), torch.tensor([0.1, 0.2], dtype=torch.float64))
    n = 3 * 16 * 20
    expected = torch.tensor([0.1 * n**0.5, 0.2 * (4 * n) ** 0.5], dtype=torch.float64)
    assert torch.allclose(l2(shifted, FLAT), expected)
    assert torch.allclose(l21(shifted, FLAT), torch.tensor([0.1, 0.8], dtype=torch.float64))
    assert frames_touched(shifted, FLAT).tolist() == [1, 4]
    assert torch.allclose(psnr(shifted, FLAT)[1], torch.tensor(-20 * math.log10(0.2), dtype=torch.float64))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (16, 20)])
def test_l21_of_one_flat_frame_does_not_depend_on_its_size(size: tuple[int, int]) -> None:
    a = torch.zeros(1, 3, 5, *size, dtype=torch.float64)
    b = a.clone()
    b[:, :, 2] = 0.07
    assert torch.allclose(l21(a, b), torch.tensor([0.07], dtype=torch.float64))


def test_equal_clips() -> None:
    clip = clips(2, shape=(3, 4, 16, 20)).video
    assert linf(clip, clip).tolist() == l2(clip, clip).tolist() == l21(clip, clip).tolist() == [0, 0]
    assert torch.allclose(ssim(clip, clip), torch.ones(2, dtype=torch.float64))
    assert psnr(clip, clip).tolist() == [math.inf] * 2
    assert frames_touched(clip, clip).tolist() == [0, 0]


def test_gradient_of_l21_is_zero_at_untouched_frames() -> None:
    delta = torch.zeros(2, 3, 4, 5, 6, dtype=torch.float64)
    delta[0, :, 1] = 0.1
    delta.requires_grad_()
    (gradient,) = torch.autograd.grad(l21(FLAT[:, :, :, :5, :6] + delta, FLAT[:, :, :, :5, :6]).sum(), delta)
    assert gradient.isfinite().all()
    assert (gradient[0, :, [0, 2, 3]] == 0).all()
    assert (gradient[1] == 0).all()
    assert torch.allclose(gradient[0, :, 1], torch.full((3, 5, 6), 1 / 90, dtype=torch.float64))


def test_gradients_match_finite_differences() -> None:
    a = torch.rand(1, 2, 2, 12, 12, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 2, 2, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: l21(x, b), (a,))
    assert torch.autograd.gradcheck(lambda x: ssim_per_frame(x, b), (a,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_ssim_equals_torchmetrics(noise: float, dtype: torch.dtype) -> None:
    """Where the whole window fits: torchmetrics also averages the reflected margin, so its map is cropped here."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    a = clips(2, shape=(3, 4, 24, 31), low=0, high=256, dtype=dtype).video
    a = torch.nn.functional.avg_pool3d(a, (1, 3, 3), stride=1, padding=(0, 1, 1))
    b = (a + noise * torch.randn(a.shape, dtype=dtype)).clamp(0, 1)
    frames = [v.transpose(1, 2).flatten(0, 1) for v in (a, b)]
    _, similarity = functional.structural_similarity_index_measure(
        *frames, sigma=1.5, kernel_size=11, data_range=1.0, k1=0.01, k2=0.03, reduction="none", return_full_image=True
    )
    reference = similarity[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert torch.allclose(ssim_per_frame(a, b).flatten(), reference.to(dtype), atol=1e-5)
    assert torch.allclose(ssim(a, b), reference.view(2, 4).mean(1).to(dtype), atol=1e-5)


def test_ssim_of_a_shifted_flat_picture() -> None:
    a, c1 = 0.5, 0.01**2
    for c in (0.1, 0.3):
        expected = (2 * a * (a + c) + c1) / (a * a + (a + c) ** 2 + c1)
        assert torch.allclose(ssim(FLAT, FLAT + c), torch.full((2,), expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (6, 8), (11, 11), (10, 40)])
def test_ssim_of_small_frames(size: tuple[int, int]) -> None:
    a, b = (torch.rand(2, 3, 2, *size, dtype=torch.float64) for _ in range(2))
    assert ssim(a, b).isfinite().all()
    assert (ssim(a, b).abs() <= 1 + 1e-12).all()
    assert torch.allclose(ssim(a, a), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["linf", "l2", "l21", "frames_touched", "psnr", "ssim"])
def test_every_distance_is_each_clip_s_own_and_symmetric(name: str) -> None:
    measure = getattr(distances, name)
    a, b = (clips(4, shape=(3, 4, 16, 20), seed=s).video for s in (1, 2))
    b[1, :, 2:] = a[1, :, 2:]
    together = measure(a, b)
    assert together.shape == (4,)
    assert torch.allclose(together, measure(b, a))
    for i in range(4):
        assert torch.allclose(measure(a[i : i + 1], b[i : i + 1])[0], together[i])


def test_sound_has_norms_too() -> None:
    a, b = torch.zeros(2, 1, 50), torch.full((2, 1, 50), 0.1)
    assert torch.allclose(linf(a, b), torch.full((2,), 0.1))
    assert torch.allclose(l2(a, b), torch.full((2,), 0.1 * 50**0.5))


def test_frame_rms_shape() -> None:
    assert frame_rms(torch.ones(2, 3, 4, 5, 6)).tolist() == [[1.0] * 4] * 2


def test_structural_distance_is_the_sum_over_frames_and_knows_only_those_that_changed() -> None:
    a = torch.rand(3, 3, 5, 16, 20, dtype=torch.float64)
    b = a.clone()
    b[0, :, 2] = torch.rand(3, 16, 20, dtype=torch.float64)
    b[1, :, [0, 4]] = 0.9 * b[1, :, [0, 4]]
    expected = (1 - ssim_per_frame(a, b)).sum(1)
    b.requires_grad_()
    distance = structural_distance(a, b)
    assert torch.allclose(distance, expected, atol=1e-12)
    assert float(distance[2].detach()) == 0
    (gradient,) = torch.autograd.grad(distance.sum(), b)
    (whole,) = torch.autograd.grad((1 - ssim_per_frame(a, b)).sum(), b)
    assert torch.allclose(gradient, whole, atol=1e-9)
    assert not gradient[0, :, 0].any()
