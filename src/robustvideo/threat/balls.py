"""Norm balls: additive perturbations of pixels or sound, bounded in Linf, L2 or L2,1 over frames."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustvideo.clip import per_clip
from robustvideo.distances import frame_rms, l2
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.threat.box import into_box
from robustvideo.threat.part import GRID, Part, threats

_TOLERANCE = 1e-5  # of the budget: the rounding error of fp32 sums, never of the grid

Parametrisation = Literal["dense", "frame_colour"]


@dataclass(frozen=True)
class NormBall(Part):
    """An additive perturbation in a norm ball.

    Attributes:
        parametrisation: "dense" gives every value its own variable; "frame_colour" one colour offset per frame
            (flickering): the variable is (B, C, T, 1, 1), and the ball is still that of the resulting pixels.
    """

    parametrisation: Parametrisation = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parametrisation == "frame_colour" and self.modality == "audio":
            raise InputError("Sound has no colour: parametrisation='frame_colour' is for video.")

    def zeros(self, signal: Tensor) -> Tensor:
        if self.parametrisation == "frame_colour":
            return torch.zeros(*signal.shape[:3], 1, 1, dtype=signal.dtype, device=signal.device)
        return torch.zeros_like(signal)

    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            variable = variable * mask
        changed = signal + variable
        # a dense variable is projected into the box already; a shared offset can only be clipped
        return changed if self.parametrisation == "dense" else into_box(changed, *self.box)

    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        dense = self.parametrisation == "dense"
        if mask is not None and dense:
            variable = variable * mask
        variable = self._into_ball(variable, eps, signal, mask)
        return (signal + variable).clamp_(*self.box).sub_(signal) if dense else variable

    @abstractmethod
    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """The nearest variable whose perturbation is inside the norm ball."""

    def _isometry(self, signal: Tensor, mask: Tensor | None) -> Tensor | float:
        """Factor that turns a variable into one whose Euclidean norm is that of the changed pixels.

        A colour offset counts once for every pixel of its frame that it changes: the factor is the square root
        of their number, (B or 1, 1, T or 1, 1, 1).
        """
        if self.parametrisation == "dense":
            return 1.0
        if mask is None:
            return math.sqrt(signal.shape[3] * signal.shape[4])
        pixels = mask.expand(-1, -1, -1, *signal.shape[3:]).sum((3, 4), keepdim=True)
        return pixels.clamp_min(torch.finfo(pixels.dtype).tiny).sqrt()


@dataclass(frozen=True)
class RoundedNormBall(NormBall):
    """A norm ball that nearest rounding can leave, or empty: the scale of what is rounded is searched for."""

    @abstractmethod
    def measure(self, delta: Tensor) -> Tensor:
        """(B,) norm of a perturbation of the signal."""

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        return self.measure(changed - clean) <= eps * (1 + _TOLERANCE)

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """Round to the nearest grid point, at the scale that keeps the perturbation's norm.

        Rounding alone can leave the ball, or lose what lies below half a step everywhere. The perturbation is
        therefore scaled, clip by clip, to the largest factor (found by doubling and bisection) whose rounded
        norm does not exceed the norm before rounding, nor the budget. Equal values are told apart by a fixed
        pattern of at most 5 %, so that some of them can be kept where all would be too many.
        """
        plain = super().quantise(signal, variable, mask, eps)
        if not self.stored:
            return plain
        wanted = torch.minimum(self.measure(self.apply(signal, variable, mask).detach() - signal), eps)

        order = torch.arange(variable[0].numel(), dtype=torch.float64, device=variable.device)
        pattern = 0.95 + 0.1 * (order * 0.6180339887498949).frac().view(variable.shape[1:]).to(variable.dtype)

        def rounded(scale: Tensor) -> tuple[Tensor, Tensor]:
            scaled = variable * pattern * per_clip(scale, variable)
            trial = super(RoundedNormBall, self).quantise(signal, scaled, mask, eps)
            return trial, self.measure(trial - signal)

        norm = self.measure(plain - signal)
        fine = (norm <= wanted) & (norm >= 0.95 * wanted)
        if fine.all():
            return plain
        low, high = torch.zeros_like(eps), torch.ones_like(eps)
        for _ in range(12):
            fits = rounded(high)[1] <= wanted
            if not fits.any():
                break
            low, high = torch.where(fits, high, low), torch.where(fits, 2 * high, high)
        for _ in range(14):
            middle = (low + high) / 2
            fits = rounded(middle)[1] <= wanted
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        best, norm = rounded(low)
        searched = torch.where(per_clip(norm <= wanted, signal), best, signal)
        return torch.where(per_clip(fine, signal), plain, searched)


@threats.register("linf")
@dataclass(frozen=True)
class Linf(NormBall):
    """Every value may change by at most ``eps``, a fraction of the range [0, 1] (sound: of [-1, 1]'s unit).

    Raises:
        InputError: ``eps`` outside (0, 1], or below the smallest change that a file can hold (1/255; 1/32768).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            raise InputError(
                f"A budget is a fraction of the range [0, 1], got eps={self.eps:g}: write eps={self.eps:g}/255 "
                "for grey levels."
            )
        levels = GRID[self.modality]
        if self.stored and self.eps * levels < 1 - _TOLERANCE:
            raise InputError(
                f"eps={self.eps:g} is below 1/{levels}, the smallest change that a stored {self.modality} can hold."
            )

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.uniform(self.zeros(signal)) * 2 - 1
        return self.project(signal, draw * per_clip(eps, draw), eps, mask)

    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        return gradient.sign()

    def of_norm_one(self, direction: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """The direction itself: a momentum of mean-normalised gradients has entries of about 1 (Lin et al. 2020)."""
        return direction

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """Round to the nearest grid point inside the ball. In place where it can be: a long video is large."""
        changed = self.apply(signal, variable, mask).detach().clamp_(*self.box)
        if not self.stored:
            return changed
        levels = GRID[self.modality]
        reach = per_clip(eps, signal)
        slack = 1e-3  # of one level: the representation error of x * 255, far below any real step
        least = (signal - reach).mul_(levels).sub_(slack).ceil_()
        most = (signal + reach).mul_(levels).add_(slack).floor_()
        untouched = (changed == signal) | (least > most)
        rounded = changed.mul_(levels).round_().clamp_(least, most).div_(levels)
        return torch.where(untouched, signal, rounded, out=rounded)

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        slack = 2e-3 / GRID[self.modality] if self.stored else 1e-6
        return (changed - clean).flatten(1).abs().amax(1) <= eps + slack

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        bound = per_clip(eps, variable)
        return variable.clamp(-bound, bound)


@threats.register("l2")
@dataclass(frozen=True)
class L2(RoundedNormBall):
    """The Euclidean norm of the perturbation over the whole clip is at most ``eps``.

    Not a fraction of anything: a change of 8/255 at every value of a 3x16x112x112 clip has norm 24.3.
    """

    def measure(self, delta: Tensor) -> Tensor:
        return l2(delta, torch.zeros_like(delta))

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.normal(self.zeros(signal))
        length = random.uniform(eps[:, None])[:, 0] * eps
        if mask is not None and self.parametrisation == "dense":
            draw = draw * mask
        return self.project(signal, self._scaled_to(draw, length, signal, mask), eps, mask)

    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        isometry = self._isometry(signal, mask)
        direction = _of_largest_one(gradient / isometry)
        return direction / per_clip(direction.flatten(1).norm(dim=1).clamp_min(1), direction) / isometry

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        return self._scaled_to(variable, torch.minimum(self._norm(variable, signal, mask), eps), signal, mask)

    def _norm(self, variable: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        return l2(variable * self._isometry(signal, mask), torch.zeros_like(variable))

    def _scaled_to(self, variable: Tensor, norm: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        now = self._norm(variable, signal, mask).clamp_min(torch.finfo(variable.dtype).tiny)
        return variable * per_clip(norm / now, variable)


@threats.register("l21")
@dataclass(frozen=True)
class L21(RoundedNormBall):
    """The sum over frames of each frame's root mean square perturbation is at most ``eps`` (see `distances.l21`).

    A fraction of the range: one frame changed everywhere by 0.1 costs 0.1. The ball prefers few frames: its
    steepest direction changes only the frame with the largest gradient.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality == "audio":
            raise InputError("The L2,1 norm is over frames: use linf or l2 for sound.")

    def measure(self, delta: Tensor) -> Tensor:
        return frame_rms(delta).sum(1)

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.normal(self.zeros(signal))
        if mask is not None and self.parametrisation == "dense":
            draw = draw * mask
        length = random.uniform(eps[:, None])[:, 0] * eps
        norm = self._frames(draw, signal, mask).sum(1).clamp_min(torch.finfo(draw.dtype).tiny)
        return self.project(signal, draw * per_clip(length / norm, draw), eps, mask)

    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        isometry = self._isometry(signal, mask)
        direction = _of_largest_one(gradient / isometry)
        sizes = _frame_norms(direction)
        best = sizes.argmax(1, keepdim=True)
        chosen = torch.zeros_like(sizes).scatter_(1, best, signal[0, :, 0].numel() ** 0.5)
        return direction * _per_frame(torch.where(sizes > 0, chosen / sizes, 0)) / isometry

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        sizes = self._frames(variable, signal, mask)
        kept = _onto_simplex(sizes, eps)
        return variable * _per_frame(kept / sizes.clamp_min(torch.finfo(sizes.dtype).tiny))

    def _frames(self, variable: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) root mean square change of each frame."""
        return _frame_norms(variable * self._isometry(signal, mask)) / math.sqrt(signal[0, :, 0].numel())


def _of_largest_one(direction: Tensor) -> Tensor:
    """A direction (B, ...) scaled so that its largest entry is 1: its squares then neither vanish nor overflow."""
    largest = direction.flatten(1).abs().amax(1)
    return direction / per_clip(torch.where(largest > 0, largest, torch.ones_like(largest)), direction)


def _frame_norms(video: Tensor) -> Tensor:
    """(B, T) Euclidean norm of each frame."""
    norms: Tensor = video.square().sum((1, 3, 4)).sqrt()
    return norms


def _per_frame(values: Tensor) -> Tensor:
    """A (B, T) tensor, shaped to multiply a video."""
    return values[:, None, :, None, None]


def _onto_simplex(sizes: Tensor, total: Tensor) -> Tensor:
    """Nearest non-negative (B, T) rows whose sum is at most ``total`` (B,): soft thresholding (Duchi et al. 2008)."""
    ordered, _ = sizes.sort(dim=1, descending=True)
    ranks = torch.arange(1, sizes.shape[1] + 1, dtype=sizes.dtype, device=sizes.device)
    thresholds = (ordered.cumsum(1) - total[:, None]) / ranks
    active = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1)
    threshold = thresholds.gather(1, active - 1).clamp_min(0)
    inside = sizes.sum(1, keepdim=True) <= total[:, None]
    kept: Tensor = torch.where(inside, sizes, (sizes - threshold).clamp_min(0))
    return kept
