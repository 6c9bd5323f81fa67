"""The range of a signal, with a gradient that does not end at its bounds."""

from __future__ import annotations

import torch
from torch import Tensor


def into_box(signal: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Values clamped to [low, high]; those on a bound keep their gradient, those outside have none.

    Some versions of `torch.clamp` take it from values exactly on a bound, and much of a video is exactly black.
    """
    outside = (signal < low) | (signal > high)
    return torch.where(outside, signal.detach().clamp(low, high), signal)
