"""Colours as JPEG has them: luma and two colour differences, full range, BT.601."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def to_ycbcr(video: Tensor) -> Tensor:
    """RGB in [0, 1] -> Y in [0, 1], Cb and Cr in [-1/2, 1/2]; channels are axis 1. What is not RGB stays as it is."""
    if video.shape[1] != 3:
        return video
    red, green, blue = video.unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return torch.stack([luma, (blue - luma) / (2 - 2 * _LUMA[2]), (red - luma) / (2 - 2 * _LUMA[0])], 1)


def to_rgb(video: Tensor) -> Tensor:
    """The inverse of `to_ycbcr`."""
    if video.shape[1] != 3:
        return video
    luma, cb, cr = video.unbind(1)
    red, blue = luma + (2 - 2 * _LUMA[0]) * cr, luma + (2 - 2 * _LUMA[2]) * cb
    return torch.stack([red, (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1], blue], 1)
