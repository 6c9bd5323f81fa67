"""Median filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.purifier import Gradient, Purifier, defenses


@defenses.register("median")
@dataclass(frozen=True)
class Median(Purifier):
    """Median filter, within every frame or along time (Xu et al. 2018, feature squeezing).

    Each pixel becomes the median of its neighbourhood, colour by colour; outside, the picture repeats its edge. The
    exact gradient goes to the pixel that was chosen.

    Attributes:
        size: side of the neighbourhood, odd. Default 3.
        temporal: a neighbourhood of ``size`` frames instead of ``size`` x ``size`` pixels.

    Raises:
        InputError: a size that has no middle.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    size: int = 3
    temporal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.size % 2 == 0:
            raise InputError(f"size of median is an odd number, got {self.size}.")

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        half = self.size // 2
        if self.temporal:
            windows = F.pad(clip.video, (0, 0, 0, 0, half, half), mode="replicate").unfold(2, self.size, 1)
        else:
            padded = F.pad(clip.video, (half, half, half, half, 0, 0), mode="replicate")
            windows = padded.unfold(3, self.size, 1).unfold(4, self.size, 1).flatten(5)
        return (clip.with_signal("video", windows.median(-1).values),)
