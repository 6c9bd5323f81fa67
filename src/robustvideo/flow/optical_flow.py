"""Optical flow from each frame of a video to the next: by a network, by OpenCV, by tensors alone, or none."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.flow.dis import dis_flow
from robustvideo.flow.horn_schunck import horn_schunck_flow

FlowSource = Literal["dis", "raft", "horn_schunck"]
DIFFERENTIABLE: tuple[FlowSource, ...] = ("raft", "horn_schunck")

_LEAST = 128  # pixels a side, of torchvision's RAFT
_UPDATES = 10  # refinements, as VideoPure's code runs RAFT
_AT_ONCE = 16 * 256 * 256  # pixels of first frames that RAFT gets at once: its memory does not follow the clip


def load_raft() -> nn.Module:
    """torchvision's RAFT with the weights of FlyingThings, frozen, in evaluation mode; downloaded by torchvision.

    Raises:
        InputError: the weights cannot be had.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    try:
        network: nn.Module = raft_large(weights=Raft_Large_Weights.C_T_V2, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(f"RAFT's weights cannot be downloaded ({error}): take flow=dis or flow=none.") from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def optical_flow(video: Tensor, source: FlowSource | None, network: nn.Module | None = None) -> Tensor:
    """How the pixels of every frame move to the next one, in pixels; no gradient.

    Args:
        video: (B, 3, T, H, W) in [0, 1].
        source: ``dis`` is OpenCV's DIS, ``raft`` a network, ``horn_schunck`` neither, None no motion at all.
        network: RAFT (`load_raft`).

    Returns:
        (B, 2, T - 1, H, W): x (to the right), then y (downwards).

    Raises:
        InputError: OpenCV is not installed, for ``dis``.
    """
    batch, _, frames, height, width = video.shape
    if source is None or frames == 1:
        return video.new_zeros(batch, 2, frames - 1, height, width)
    if source == "dis":
        return dis_flow(video)
    return differentiable_flow(video, source, network)


def differentiable_flow(video: Tensor, source: FlowSource, network: nn.Module | None = None) -> Tensor:
    """The flow of one of the `DIFFERENTIABLE` sources, for who wants its gradient; see `optical_flow`.

    RAFT takes its own position for a constant at every refinement: its gradient is what autograd makes of that.
    """
    if source == "horn_schunck":
        return horn_schunck_flow(video)
    assert network is not None, "who wants RAFT loads it"
    first, second = (part.transpose(1, 2).flatten(0, 1) for part in (video[:, :, :-1], video[:, :, 1:]))
    pairs = max(1, _AT_ONCE // math.prod(_raft_size(*video.shape[3:])))
    parts = zip(torch.split(first, pairs), torch.split(second, pairs), strict=True)
    flow = torch.cat([raft_flow(*pair, network) for pair in parts])
    return flow.view(len(video), -1, *flow.shape[1:]).transpose(1, 2)


def raft_flow(first: Tensor, second: Tensor, network: nn.Module) -> Tensor:
    """Flow (B, 2, H, W) between pictures (B, 3, H, W) in [0, 1].

    RAFT gets them in [-1, 1], as it was trained (VideoPure's code feeds [0, 1]), enlarged to sides of 128 pixels and
    multiples of 8 where they are not; the flow is scaled back.
    """
    height, width = first.shape[2:]
    size = _raft_size(height, width)
    weight = next(network.parameters()).dtype
    pair = [F.interpolate((2 * p - 1).to(weight), size, mode="bilinear", align_corners=False) for p in (first, second)]
    flow: Tensor = network(*pair, num_flow_updates=_UPDATES)[-1]
    return on_grid(flow[:, :, None], height, width)[:, :, 0].to(first.dtype)


def _raft_size(height: int, width: int) -> list[int]:
    scale = max(1.0, _LEAST / min(height, width))
    return [-(-round(side * scale) // 8) * 8 for side in (height, width)]


def on_grid(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow (B, 2, T, H, W) in pixels, on another grid and in its cells; bilinear."""
    if flow.shape[2] == 0:
        return flow.new_zeros(*flow.shape[:3], height, width)
    scale = flow.new_tensor([width / flow.shape[4], height / flow.shape[3]])
    frames = flow.transpose(1, 2).flatten(0, 1)
    resized = F.interpolate(frames, (height, width), mode="bilinear", align_corners=False)
    return resized.view(len(flow), flow.shape[2], 2, height, width).transpose(1, 2) * scale[:, None, None, None]
