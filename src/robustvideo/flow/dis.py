"""Optical flow without a network: OpenCV's DIS."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustvideo.colour import to_ycbcr
from robustvideo.errors import InputError

_LEAST = 16  # pixels a side: what DIS' patches and pyramid need


def dis_flow(video: Tensor) -> Tensor:
    """How the pixels of every frame move to the next one, in pixels; no gradient.

    Dense inverse search (Kroeger et al. 2016), OpenCV's preset "medium", on the luma in 8 bits. Frames below 16
    pixels a side are extended by their edge for the search.

    Args:
        video: (B, C, T, H, W) in [0, 1].

    Returns:
        (B, 2, T - 1, H, W): x (to the right), then y (downwards), in the type and on the device of ``video``.

    Raises:
        InputError: OpenCV is not installed.
    """
    search = _opencv().DISOpticalFlow_create(2)  # the preset "medium"
    height, width = video.shape[3:]
    pixels = (to_ycbcr(video.detach())[:, 0] * 255).round().to("cpu", torch.uint8).numpy()
    room = ((0, 0), (0, 0), (0, max(_LEAST - height, 0)), (0, max(_LEAST - width, 0)))
    pixels = np.ascontiguousarray(np.pad(pixels, room, mode="edge"))
    flow = np.zeros((*video.shape[:1], max(video.shape[2] - 1, 0), height, width, 2), dtype=np.float32)
    for row, frames in enumerate(pixels):
        for t in range(flow.shape[1]):
            flow[row, t] = search.calc(frames[t], frames[t + 1], None)[:height, :width]
    return torch.from_numpy(flow).permute(0, 4, 1, 2, 3).to(video)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "Optical flow needs OpenCV: install it with pip install 'robustvideo[purification]'."
        ) from error
    return cv2
