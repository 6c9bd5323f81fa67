"""`embedded:moving_digits`: drawn digits that bounce about, for models that predict the next frame.

As Moving MNIST (Srivastava et al. 2015), but nothing is downloaded: digits are strokes, drawn for every frame at their
exact place. Each moves at a constant speed and is reflected at the edges, so the next frame follows from the last two.
A clip is a function of its split and index alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from robustvideo.clip import Clip
from robustvideo.data.dataset import Sample, VideoDataset
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import seed_for
from robustvideo.threat import GRID

Split = Literal["train", "val", "test"]
Array = NDArray[np.float32]

LABELS = ("predicted", "mispredicted")
"""Class names of models of the next frame; every clip is of the first."""

_CLIPS: dict[Split, int] = {"train": 4096, "val": 512, "test": 512}
_HEIGHT = 0.42  # of a digit, as a share of the picture's side
_SPEEDS = (0.02, 0.06)  # of the side per frame and axis
_STROKES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.5, 0), (0.85, 0.2), (0.85, 0.8), (0.5, 1), (0.15, 0.8), (0.15, 0.2), (0.5, 0)),
    ((0.3, 0.2), (0.55, 0), (0.55, 1)),
    ((0.15, 0.2), (0.5, 0), (0.85, 0.25), (0.15, 1), (0.85, 1)),
    ((0.15, 0.1), (0.5, 0), (0.8, 0.22), (0.45, 0.45), (0.85, 0.75), (0.5, 1), (0.15, 0.9)),
    ((0.7, 1), (0.7, 0), (0.1, 0.65), (0.9, 0.65)),
    ((0.85, 0), (0.2, 0), (0.2, 0.45), (0.6, 0.4), (0.85, 0.7), (0.5, 1), (0.15, 0.9)),
    ((0.75, 0), (0.3, 0.4), (0.15, 0.75), (0.5, 1), (0.85, 0.75), (0.5, 0.5), (0.2, 0.65)),
    ((0.15, 0), (0.85, 0), (0.4, 1)),
    ((0.5, 0.47), (0.2, 0.22), (0.5, 0), (0.8, 0.22), (0.5, 0.47), (0.15, 0.75), (0.5, 1), (0.85, 0.75), (0.5, 0.47)),
    ((0.8, 0.35), (0.5, 0.5), (0.15, 0.25), (0.5, 0), (0.85, 0.25), (0.7, 0.6), (0.25, 1)),
)
"""Each digit as a line through points (column, row), over its own height and width."""


class MovingDigits(VideoDataset):
    """Digits that bounce about in 48 x 48 pixels, for the prediction of the next frame.

    Args:
        split: "train" (4096 clips by default), "val" (512) or "test" (512); they share no clip.
        clips: how many clips, from the first; None is the split's default. Any number can be had.
        frames: per clip, the one to predict included. Default 16.
        size: side of the picture in pixels. Default 48.
        digits: per clip. Default 2, as in Moving MNIST.

    Raises:
        InputError: an unknown split or a number out of range.
    """

    labels = LABELS

    def __init__(
        self, *, split: Split = "train", clips: int | None = None, frames: int = 16, size: int = 48, digits: int = 2
    ):
        if split not in get_args(Split):
            raise unknown("split of embedded:moving_digits:", split, get_args(Split))
        count = _CLIPS[split] if clips is None else clips
        for name, value, least in (
            ("clips", count, 1),
            ("frames", frames, 2),
            ("size", size, 16),
            ("digits", digits, 1),
        ):
            if value < least:
                raise InputError(f"embedded:moving_digits needs {name} of at least {least}, got {value}.")
        self.split: Split = split
        self.frames, self.size, self.digits = frames, size, digits
        self._count = count

    @property
    def spec(self) -> str:
        """The spec that builds this data set."""
        options = f"split={self.split}&clips={self._count}&frames={self.frames}&size={self.size}&digits={self.digits}"
        return f"embedded:moving_digits?{options}"

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """Ids of all clips; all have label 0."""
        return [Sample(f"{self.split}-{i:06d}", 0) for i in range(self._count)]

    def __len__(self) -> int:
        return self._count

    def clip(self, index: int) -> Clip:
        """Draw one clip, as a batch of one: grey digits on black, in three equal channels."""
        name = self.samples[index].id
        random = np.random.default_rng(seed_for("moving digits", name))
        drawn = [self._one_digit(random) for _ in range(self.digits)]
        levels = np.float32(GRID["video"])
        video = (np.maximum.reduce(drawn) * levels).round() / levels
        return Clip(torch.from_numpy(video).expand(1, 3, -1, -1, -1).contiguous(), ids=(name,))

    def _one_digit(self, random: np.random.Generator) -> Array:
        """(T, H, W) of one digit in motion."""
        shape = np.array(_STROKES[random.integers(len(_STROKES))], np.float32)
        height = _HEIGHT * self.size
        width = height * random.uniform(0.55, 0.8)
        thickness = height * random.uniform(0.05, 0.08)
        edge = thickness + 0.5
        start, direction = random.random(2), np.where(random.random(2) < 0.5, -1, 1)
        speed = direction * random.uniform(*_SPEEDS, 2) * self.size
        room = self.size - 2 * edge - np.array([width, height])
        places = edge + reflected(start * room + speed * np.arange(self.frames)[:, None], room)
        return strokes(shape * np.array([width, height], np.float32), places.astype(np.float32), self.size, thickness)


def reflected(path: NDArray[Any], room: NDArray[Any]) -> NDArray[Any]:
    """A straight path (T, 2) folded into [0, room], as by mirrors at both ends."""
    folded: NDArray[Any] = room - np.abs(path % (2 * room) - room)
    return folded


def strokes(points: Array, places: Array, size: int, thickness: float) -> Array:
    """(T, size, size) brightness of a line through ``points`` (n, 2), moved to each of ``places`` (T, 2).

    Args:
        points: (column, row) in pixels.
        places: what is added to them in each frame.
        size: side of the picture.
        thickness: half the width of the line in pixels; its edge is one pixel wide.
    """
    centres = np.arange(size, dtype=np.float32) + 0.5
    x = centres[None, None, :] - places[:, 0, None, None]
    y = centres[None, :, None] - places[:, 1, None, None]
    nearest = np.full((len(places), size, size), np.inf, np.float32)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = bx - ax, by - ay
        along = (((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9)).clip(0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
    brightness: Array = (thickness + 0.5 - nearest).clip(0, 1)
    return brightness
