"""VideoPure's spatial-temporal optimisation, in closed form: losses, their gradients, and the warp along the flow.

Latents are (B, C, T, h, w). The losses are those of the released code (means where the paper prints norms: only so do
its weights 5 and 800 fit). Their means are over the paper's sizes, `ELEMENTS` and `FRAME`, instead of the latents' own,
which comes to the same at 32 frames of 224 x 224 and makes the guidance of a pixel independent of a clip's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ELEMENTS = 32 * 4 * 28 * 28
"""Elements of a clip's latents in the paper."""
FRAME = 4 * 28 * 28
"""Elements of a frame's latents in the paper."""

Sides = Literal["one_sided", "two_sided"]


@dataclass(frozen=True, eq=False)
class Warp:
    """Fetches frames along a flow, bilinearly; what lies outside the frame is 0.

    Attributes:
        places: (B, 4, T - 1, h w) index of each of the four neighbours.
        weights: (B, 4, T - 1, h w) their shares, 0 outside.
        inside: (B, 1, T - 1, h, w) 1 where the loss counts.
    """

    places: Tensor
    weights: Tensor
    inside: Tensor

    @staticmethod
    def along(flow: Tensor, masked: bool = False) -> Warp:
        """The warp of a flow (B, 2, T - 1, h, w): pixel u of a frame moves to u + flow in the next; x, then y.

        Args:
            flow: in cells of the latents.
            masked: leave out of the loss what is fetched from outside, instead of comparing it with 0.
        """
        height, width = flow.shape[3:]
        x = flow[:, 0] + torch.arange(width, device=flow.device)
        y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
        left, above = x.floor(), y.floor()
        places, weights = [], []
        for row, down in ((above, 1 - (y - above)), (above + 1, y - above)):
            for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
                within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                places.append(place.long().flatten(2))
                weights.append((down * across * within).flatten(2))
        whole = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        inside = whole.to(flow) if masked else torch.ones_like(x)
        return Warp(torch.stack(places, 1), torch.stack(weights, 1), inside[:, None])

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (B, C, T - 1, h, w) fetched from where the flow points."""
        flat = frames.flatten(3)
        fetched = torch.zeros_like(flat)
        for place, weight in zip(self.places.unbind(1), self.weights.unbind(1), strict=True):
            fetched = fetched + flat.gather(3, place[:, None].expand_as(flat)) * weight[:, None]
        return fetched.view(frames.shape)

    def transposed(self, frames: Tensor) -> Tensor:
        """The adjoint: values put back to where `__call__` fetched them.

        On CUDA they are added up in no fixed order: the last bits vary from run to run, unless
        ``torch.use_deterministic_algorithms(True)`` has them sorted first.
        """
        flat = frames.flatten(3)
        spread = torch.zeros_like(flat)
        for place, weight in zip(self.places.unbind(1), self.weights.unbind(1), strict=True):
            spread = spread.scatter_add(3, place[:, None].expand_as(flat), flat * weight[:, None])
        return spread.view(frames.shape)


def temporal_loss(latents: Tensor, warp: Warp) -> Tensor:
    """(B,) L_temp (eq. 13): absolute difference of every frame and the next one warped back to it, over `FRAME`."""
    return _residuals(latents, warp).abs().flatten(1).sum(1) / FRAME


def spatial_loss(latents: Tensor, source: Tensor) -> Tensor:
    """(B,) L_spa (eq. 12): minus the squared difference to the clip's own latents, over `ELEMENTS`."""
    return -(latents - source).square().flatten(1).sum(1) / ELEMENTS


def temporal_gradient(latents: Tensor, warp: Warp, sides: Sides, softness: float = 0.0) -> Tensor:
    """The gradient of L_temp.

    Args:
        latents: where.
        warp: along the flow from each frame to the next.
        sides: ``two_sided`` is the gradient; ``one_sided`` takes the warped frame for a constant, as the released code
            does: only the earlier of two frames is pulled.
        softness: h > 0 has a backward pass through the gradient take its signs for ``tanh(r / h)``; 0 leaves them what
            they are, flat.
    """
    if latents.shape[2] == 1:
        return torch.zeros_like(latents)
    residuals = _residuals(latents, warp)
    signs = residuals.sign()
    if softness:
        soft = (residuals / softness).tanh()
        signs = signs + (soft - soft.detach())
    signs = signs / FRAME
    nothing = torch.zeros_like(latents[:, :, :1])
    gradient = torch.cat([signs, nothing], 2)
    return gradient if sides == "one_sided" else gradient - torch.cat([nothing, warp.transposed(signs)], 2)


def spatial_gradient(latents: Tensor, source: Tensor) -> Tensor:
    """The gradient of L_spa."""
    return -2 * (latents - source) / ELEMENTS


def _residuals(latents: Tensor, warp: Warp) -> Tensor:
    return (latents[:, :, :-1] - warp(latents[:, :, 1:])) * warp.inside
