"""Optical flow in tensors, without weights: Horn and Schunck's, from coarse to fine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.colour import to_ycbcr

_LEAST = 12  # pixels a side of the coarsest pictures
_SMOOTHNESS = 0.02  # alpha, against gradients of a luma in [0, 1]
_ITERATIONS = 30


def horn_schunck_flow(video: Tensor) -> Tensor:
    """How the pixels of every frame move to the next one, in pixels; differentiable.

    Horn and Schunck (1981) on the luma: ``u <- m(u) - d (d . m(u) + s) / (alpha^2 + |d|^2)``, m the mean of the
    neighbours, d the gradient over the plane and s the difference of the frames; 30 iterations at each of a pyramid's
    scales, at which the second frame is first warped back along the flow so far.

    Args:
        video: (B, C, T, H, W) in [0, 1].

    Returns:
        (B, 2, T - 1, H, W): x (to the right), then y (downwards).
    """
    batch, _, frames, height, width = video.shape
    luma = to_ycbcr(video)[:, 0]
    first, second = (part.flatten(0, 1)[:, None] for part in (luma[:, :-1], luma[:, 1:]))
    pyramid = [(first, second)]
    while min(pyramid[0][0].shape[2:]) >= 2 * _LEAST:
        pyramid.insert(0, tuple(F.avg_pool2d(picture, 2) for picture in pyramid[0]))  # type: ignore[arg-type]
    flow = first.new_zeros(len(first), 2, *pyramid[0][0].shape[2:])
    for before, after in pyramid:
        size = before.shape[2:]
        scale = flow.new_tensor([size[1] / flow.shape[3], size[0] / flow.shape[2]])
        flow = F.interpolate(flow, size, mode="bilinear", align_corners=False) * scale[:, None, None]
        flow = _refined(before, after, flow)
    return flow.view(batch, frames - 1, 2, height, width).transpose(1, 2)


def _refined(before: Tensor, after: Tensor, start: Tensor) -> Tensor:
    """A flow (N, 2, H, W) between pictures (N, 1, H, W), from a flow that is nearly it."""
    warped = _fetched(after, start)
    slopes = _slopes((before + warped) / 2)
    # linear about the start: the difference left where the flow is u is s + d . (u - start)
    rest = warped - before - (slopes * start).sum(1, keepdim=True)
    strength = _SMOOTHNESS**2 + slopes.square().sum(1, keepdim=True)
    flow = start
    for _ in range(_ITERATIONS):
        mean = _of_neighbours(flow)
        flow = mean - slopes * ((slopes * mean).sum(1, keepdim=True) + rest) / strength
    return flow


def _fetched(picture: Tensor, flow: Tensor) -> Tensor:
    """A picture at ``u + flow``, bilinear, its edge repeated outside."""
    height, width = picture.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _slopes(picture: Tensor) -> Tensor:
    """(N, 2, H, W) central differences along x and y."""
    wide = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2
    down = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2
    return torch.cat([across, down], 1)


def _of_neighbours(flow: Tensor) -> Tensor:
    """Horn and Schunck's mean: a sixth of each neighbour, a twelfth of each diagonal one."""
    kernel = flow.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]).div(12).expand(2, 1, 3, 3)
    return F.conv2d(F.pad(flow, (1, 1, 1, 1), mode="replicate"), kernel, groups=2)
