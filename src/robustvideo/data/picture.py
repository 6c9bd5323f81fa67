"""How a decoded frame becomes a frame of a clip: cropped or boxed to a square, and resized, in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from robustvideo.errors import InputError

Fit = Literal["square", "letterbox", "stretch"]


@dataclass(frozen=True)
class Picture:
    """The size of a clip's frames.

    Attributes:
        size: side of the square frames in pixels; None keeps the file's own size and shape.
        fit: "square" cuts out the central square, "letterbox" adds black bars, "stretch" ignores the proportions.

    Raises:
        InputError: a size that is not positive.
    """

    size: int | None = 112
    fit: Fit = "square"

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise InputError(f"size= must be positive, got {self.size}.")

    def fitted(self, frames: Tensor) -> Tensor:
        """uint8 frames (N, C, H, W) at the size asked for, resized bilinearly with antialiasing, in 8 bits."""
        if self.size is None:
            return frames
        height, width = frames.shape[2:]
        if self.fit == "square":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            return resized(frames[:, :, top : top + side, left : left + side], self.size, self.size)
        if self.fit == "stretch":
            return resized(frames, self.size, self.size)
        longest = max(height, width)
        inner = [max(1, round(side * self.size / longest)) for side in (height, width)]
        boxed = frames.new_zeros(*frames.shape[:2], self.size, self.size)
        top, left = ((self.size - side) // 2 for side in inner)
        boxed[:, :, top : top + inner[0], left : left + inner[1]] = resized(frames, *inner)
        return boxed


def resized(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 frames (N, C, H, W) resized bilinearly with antialiasing; themselves where nothing changes."""
    if frames.shape[2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", align_corners=False, antialias=True)
