"""Momentum integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, attacks
from robustvideo.attacks.averaged import Averaged, Copies
from robustvideo.attacks.gradients import GradientEstimator
from robustvideo.attacks.momentum import MIFGSM
from robustvideo.attacks.objectives import Margin, Objective
from robustvideo.clip import Clip, Modality
from robustvideo.errors import InputError
from robustvideo.threat import GRID

_SLOPE = 1e-6


@attacks.register("mig")
@dataclass(frozen=True)
class MIG(MIFGSM):
    """Momentum integrated gradients (Ma et al. 2023).

    ``IG(x) = |x| * (1/s) sum_{i=1..s} grad f(u)`` at ``u = (i/s) x``, f the softmax probability of the label;
    ``m <- decay * m + IG / mean|IG|``; ``x <- P(x - alpha * sign(m))``, with ``alpha = eps / steps``. The path leads
    from black and silence; video and sound are scaled together. One step costs ``points`` passes.

    Three things differ from the public reconstructions. The gradient is the one *at* u, not the one through u,
    which would weight point i by i/s; only so the entries of IG add up to ``f(x) - f(0)``. The factor is ``|x|``
    instead of x: the same for pixels, but a waveform has negative samples, whose sign would turn the attack round.
    And it is at least one step of the storage grid, or black pixels and silent samples could never move.

    Attributes:
        points: s, the number of points on the path, at least 1. Default 20, the paper's.
        copies_per_pass: points of every clip that go through the model at once. Default: as many as make up
            8 clips, at least one.

    Raises:
        InputError: a value out of its range.
    """

    points: int = 20
    copies_per_pass: int | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.points < 1:
            raise InputError(f"A path needs at least one point, got points={self.points}.")
        self.estimator()  # refuses what no average can be made of

    def objective(self) -> Objective:
        return LabelScore()

    def estimator(self) -> GradientEstimator:
        return Averaged(
            transform=PathFromBlack(self.points),
            weights=(1 / self.points,) * self.points,
            copies_per_pass=self.copies_per_pass,
            origin=self.points - 1,
        )


class LabelScore(Margin):
    """The negative softmax probability of the label; the positive one when the label is a target.

    Written as ``sigmoid(o)`` of the label's log odds o, from whichever side does not cancel, its gradient survives
    where ``1 - p`` rounds to zero. Where even that underflows, a slope of 1e-6 along o goes on showing the way; it
    points in the direction of grad p, so it changes nothing but the weights between points that are all saturated.
    """

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        labels = problem.labels[:, None]
        own = logits.gather(1, labels)[:, 0]
        odds = own - logits.scatter(1, labels, -torch.inf).logsumexp(1)
        score = torch.where(odds > 0, 1 - torch.sigmoid(-odds), torch.sigmoid(odds)) + _SLOPE * odds
        return score if problem.targeted else -score


@dataclass(frozen=True)
class PathFromBlack:
    """Copy number r of a clip is ``u = (r + 1) / points * x``; its gradient becomes ``max(|x|, 1 level) * grad_u``."""

    points: int

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        scaled = clip.with_signal("video", self._scaled(clip.video, "video", copies))
        if clip.audio is None:
            return scaled
        return scaled.with_signal("audio", self._scaled(clip.audio, "audio", copies))

    def _scaled(self, signal: Tensor, modality: Modality, copies: Copies) -> Tensor:
        share = copies.per_row(tuple((i + 1) / self.points for i in range(self.points)), signal)
        value = signal.detach()
        weight = value.abs().clamp_min(1 / GRID[modality])
        return share * value + weight * (signal - value)  # the second term is 0, and carries the gradient
