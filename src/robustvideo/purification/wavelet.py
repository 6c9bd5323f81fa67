"""Wavelet shrinkage of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.colour import to_rgb, to_ycbcr
from robustvideo.errors import InputError
from robustvideo.purification.purifier import Gradient, Purifier, defenses
from robustvideo.threat.box import into_box


@defenses.register("wavelet")
@dataclass(frozen=True)
class Wavelet(Purifier):
    """Wavelet denoising: soft thresholds that fit each sub-band, BayesShrink (Mustafa et al. 2020).

    A Haar transform in luma and colour differences. Every detail band w of every frame is shrunk by
    ``sign(w) max(|w| - t, 0)`` with ``t = sigma^2 / sqrt(max(mean(w^2) - sigma^2, 0))``; a band that holds no more
    than the noise is zeroed. The approximation is left alone. (Mustafa et al. go on to super-resolve; the VideoPure
    paper compares with the denoiser only.)

    Attributes:
        sigma: standard deviation of the noise, as a fraction of the range. Default 0.01, the authors'; they offer up
            to 0.04. 0 changes nothing.
        levels: of the transform. Default 3, ours.
        temporal: transform the time axis as well, with one threshold per band of the whole clip.

    Raises:
        InputError: a negative sigma, or no level.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    sigma: float = 0.01
    levels: int = 3
    temporal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma >= 0:
            raise InputError(f"sigma of wavelet is at least 0, got {self.sigma:g}.")
        if self.levels < 1:
            raise InputError(f"wavelet needs at least one level, got levels={self.levels}.")

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        axes = (2, 3, 4) if self.temporal else (3, 4)
        planes = _denoised(to_ycbcr(clip.video), axes, self.sigma, self.levels)
        return (clip.with_signal("video", into_box(to_rgb(planes))),)


def _denoised(x: Tensor, axes: tuple[int, ...], sigma: float, levels: int) -> Tensor:
    """(B, C, T, H, W) with the details along ``axes`` shrunk, down to ``levels``."""
    if levels == 0:
        return x
    bands = [x]
    for axis in axes:
        bands = [half for band in bands for half in _split(band, axis)]
    shrunk = [_denoised(bands[0], axes, sigma, levels - 1), *(_shrunk(band, axes, sigma) for band in bands[1:])]
    for axis in reversed(axes):
        pairs = zip(shrunk[::2], shrunk[1::2], strict=True)
        shrunk = [_joined(low, high, axis, x.shape[axis]) for low, high in pairs]
    return shrunk[0]


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The orthonormal Haar transform along one axis: sums and differences of neighbours, at half the length.

    An odd axis is extended by its last value.
    """
    if x.shape[axis] % 2:
        x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1)], axis)
    even, odd = x.unfold(axis, 2, 2).unbind(-1)
    return (even + odd) * 0.5**0.5, (even - odd) * 0.5**0.5


def _joined(low: Tensor, high: Tensor, axis: int, length: int) -> Tensor:
    """The inverse of `_split`, cut to the axis' length."""
    pair = torch.stack([(low + high) * 0.5**0.5, (low - high) * 0.5**0.5], axis + 1)
    return pair.flatten(axis, axis + 1).narrow(axis, 0, length)


def _shrunk(band: Tensor, axes: tuple[int, ...], sigma: float) -> Tensor:
    """A band after its own soft threshold."""
    excess = band.square().mean(axes, keepdim=True) - sigma**2
    signal = excess > 0
    threshold = sigma**2 / torch.where(signal, excess, 1.0).sqrt()  # no root of 0, whose gradient would be NaN
    return torch.where(signal, band.sign() * (band.abs() - threshold).relu(), 0.0)
