"""JPEG compression of every frame, through a real codec."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.purification.differentiable_jpeg import DifferentiableJPEG, check_channels, check_quality
from robustvideo.purification.purifier import Purifier, defenses
from robustvideo.randomness import ClipRandom
from robustvideo.threat import GRID

_SLQ = (20, 40, 60, 80)  # SHIELD's qualities
_BLOCK = 8


@defenses.register("jpeg")
@dataclass(frozen=True)
class JPEG(Purifier):
    """JPEG compression of every frame by a real encoder (Das et al. 2018, SHIELD).

    Rounded to 8 bits, encoded by libjpeg and decoded. It has no useful gradient: ``bpda`` takes it for
    `differentiable_jpeg` of the same quality, unless ``surrogate=identity`` says otherwise. That matters: an attack
    that knows where coefficients are about to be rounded changes the compressed clip by more than its budget, and
    breaks what BPDA with the identity calls robust.

    Attributes:
        quality: 1 (worst) to 100. Default 75, ours: the VideoPure paper, which compares with JPEG, gives none; sweep
            90, 75, 50, 25.
        subsampled: chroma at half the resolution (4:2:0), libjpeg's default.
        local: SHIELD's stochastic local quantisation instead of one quality: every block of 8 x 8 pixels of every
            frame comes from the frame's version of quality 20, 40, 60 or 80, drawn afresh. Its stand-in is the
            identity. (Reconstructed.)

    Raises:
        InputError: a quality out of range.
    """

    quality: int = 75
    subsampled: bool = True
    local: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quality(self.quality, "jpeg")

    @property
    def random(self) -> bool:
        return self.local

    def stand_in(self) -> Purifier | None:
        if self.surrogate is not None or self.local:
            return self.surrogate
        return DifferentiableJPEG(quality=self.quality, subsampled=self.subsampled)

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        if not self.local:
            qualities = torch.full((len(clip), clip.frames), self.quality)
            return (clip.with_signal("video", compressed(clip.video, qualities, self.subsampled)),)
        versions = torch.stack(
            [compressed(clip.video, torch.full((len(clip), clip.frames), q), self.subsampled) for q in _SLQ]
        )
        chosen = _block_choices(clip, seeds).to(clip.device)[None, :, None].expand(1, *clip.video.shape)
        return (clip.with_signal("video", versions.gather(0, chosen)[0]),)


def compressed(video: Tensor, qualities: Tensor, subsampled: bool = True) -> Tensor:
    """What JPEG leaves of every frame; on the 8-bit grid, without a gradient.

    Args:
        video: (B, C, T, H, W) in [0, 1], C of 1 or 3.
        qualities: (B, T) whole numbers from 1 to 100.
        subsampled: chroma at half the resolution.

    Raises:
        InputError: a number of channels that no JPEG has.
    """
    check_channels(video)
    levels = (video.detach() * GRID["video"]).round().to("cpu", torch.uint8)
    frames = levels.permute(0, 2, 3, 4, 1).flatten(0, 1).numpy()
    coded = [_coded(frame, int(q), subsampled) for frame, q in zip(frames, qualities.flatten(), strict=True)]
    stacked = torch.from_numpy(np.stack(coded)).view(len(video), video.shape[2], *coded[0].shape)
    return stacked.permute(0, 4, 1, 2, 3).to(video) / GRID["video"]


def _coded(frame: NDArray[np.uint8], quality: int, subsampled: bool) -> NDArray[np.uint8]:
    """One frame (H, W, C), encoded and decoded."""
    picture = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[2] == 1 else frame))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    decoded = np.asarray(Image.open(file))
    return decoded[..., None] if decoded.ndim == 2 else decoded


def _block_choices(clip: Clip, seeds: Sequence[int]) -> Tensor:
    """(B, T, H, W) number of the version that each pixel comes from; the same within a block."""
    height, width = clip.video.shape[3:]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    drawn = ClipRandom(seeds).integers(0, len(_SLQ), clip.frames * rows * columns)
    blocks = drawn.view(len(clip), clip.frames, rows, columns)
    return blocks.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3)[:, :, :height, :width]
