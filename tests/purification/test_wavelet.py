"""Wavelet shrinkage, against PyWavelets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.wavelet import Wavelet

pywt = pytest.importorskip("pywt")


def shrunk(band: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    excess = float((band**2).mean()) - sigma**2
    if excess <= 0:
        return np.zeros_like(band)
    return pywt.threshold(band, sigma**2 / excess**0.5, "soft")  # type: ignore[no-any-return]


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("shape", [(4, 16, 24), (5, 13, 11), (8, 9, 16)])
def test_it_is_pywavelets_with_bayesshrink(shape: tuple[int, int, int], temporal: bool) -> None:
    """A grey clip, so that no colours are in the way; odd sides are extended alike ("symmetric")."""
    sigma, levels = 0.05, 2
    random = np.random.default_rng(0)
    picture = 0.5 + 0.1 * random.standard_normal(shape).clip(-3, 3)
    picture[:, 4:, :6] += 0.15
    clip = Clip(torch.from_numpy(picture)[None, None])
    found = Wavelet(sigma=sigma, levels=levels, temporal=temporal).purify(clip, [0])[0].video[0, 0].numpy()
    pieces = [picture] if temporal else list(picture)
    expected = []
    for piece in pieces:
        first, *details = pywt.wavedecn(piece, "db1", mode="symmetric", level=levels)
        small = [{key: shrunk(band, sigma) for key, band in level.items()} for level in details]
        whole = pywt.waverecn([first, *small], "db1", mode="symmetric")
        expected.append(whole[tuple(slice(0, n) for n in piece.shape)])
    wanted = expected[0] if temporal else np.stack(expected)
    assert np.abs(found - wanted.clip(0, 1)).max() < 1e-12
    assert np.abs(found - picture).max() > 0.01


def test_no_noise_is_the_identity() -> None:
    clip = Clip(torch.rand(2, 3, 3, 17, 20, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(Wavelet(sigma=0.0).purify(clip, [0, 0])[0].video, clip.video, atol=1e-6)


def test_pure_noise_loses_most_of_its_energy() -> None:
    noise = 0.03 * torch.randn(1, 1, 4, 64, 64, generator=torch.Generator().manual_seed(2))
    left = Wavelet(sigma=0.03).purify(Clip(0.5 + noise), [0])[0].video - 0.5
    assert left.square().mean() < 0.1 * noise.square().mean()


def test_a_constant_clip_and_its_gradient_are_unharmed() -> None:
    video = torch.full((1, 3, 2, 16, 16), 0.3, dtype=torch.float64, requires_grad=True)
    out = Wavelet(sigma=0.02).purify(Clip(video), [0])[0].video
    assert torch.allclose(out, video, atol=1e-12)
    (gradient,) = torch.autograd.grad(out.sum(), video)
    assert gradient.isfinite().all()
    assert torch.allclose(gradient, torch.ones_like(gradient))


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="sigma"):
        Wavelet(sigma=-1.0)
    with pytest.raises(InputError, match="level"):
        Wavelet(levels=0)
