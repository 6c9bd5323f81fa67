"""A warp and additive noise together, bounded by what they do to the picture as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.clip import per_clip
from robustvideo.distances import l21, structural_distance
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.threat.box import into_box
from robustvideo.threat.flow import warp
from robustvideo.threat.part import Part, threats

_BISECTIONS = 8
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
    stored. Displacement and noise are scaled by one common factor, found by bisection, until the bound holds.

    Attributes:
        eps: largest sum over frames of 1 - SSIM (`distances.structural_distance`). The paper's SSIM budget of 0.94 for
            one frame is 0.06; 2 per frame bounds nothing.

    Raises:
        InputError: sound.
    """

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

        def fits(rows: Tensor, scale: Tensor) -> Tensor:
            clean, own = signal[rows], None if mask is None else mask.expand(len(signal), *mask.shape[1:])[rows]
            scaled = variable[rows].detach() * per_clip(scale, variable)
            if stored:
                changed = super(WarpAndNoise, self).quantise(clean, scaled, own, eps[rows])
            else:
                changed = self.apply(clean, scaled, own)
            # far inside, a rough measure says as much as an exact one, which takes twice as long
            good = self.distance(clean, changed) + _ROUGHLY < 0.95 * eps[rows]
            close = (~good).nonzero()[:, 0]
            if len(close):
                exact = self.measure(clean[close], changed[close]) <= eps[rows][close].double()
                good = good.index_copy(0, close, exact)
            return good

        scale = torch.ones_like(eps)
        everyone = torch.arange(len(signal), device=signal.device)
        rows = everyone[~fits(everyone, scale)]
        if len(rows):
            low, high = torch.zeros_like(scale[rows]), torch.ones_like(scale[rows])
            for _ in range(_BISECTIONS):
                middle = (low + high) / 2
                good = fits(rows, middle)
                low, high = torch.where(good, middle, low), torch.where(good, high, middle)
            scale = scale.index_copy(0, rows, low)
        return scale


@threats.register("warp_noise_l21")
@dataclass(frozen=True)
class WarpAndNoiseL21(WarpAndNoise):
    """As `WarpAndNoise`, but the L2,1 norm of the whole change is bounded: `distances.l21` at most ``eps``."""

    @staticmethod
    def distance(clean: Tensor, changed: Tensor) -> Tensor:
        return l21(clean, changed)
