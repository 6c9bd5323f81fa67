"""Flow fields: pixels that are moved instead of changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.clip import per_clip
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.threat.part import Part, threats


@threats.register("flow")
@dataclass(frozen=True)
class FlowField(Part):
    """Every pixel may be fetched from at most ``eps`` pixels away, per axis (a spatial warp, bilinear).

    The variable is a displacement (B, 2, T, H, W) in pixels: channel 0 moves along columns, 1 along rows. Output
    pixel (r, c) reads the input at (r + dy, c + dx); beyond the border the border's value is repeated. Zero
    displacement is the identity. Source: DeepSAVA section 3.3.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality == "audio":
            raise InputError("A flow field moves pixels: it is for video only.")

    def zeros(self, signal: Tensor) -> Tensor:
        batch, _, frames, height, width = signal.shape
        return torch.zeros(batch, 2, frames, height, width, dtype=signal.dtype, device=signal.device)

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.uniform(self.zeros(signal)) * 2 - 1
        return self.project(signal, draw * per_clip(eps, draw), eps, mask)

    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        flow = variable if mask is None else variable * mask
        moved = warp(signal, flow)
        still = (flow == 0).all(1, keepdim=True)
        # a pixel that is not moved keeps its exact value, and still tells which way to move it
        return torch.where(still, signal + (moved - moved.detach()), moved)

    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        bound = per_clip(eps, variable)
        variable = variable.clamp(-bound, bound)
        return variable if mask is None else variable * mask

    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        return gradient.sign()

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        """A displacement cannot be read off the pixels; `project` has bounded it."""
        return torch.ones(len(clean), dtype=torch.bool, device=clean.device)


def warp(video: Tensor, flow: Tensor) -> Tensor:
    """Fetch every pixel from where ``flow`` points, bilinearly, repeating the border.

    Args:
        video: (B, C, T, H, W).
        flow: displacement (B, 2, T, H, W) in pixels; channel 0 along columns, 1 along rows.
    """
    batch, channels, frames, height, width = video.shape
    columns = torch.arange(width, dtype=video.dtype, device=video.device)
    rows = torch.arange(height, dtype=video.dtype, device=video.device)
    x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    y = 2 * (rows[:, None] + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack([x, y], dim=-1).flatten(0, 1)
    images = video.transpose(1, 2).flatten(0, 1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return moved.view(batch, frames, channels, height, width).transpose(1, 2)
