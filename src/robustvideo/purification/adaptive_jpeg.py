"""JPEG of a quality that follows the motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.flow.dis import dis_flow
from robustvideo.purification.differentiable_jpeg import check_quality, smoothly_compressed
from robustvideo.purification.jpeg import compressed
from robustvideo.purification.purifier import Gradient, Purifier, defenses


@defenses.register("adaptive_jpeg")
@dataclass(frozen=True)
class AdaptiveJPEG(Purifier):
    """Self-adaptive JPEG: frames in which more moves are compressed less (Cheng et al. 2020, reconstructed).

    ``rho_t`` is the share of frame t's pixels whose flow to the next frame is larger than mean + standard deviation
    over the clip; its quality is ``q_min + (q_max - q_min) rho_t / max_t rho_t``. The last frame has the flow of the
    one before. Known to us from the abstract only: the law is ours, and the authors' second stage, which edits the
    luma by the flow's texture, is left out.

    ``bpda`` takes it for its differentiable version, with the qualities of the clip at hand.

    Attributes:
        lowest, highest: q_min and q_max. Default 30 and 90, ours.

    Raises:
        InputError: qualities out of range or in the wrong order, or OpenCV (the flow) is not installed.
    """

    lowest: int = 30
    highest: int = 90

    def __post_init__(self) -> None:
        super().__post_init__()
        for quality in (self.lowest, self.highest):
            check_quality(quality, "adaptive_jpeg")
        if self.lowest > self.highest:
            raise InputError(f"lowest= of adaptive_jpeg is above highest=: {self.lowest} > {self.highest}.")

    def stand_in(self) -> Purifier | None:
        if self.surrogate is not None:
            return self.surrogate
        return DifferentiableAdaptiveJPEG(lowest=self.lowest, highest=self.highest)

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        qualities = self.qualities(moving_share(dis_flow(clip.video)))
        return (clip.with_signal("video", self.compress(clip.video, qualities)),)

    def compress(self, video: Tensor, qualities: Tensor) -> Tensor:
        """A video (B, C, T, H, W) with each frame at its own of the qualities (B, T)."""
        return compressed(video, qualities)

    def qualities(self, share: Tensor) -> Tensor:
        """(B, T) whole qualities from the share of each frame that moves."""
        relative = share / share.amax(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        return (self.lowest + (self.highest - self.lowest) * relative).round().long()


@defenses.register("differentiable_adaptive_jpeg")
@dataclass(frozen=True)
class DifferentiableAdaptiveJPEG(AdaptiveJPEG):
    """Self-adaptive JPEG in tensors with a smooth rounding: what an attack on `adaptive_jpeg` differentiates.

    The qualities follow the flow of the clip at hand and are constants to the gradient.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"

    def compress(self, video: Tensor, qualities: Tensor) -> Tensor:
        return smoothly_compressed(video, qualities)


def moving_share(flow: Tensor) -> Tensor:
    """(B, T) share of each frame's pixels that move more than the clip's mean + standard deviation; 0 if none does.

    Args:
        flow: (B, 2, T - 1, H, W).
    """
    if flow.shape[2] == 0:
        return flow.new_zeros(len(flow), 1)
    magnitude = flow.double().norm(dim=1)
    limit = magnitude.mean((1, 2, 3)) + magnitude.flatten(1).std(1, correction=0)
    share = (magnitude > limit[:, None, None, None]).double().mean((2, 3))
    return torch.cat([share, share[:, -1:]], 1)
