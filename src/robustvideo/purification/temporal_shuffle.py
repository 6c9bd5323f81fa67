"""Shuffling the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.purifier import Gradient, Purifier, defenses


@defenses.register("temporal_shuffle")
@dataclass(frozen=True)
class TemporalShuffle(Purifier):
    """A random order of the frames, afresh at every purification (Hwang et al. 2024).

    The map is linear: its exact gradient is the inverse order. The honest attack averages over orders (``eot=20``).
    Sound is left in place.

    Attributes:
        frames: shuffle only within consecutive stretches of so many frames. Default: the whole clip; which of them
            the authors mean is not settled, report 4, 8 and 16 as well.

    Raises:
        InputError: a stretch below one frame.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    frames: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.frames < 1:
            raise InputError(f"A stretch is at least one frame, got frames={self.frames}.")

    @property
    def random(self) -> bool:
        return True

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        orders = [self.order(clip.frames, seed) for seed in seeds]
        shuffled = [video[:, order.to(clip.device)] for video, order in zip(clip.video, orders, strict=True)]
        return (clip.with_signal("video", torch.stack(shuffled) if shuffled else clip.video),)

    def order(self, frames: int, seed: int) -> Tensor:
        """(T,) the frame that comes to each place."""
        random = torch.Generator().manual_seed(seed)
        stretch = self.frames or frames
        starts = range(0, frames, stretch)
        return torch.cat([s + torch.randperm(min(stretch, frames - s), generator=random) for s in starts])
