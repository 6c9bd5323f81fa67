"""Flow fields: pixels that are moved instead of changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        return warp(signal, variable if mask is None else variable * mask)

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

    Exact where the displacement is whole, bit for bit. There the slope is that of moving on, right and down, also at
    the border (`torch.nn.functional.grid_sample` has none there, and could not move the pixels of the border at all).

    Args:
        video: (B, C, T, H, W).
        flow: displacement (B, 2, T, H, W) in pixels; channel 0 along columns, 1 along rows.
    """
    height, width = video.shape[3:]
    x = torch.arange(width, dtype=video.dtype, device=video.device) + flow[:, 0]
    y = torch.arange(height, dtype=video.dtype, device=video.device)[:, None] + flow[:, 1]
    left, above = x.detach().floor(), y.detach().floor()
    across, down = (x - left)[:, None], (y - above)[:, None]
    columns, rows = (
        [(place + step).clamp(0, last).long() for step in (0, 1)]
        for place, last in ((left, width - 1), (above, height - 1))
    )
    images = video.flatten(3)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        places = (row * width + column).flatten(2)[:, None].expand(-1, video.shape[1], -1, -1)
        return images.gather(3, places).view(video.shape)

    upper, lower = (torch.lerp(pixels(row, columns[0]), pixels(row, columns[1]), across) for row in rows)
    return torch.lerp(upper, lower, down)
