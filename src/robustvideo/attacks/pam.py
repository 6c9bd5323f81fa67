"""The path-augmented method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.averaged import Averaged, Copies
from robustvideo.attacks.gradients import GradientEstimator
from robustvideo.attacks.momentum import MIFGSM
from robustvideo.clip import Clip
from robustvideo.errors import InputError

COLOURS = (
    (0.0, 0.0, 0.0),
    (0.5, 0.5, 0.5),
    (1.0, 1.0, 1.0),
    (0.5, 0.5, 0.0),
    (1.0, 1.0, 0.5),
    (1.0, 0.5, 1.0),
    (0.5, 1.0, 1.0),
    (0.0, 0.5, 0.5),
)
"""Where the paths lead, in RGB: black, grey, white, and five mixtures."""


@attacks.register("pam")
@dataclass(frozen=True)
class PAM(MIFGSM):
    """The path-augmented method (Zhang et al. 2023).

    MI-FGSM on the mean gradient of the clip and of copies on the way to constant colours,
    ``x_{j,i} = 2^-i x + (1 - 2^-i) c_j`` for i = 1..scales, j = 1..colours. One colour fills all frames; in a clip
    that is not RGB it is a grey level, the colour's mean. Sound is scaled by the same ``2^-i`` towards silence, for
    every colour. Gradients are taken with respect to x. One step costs ``1 + scales * colours`` passes.

    The paper's paths may stop short of the colour, at a ratio that a small network predicts so that the copies keep
    their class; that network has to be trained for every model and is left out here (its ratio is 1).

    Attributes:
        scales: m, the number of points on each path, at least 1. Default 4, the paper's.
        colours: k, the number of paths, 1 to 8, from the first of `COLOURS`. Default 8, the paper's.
        copies_per_pass: copies of every clip that go through the model at once. Default: as many as make up
            8 clips, at least one.

    Raises:
        InputError: a value out of its range.
    """

    scales: int = 4
    colours: int = 8
    copies_per_pass: int | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.scales < 1:
            raise InputError(f"A path needs at least one point, got scales={self.scales}.")
        if not 1 <= self.colours <= len(COLOURS):
            raise InputError(f"There are paths to 1 to {len(COLOURS)} colours, got colours={self.colours}.")
        self.estimator()  # refuses what no average can be made of

    def estimator(self) -> GradientEstimator:
        copies = 1 + self.scales * self.colours
        return Averaged(
            transform=PathsToColours(self.scales, self.colours),
            weights=(1 / copies,) * copies,
            copies_per_pass=self.copies_per_pass,
            origin=0,
        )


@dataclass(frozen=True)
class PathsToColours:
    """Copy 0 is the clip; then come the ``scales`` points of the path to the first colour, to the second, ..."""

    scales: int
    colours: int

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        kept = (1.0, *(2.0**-i for _ in range(self.colours) for i in range(1, self.scales + 1)))
        share = copies.per_row(kept, clip.video)
        moved = clip.with_signal("video", share * clip.video + (1 - share) * self._colours(clip.video, copies))
        if clip.audio is None:
            return moved
        return moved.with_signal("audio", copies.per_row(kept, clip.audio) * clip.audio)

    def _colours(self, video: Tensor, copies: Copies) -> Tensor:
        """(rows, channels, 1, 1, 1)"""
        chosen = [COLOURS[max(n - 1, 0) // self.scales] for n in copies.numbers]
        colours = torch.tensor(chosen, dtype=video.dtype, device=video.device)
        if video.shape[1] != colours.shape[1]:
            colours = colours.mean(1, keepdim=True)
        return colours[:, :, None, None, None]
