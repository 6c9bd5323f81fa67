"""How far an adversarial clip is from its original. Every function reduces per clip, never over the batch.

Inputs are two float tensors (B, C, T, H, W) in [0, 1] (the norms also take any (B, ...), such as sound); the
result is a (B,) tensor. `l21` and `ssim_per_frame` are differentiable: attacks optimise them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linf(a: Tensor, b: Tensor) -> Tensor:
    """Largest absolute difference."""
    return (a - b).flatten(1).abs().amax(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean norm of the difference, over all values of a clip (not a root *mean* square)."""
    norm: Tensor = torch.linalg.vector_norm((a - b).flatten(1), dim=1)
    return norm


def frame_rms(delta: Tensor) -> Tensor:
    """Root mean square of each frame of a perturbation (B, C, T, H, W): a (B, T) tensor.

    The gradient at an untouched frame is 0, not NaN.
    """
    mean_square = delta.square().mean((1, 3, 4))
    return torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square)).sqrt() * (mean_square > 0)


def l21(a: Tensor, b: Tensor) -> Tensor:
    """Sum over frames of each frame's root mean square difference: the L2,1 norm of the sparse video attacks.

    ``sum_t sqrt(mean_{c,h,w} (a - b)^2)``; a constant shift by c of one frame measures |c| at any frame size.
    Source: Wei et al. 2019; DeepSAVA section 3.2 (the papers' text leaves sum or mean over the frame's values
    open; their public code takes the mean).
    """
    return frame_rms(a - b).sum(1)


def frames_touched(a: Tensor, b: Tensor) -> Tensor:
    """Number of frames in which any value differs (int64)."""
    return (a != b).any(4).any(3).any(1).sum(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the whole clip; infinite for equal clips."""
    return -10.0 * torch.log10((a - b).square().flatten(1).mean(1))


def ssim_per_frame(a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of every frame: a (B, T) tensor in [-1, 1].

    Gaussian window 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1 (Wang et al. 2004), averaged over the
    positions where the whole window lies inside the frame, and over channels. A frame smaller than the window
    shrinks it to the largest odd size that fits.
    """
    size = min(window, a.shape[3], a.shape[4])
    size -= 1 - size % 2
    kernel = torch.exp(-0.5 * ((torch.arange(size, dtype=a.dtype, device=a.device) - (size - 1) / 2) / sigma).square())
    # products with banded matrices: many times faster on a CPU than a convolution of one channel
    over_rows, over_columns = (_banded(kernel / kernel.sum(), side) for side in a.shape[3:])

    def blur(x: Tensor) -> Tensor:
        return over_rows @ x @ over_columns.T

    batch, channels, frames, height, width = a.shape
    x, y = (v.transpose(1, 2).reshape(-1, 1, height, width) for v in (a, b))
    mean_x = blur(x)  # apart, because an attack's gradient does not reach the clean clip
    mean_y, mean_squares, mean_xy = blur(torch.cat([y, x * x + y * y, x * y])).chunk(3)
    c1, c2 = 0.01**2, 0.03**2
    covariance = mean_xy - mean_x * mean_y
    variances = (mean_squares - mean_x.square() - mean_y.square()).clamp_min(0)
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))
    return similarity.view(batch, frames, channels, -1).mean((2, 3))


def _banded(kernel: Tensor, side: int) -> Tensor:
    """(side - K + 1, side) the matrix that correlates a signal with a kernel (K,) where it fits whole."""
    rows = F.pad(kernel, (0, side - len(kernel) + 1)).repeat(side - len(kernel) + 1)
    return rows[: (side - len(kernel) + 1) * side].view(-1, side)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean over frames of `ssim_per_frame`."""
    return ssim_per_frame(a, b).mean(1)


def structural_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum over frames of ``1 - SSIM``: 0 for equal clips, at most 2 per frame.

    Only frames that differ are looked at; the others add exactly 0. DeepSAVA's section 3.2 sums over the frames,
    its appendix A.5 averages: the sum measures a change of one frame alike in a clip of any length.
    """
    changed = (a != b).flatten(3).any(3).any(1)
    before, after = (v.transpose(1, 2)[changed][:, :, None] for v in (a, b))
    distances = torch.zeros_like(changed, dtype=a.dtype)
    if len(before):
        distances = distances.masked_scatter(changed, 1 - ssim_per_frame(before, after)[:, 0])
    return distances.sum(1)


def signal_to_noise(clean: Tensor, changed: Tensor) -> Tensor:
    """(B,) ``20 log10(rms(x) / rms(x' - x))`` in decibels; infinite where nothing changed, -infinite over silence."""
    rms = [signal.double().flatten(1).square().mean(1).sqrt() for signal in (clean, changed - clean)]
    return 20 * (rms[0].log10() - rms[1].log10()).where(rms[1] > 0, torch.inf)


def relative_loudness(clean: Tensor, changed: Tensor) -> Tensor:
    """(B,) ``20 log10 max|x' - x| - 20 log10 max|x|`` in decibels (Carlini and Wagner 2018); -infinite if unchanged."""
    peaks = [signal.double().flatten(1).abs().amax(1) for signal in (clean, changed - clean)]
    return 20 * (peaks[1].log10() - peaks[0].log10()).where(peaks[1] > 0, -torch.inf)
