"""A warp and additive noise together, bounded by what they do to the picture as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustvideo.clip import per_clip
from robustvideo.distances import l21, structural_distance
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.threat.box import into_box
from robustvideo.threat.flow import warp
from robustvideo.threat.part import Part, threats

_TRIALS = 8
_AIM, _ENOUGH = 0.99, 0.95  # shares of the budget: what a trial aims at, and what ends the search
_TOLERANCE = 1e-5  # of the budget
_ROUGHLY = 1e-3  # more than the error of SSIM in single precision
_START_PIXELS, _START_NOISE = 1.0, 8 / 255


@threats.register("warp_noise")
@dataclass(frozen=True)
class WarpAndNoise(Part):
    """Every pixel may be moved and then changed, as long as the picture stays alike.

    ``x' = clamp(warp(x, m U) + m N)`` with ``sum_t (1 - SSIM_t(x, x')) <= eps``; m is the support. Source: DeepSAVA
    (Mu et al. 2024), sections 3.2 and 3.3, eq. 2.

    The variable is (B, 2 + C, T, H, W): a displacement in pixels, as in `FlowField`, then the noise as a fraction of
    the range. The paper and its code stop once the budget is exceeded; here it is a true bound, of the clip as it is
    stored. Displacement and noise are scaled by one common factor until the bound holds, found by trials as if the
    measure grew with the square of the factor, and within 5 % of the bound where a few trials suffice.

    Attributes:
        eps: largest sum over frames of 1 - SSIM (`distances.structural_distance`). The paper's SSIM budget of 0.94 for
            one frame is 0.06; 2 per frame bounds nothing.

    Raises:
        InputError: sound.
    """

    _degree: ClassVar[int] = 2  # with what power of the change the measure grows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality == "audio":
            raise InputError("A warp moves pixels: warp_noise is for video only.")

    def zeros(self, signal: Tensor) -> Tensor:
        batch, channels, *place = signal.shape
        return torch.zeros(batch, 2 + channels, *place, dtype=signal.dtype, device=signal.device)

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        """Uniform within a pixel and 8/255, then projected."""
        draw = random.uniform(self.zeros(signal)) * 2 - 1
        start = torch.cat([draw[:, :2] * _START_PIXELS, draw[:, 2:] * _START_NOISE], dim=1)
        return self.project(signal, start, eps, mask)

    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            variable = variable * mask
        return into_box(warp(signal, variable[:, :2]) + variable[:, 2:], *self.box)

    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            variable = variable * mask
        scale = self._largest_scale(signal, variable, eps, mask, stored=False)
        return variable * per_clip(scale, variable)

    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """There is none.

        Raises:
            InputError: always.
        """
        raise InputError("A warp_noise budget has no steepest direction: attack it with deepsava or sparse.")

    @staticmethod
    def distance(clean: Tensor, changed: Tensor) -> Tensor:
        """(B,) what ``eps`` bounds."""
        return structural_distance(clean, changed)

    def measure(self, clean: Tensor, changed: Tensor) -> Tensor:
        """`distance` in double precision: SSIM is a quotient of small differences."""
        return self.distance(clean.double(), changed.double())

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        return self.measure(clean, changed) <= eps.double() * (1 + _TOLERANCE)

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """The changed signal on the grid, at the largest scale found at which it is still within the bound."""
        scale = self._largest_scale(signal, variable, eps, mask, stored=True)
        return super().quantise(signal, variable * per_clip(scale, variable), mask, eps)

    def _largest_scale(
        self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None, stored: bool
    ) -> Tensor:
        """(B,) factors in [0, 1] under which each clip keeps to its bound: 1 where it does so already."""

        def changed(rows: Tensor, scale: Tensor) -> Tensor:
            clean, own = signal[rows], None if mask is None else mask.expand(len(signal), *mask.shape[1:])[rows]
            scaled = variable[rows].detach() * per_clip(scale, variable)
            if stored:
                return super(WarpAndNoise, self).quantise(clean, scaled, own, eps[rows])
            return self.apply(clean, scaled, own)

        scale, everyone = torch.ones_like(eps), torch.arange(len(signal), device=signal.device)
        whole = changed(everyone, scale)
        # far inside, a rough measure says as much as an exact one, which takes twice as long
        rows = (self.distance(signal, whole) + _ROUGHLY >= _ENOUGH * eps).nonzero()[:, 0]
        measured = self.measure(signal[rows], whole[rows])
        over = measured > eps[rows].double()
        rows, above = rows[over], measured[over]
        low, high = torch.zeros_like(above), torch.ones_like(above)
        for _ in range(_TRIALS):
            if len(rows) == 0:
                break
            guess = high * (_AIM * eps[rows].double() / above) ** (1 / self._degree)
            # a guess at or below what fits already says nothing new
            guess = torch.where(guess > low, guess, (low + high) / 2)
            measured = self.measure(signal[rows], changed(rows, guess.to(scale.dtype)))
            fits = measured <= eps[rows].double()
            low, high = torch.where(fits, guess, low), torch.where(fits, high, guess)
            above = torch.where(fits, above, measured)
            scale = scale.index_copy(0, rows, low.to(scale.dtype))
            left = ~(fits & (measured >= _ENOUGH * eps[rows].double()))
            rows, low, high, above = rows[left], low[left], high[left], above[left]
        return scale


@threats.register("warp_noise_l21")
@dataclass(frozen=True)
class WarpAndNoiseL21(WarpAndNoise):
    """As `WarpAndNoise`, but the L2,1 norm of the whole change is bounded: `distances.l21` at most ``eps``."""

    _degree: ClassVar[int] = 1

    @staticmethod
    def distance(clean: Tensor, changed: Tensor) -> Tensor:
        return l21(clean, changed)
