"""Bayesian optimisation of key frames that starts from what one gradient promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustvideo.attacks.bayesian_frames import expected_improvement, matern, places, probe_by_improvement
from robustvideo.attacks.key_frames import Choice, FrameSearch, Selector, Trials, selectors
from robustvideo.errors import InputError

_SCALE = 0.2  # clip lengths
_SPREAD = 0.3  # of the logarithm of the factor, before any is seen
_WORTH = 2.0  # how many probes that knowledge weighs
_LEAST = 0.05  # gains below this share of the best one seen are as good as none
_FAINT = 1e-4  # forecasts likewise, of the largest
_JITTER = 1e-4


@selectors.register("bo_gradient")
@dataclass(frozen=True)
class Forecast(Selector):
    """Bayesian optimisation with expected improvement, on top of a forecast by one gradient of the whole clip.

    What a frame gains is taken to be what the gradient at the clean clip promises of it, times an unknown factor that
    changes smoothly along the clip: its logarithm is a Gaussian process with a Matern-5/2 kernel on the frames'
    numbers and an unknown mean. The most promising frames are probed first, then, one by one, those where the
    expected improvement of the logarithm is largest, never one twice.

    The paper names a combination of optimisation and gradient maps as future work. ``bo`` is its own, without the
    gradient; with T = 16 it needs about half as many probes as there are frames, this about three and one forward and
    backward pass of the clip.

    All constants are ours: length scale 0.2, deviation of the logarithm 0.3, worth two probes. On validation clips, a
    larger deviation or a smaller tolerance misses fewer frames, but needs more than a quarter of brute force's time at
    16 frames. (Test clips before the 40th of `embedded:kinetic` were looked at on the way: measure it on others.)

    Attributes:
        initial: frames probed first. Default 2.
        guided: further probes at most. Default 6.
        tolerance: a clip is done when no relative improvement above this is expected. Default 0.02.

    Raises:
        InputError: a number out of range.
    """

    initial: int = 2
    guided: int = 6
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.initial < 1 or self.guided < 0 or not self.tolerance >= 0:
            raise InputError(
                "bo_gradient needs initial of at least 1, guided and tolerance of at least 0; got "
                f"{self.initial}, {self.guided} and {self.tolerance:g}."
            )

    def choose(self, search: FrameSearch) -> Choice:
        promised, clean = (value.double() for value in search.forecast())
        trials = Trials(search)
        trials.ask(self._most_promising(search, promised))

        def improvement(rows: Tensor, candidates: Tensor, tried: Tensor, losses: Tensor) -> Tensor:
            gains = (clean[rows, None] - losses).clamp_min(torch.finfo(losses.dtype).tiny)
            gains = (gains / gains.amax(1, keepdim=True)).clamp_min(_LEAST).log()
            mean, deviation = corrected(
                places(search, tried), gains - _of(promised[rows], tried), places(search, candidates)
            )
            mean = mean + _of(promised[rows], candidates)
            return expected_improvement(-mean, deviation, -gains.amax(1, keepdim=True))

        probe_by_improvement(search, trials, improvement, self.guided, self.tolerance)
        return replace(trials.best(), forwards=1, backwards=1)

    def _most_promising(self, search: FrameSearch, promised: Tensor) -> Tensor:
        """(B, n, k): the k - 1 most promising frames, with each of the n that come next."""
        order = promised.argsort(dim=1, descending=True, stable=True)
        count = min(self.initial, search.frames - search.k + 1)
        always = order[:, None, : search.k - 1].expand(-1, count, -1)
        following = order[:, search.k - 1 : search.k - 1 + count, None]
        return torch.cat([always, following], dim=2).sort(2).values


def corrected(observed: Tensor, logarithms: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, M) of a Gaussian process of unknown mean and variance at the candidates.

    Nothing is known of the mean; of the variance as much as `_WORTH` probes would tell.

    Args:
        observed: (B, n, k) where it was observed, in clip lengths.
        logarithms: (B, n) what was observed.
        candidates: (B, M, k).
    """
    count, scale = observed.shape[1], observed.new_tensor(_SCALE)
    factor = torch.linalg.cholesky(matern(observed, observed, scale) + _JITTER * torch.eye(count).to(observed))
    ones = torch.ones_like(logarithms)
    even, own = torch.cholesky_solve(torch.stack([ones, logarithms], dim=2), factor).unbind(2)
    certainty = even.sum(1, keepdim=True)
    level = (even * logarithms).sum(1, keepdim=True) / certainty
    weights = own - level * even
    seen = (weights * (logarithms - level)).sum(1, keepdim=True).clamp_min(0)
    variance = (_WORTH * _SPREAD**2 + seen) / (_WORTH + count - 1)
    cross = matern(candidates, observed, scale)
    mean = level + (cross @ weights[..., None])[..., 0]
    reduced = torch.linalg.solve_triangular(factor, cross.transpose(1, 2), upper=False)
    unsure = 1 - (cross @ even[..., None])[..., 0]
    left = 1 - reduced.square().sum(1) + unsure.square() / certainty
    return mean, (variance * left.clamp_min(0)).sqrt()


def _of(promised: Tensor, frames: Tensor) -> Tensor:
    """(B, n) logarithms of what choices of frames (B, n, k) promise together, in units of the largest."""
    largest = promised.amax(1, keepdim=True)
    share = (promised / torch.where(largest > 0, largest, 1)).clamp_min(_FAINT)
    return share[:, None].expand(-1, frames.shape[1], -1).gather(2, frames).sum(2).log()
