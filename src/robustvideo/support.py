"""Supports: where in a clip an adversary may change anything.

A support yields a mask that broadcasts to a video (B, C, T, H, W): 1 where a change is allowed. Random supports
draw from each clip's own stream, so a clip's mask does not depend on its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.registry import Registry, allow_nested


class Support(ABC):
    """Where changes are allowed."""

    @abstractmethod
    def mask(self, signal: Tensor, random: ClipRandom) -> Tensor | None:
        """1 where a change is allowed, broadcastable to ``signal``; None means everywhere.

        Args:
            signal: video (B, C, T, H, W); only its shape, type and device are read.
            random: one stream per clip, for supports that draw their place.
        """


supports: Registry[Support] = Registry("support", "supports", "robustvideo.support")
allow_nested(Support, supports)


@supports.register("everywhere")
@dataclass(frozen=True)
class Everywhere(Support):
    """The whole clip."""

    def mask(self, signal: Tensor, random: ClipRandom) -> None:
        return None


@supports.register("frames")
@dataclass(frozen=True)
class Frames(Support):
    """Some frames only: given by index, or k drawn at random for each clip.

    Attributes:
        indices: frame numbers from 0 (negative counts from the end); the same for every clip.
        k: number of frames to draw when ``indices`` is empty.
    """

    indices: tuple[int, ...] = ()
    k: int = 1

    def mask(self, signal: Tensor, random: ClipRandom) -> Tensor:
        frames = signal.shape[2]
        mask = torch.zeros(len(signal), frames, device=signal.device, dtype=signal.dtype)
        if self.indices:
            if any(not -frames <= i < frames for i in self.indices):
                raise InputError(f"Frames {list(self.indices)} do not all exist in a clip of {frames} frames.")
            mask[:, list(self.indices)] = 1
        else:
            if not 1 <= self.k <= frames:
                raise InputError(f"Cannot choose k={self.k} frames of a clip of {frames}.")
            order = random.uniform(mask).argsort(1)
            mask.scatter_(1, order[:, : self.k], 1)
        return mask[:, None, :, None, None]


@supports.register("patch")
@dataclass(frozen=True)
class Patch(Support):
    """One rectangle, the same in every frame, with the frame's aspect ratio.

    Attributes:
        ratio: share of the frame's area, in (0, 1]; the sides are ``sqrt(ratio)`` of the frame's, rounded down.
        corner: (row, column) of the upper left corner in pixels; None draws it for each clip.
    """

    ratio: float = 0.1
    corner: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InputError(f"A patch covers a share of the frame in (0, 1], got ratio={self.ratio:g}.")

    def mask(self, signal: Tensor, random: ClipRandom) -> Tensor:
        height, width = signal.shape[3:]
        patch_h = max(1, int(height * self.ratio**0.5))
        patch_w = max(1, int(width * self.ratio**0.5))
        if self.corner is None:
            draw = random.uniform(torch.empty(len(signal), 2))
            rows = (draw[:, 0] * (height - patch_h + 1)).long()
            columns = (draw[:, 1] * (width - patch_w + 1)).long()
        else:
            row, column = self.corner
            if not (0 <= row <= height - patch_h and 0 <= column <= width - patch_w):
                raise InputError(f"A {patch_h}x{patch_w} patch at {self.corner} leaves the {height}x{width} frame.")
            rows, columns = (torch.full((len(signal),), v) for v in (row, column))
        y, x = torch.arange(height), torch.arange(width)
        inside_y = (y >= rows[:, None]) & (y < rows[:, None] + patch_h)
        inside_x = (x >= columns[:, None]) & (x < columns[:, None] + patch_w)
        return (inside_y[:, None, None, :, None] & inside_x[:, None, None, None, :]).to(signal)


@supports.register("border")
@dataclass(frozen=True)
class Border(Support):
    """A frame of constant thickness around the picture, in every frame of the clip.

    Attributes:
        ratio: share r of the picture's area, in (0, 1). The thickness b is the largest whole number of pixels
            with ``2b(W+H) - 4b^2 <= rWH``, so the realised share is at most r.
    """

    ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(f"A border covers a share of the picture in (0, 1), got ratio={self.ratio:g}.")

    def mask(self, signal: Tensor, random: ClipRandom) -> Tensor:
        height, width = signal.shape[3:]
        around = height + width
        thickness = int((around - (around**2 - 4 * self.ratio * height * width) ** 0.5) / 4 + 1e-9)
        if thickness == 0:
            raise InputError(f"A border of ratio={self.ratio:g} is thinner than a pixel of a {height}x{width} frame.")
        mask = torch.ones(1, 1, 1, height, width, device=signal.device, dtype=signal.dtype)
        mask[..., thickness : height - thickness, thickness : width - thickness] = 0
        return mask.expand(len(signal), -1, -1, -1, -1)
