"""Log-mel spectrograms inside a model, differentiable from the stored waveform on: a budget is one of its samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.errors import InputError

FLOOR = 1e-6
"""Power that counts as silence. A far smaller one would give silence the steepest gradient of a whole clip."""

_ZEROS = 6  # of the resampling kernel, on each side
_ROLLOFF = 0.99


@dataclass(frozen=True)
class Hearing:
    """How sound becomes a picture.

    Attributes:
        rate: samples per second that sound is resampled to. Default 16000 (methods sheet; the paper does not say).
        n_fft: samples of a Hann window, of as many Fourier points. Default 512.
        hop: samples from one window to the next. Default 160.
        mels: mel bands. Default 64.

    Raises:
        InputError: a number below 1, or more bands than the Fourier points can tell apart.
    """

    rate: int = 16000
    n_fft: int = 512
    hop: int = 160
    mels: int = 64

    def __post_init__(self) -> None:
        for name in ("rate", "n_fft", "hop", "mels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}= of a spectrogram is at least 1, got {getattr(self, name)}.")
        if not (mel_filters(self.rate, self.n_fft, self.mels) > 0).any(1).all():
            raise InputError(
                f"{self.mels} mel bands are more than {self.n_fft} Fourier points at {self.rate} Hz can tell apart: "
                "set fewer mels= or a larger n_fft=."
            )


class LogMel(nn.Module):
    """``log(mel power + 1e-6)`` of mono sound, moved and scaled by fixed numbers to about [-1, 1].

    Power instead of magnitude, whose gradient does not exist at silence. Loudness is not normalised: that would
    couple all samples of a clip and hide how large a perturbation is. Always in single precision at least.

    Args:
        hearing: rate, windows and bands.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, hearing: Hearing):
        super().__init__()
        self.hearing = hearing
        filters = mel_filters(hearing.rate, hearing.n_fft, hearing.mels)
        self.register_buffer("window", torch.hann_window(hearing.n_fft, dtype=torch.float64), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor, rate: int) -> Tensor:
        """(N, samples) at ``rate`` -> (N, mels, frames); each row of itself alone."""
        hearing = self.hearing
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = resample(waveform.float() if waveform.element_size() < 4 else waveform, rate, hearing.rate)
            padded = F.pad(waveform, (hearing.n_fft // 2, hearing.n_fft - hearing.n_fft // 2))
            spectrum = torch.stft(
                padded, hearing.n_fft, hearing.hop, window=self.window.to(padded), center=False, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mel = self.filters.to(power) @ power
            return ((mel + FLOOR).log() + 4.0) / 10.0


def mel_filters(rate: int, n_fft: int, mels: int) -> Tensor:
    """(mels, n_fft // 2 + 1) triangles of height 1, evenly spread on the mel scale from 0 to half the rate.

    The scale is ``2595 log10(1 + f / 700)``; in float64.
    """
    top = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, mels + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp_min(0.0)


def resample(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """(N, samples) at another rate: band-limited interpolation by a windowed sinc, differentiable and linear.

    Args:
        waveform: (N, samples).
        rate: its samples per second.
        wanted: those of the result, which has ``ceil(samples * wanted / rate)``.
    """
    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    if old == new:
        return waveform
    kernels, width = _sinc_kernels(old, new)
    count = math.ceil(waveform.shape[1] * new / old)
    padded = F.pad(waveform[:, None], (width, width + old))
    phases = F.conv1d(padded, kernels.to(waveform)[:, None], stride=old)  # (N, new, blocks): the samples, interleaved
    return phases.transpose(1, 2).flatten(1)[:, :count]


@lru_cache(maxsize=8)
def _sinc_kernels(old: int, new: int) -> tuple[Tensor, int]:
    """(new, taps) kernels, one per phase of the result, and the taps before time 0; ``old`` and ``new`` are coprime."""
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64)[None] / old
    times = ((taps - torch.arange(new, dtype=torch.float64)[:, None] / new) * cutoff).clamp(-_ZEROS, _ZEROS)
    window = (times * math.pi / _ZEROS / 2).cos().square()
    return torch.sinc(times) * window * (cutoff / old), width
