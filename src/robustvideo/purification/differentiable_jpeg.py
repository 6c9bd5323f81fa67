"""JPEG without the codec: the same arithmetic in tensors, with a rounding that has a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.colour import to_rgb, to_ycbcr
from robustvideo.errors import InputError
from robustvideo.purification.purifier import Gradient, Purifier, defenses
from robustvideo.threat.box import into_box

QUALITIES = range(1, 101)
"""What libjpeg takes."""

_BLOCK = 8
# the tables of ITU-T T.81, annex K, that libjpeg scales by its quality
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)


@defenses.register("differentiable_jpeg")
@dataclass(frozen=True)
class DifferentiableJPEG(Purifier):
    """JPEG in tensors with a smooth rounding, ``round(x) + (x - round(x))^3`` (Shin and Song 2017).

    What an attack on `jpeg` differentiates; it must have the codec's quality. A verdict belongs behind the codec.
    Colours, subsampling, blocks and quantisation tables are libjpeg's; pixels are not rounded to 8 bits.

    Attributes:
        quality: 1 (worst) to 100. Default 75.
        subsampled: chroma at half the resolution (4:2:0).

    Raises:
        InputError: a quality out of range.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    quality: int = 75
    subsampled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quality(self.quality, "differentiable_jpeg")

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        qualities = torch.full((len(clip), clip.frames), self.quality)
        return (clip.with_signal("video", smoothly_compressed(clip.video, qualities, self.subsampled)),)


def check_quality(quality: float, name: str) -> None:
    """Raise `InputError` unless a JPEG can have this quality."""
    if not QUALITIES[0] <= quality <= QUALITIES[-1]:
        raise InputError(f"A quality of {name} is from 1 (worst) to 100, got {quality:g}.")


def check_channels(video: Tensor) -> None:
    """Raise `InputError` unless frames of (B, C, T, H, W) can be JPEGs."""
    if video.shape[1] not in (1, 3):
        raise InputError(f"Only frames of 1 or 3 channels can be JPEGs, got {video.shape[1]} channels.")


def smoothly_compressed(video: Tensor, qualities: Tensor, subsampled: bool = True) -> Tensor:
    """What JPEG with a smooth rounding leaves of every frame.

    Args:
        video: (B, C, T, H, W) in [0, 1], C of 1 or 3.
        qualities: (B, T) whole numbers from 1 to 100.
        subsampled: chroma at half the resolution.

    Raises:
        InputError: a number of channels that no JPEG has.
    """
    check_channels(video)
    batch, _, frames = video.shape[:3]
    luma_table, chroma_table = (_tables(base, qualities.flatten(), video) for base in (_LUMA, _CHROMA))
    with torch.autocast(video.device.type, enabled=False):  # the cosine transform is a matrix product
        planes = to_ycbcr(video.transpose(1, 2).flatten(0, 1))
        coded = [_quantised(planes[:, :1] - 128 / 255, luma_table) + 128 / 255]
        for plane in planes[:, 1:, None].unbind(1):
            coded.append(_halved(plane, chroma_table) if subsampled else _quantised(plane, chroma_table))
        pixels = into_box(to_rgb(torch.cat(coded, 1)))
    return pixels.view(batch, frames, *pixels.shape[1:]).transpose(1, 2)


def _halved(plane: Tensor, table: Tensor) -> Tensor:
    """Chroma at half the resolution: means of two by two, and libjpeg's triangle filter back."""
    height, width = plane.shape[2:]
    small = F.avg_pool2d(_padded(plane, 2), 2)
    small = _quantised(small, table)
    return F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """Planes (N, 1, H, W), around 0, after their 8 x 8 cosine transforms were rounded to multiples of their tables."""
    height, width = plane.shape[2:]
    blocks = _padded(plane, _BLOCK)[:, 0].unfold(1, _BLOCK, _BLOCK).unfold(2, _BLOCK, _BLOCK)
    transform = _cosines(plane)
    coefficients = transform @ (blocks * 255) @ transform.T / table
    whole = coefficients.round()
    coefficients = (whole + (coefficients - whole) ** 3) * table
    pixels = (transform.T @ coefficients @ transform / 255).transpose(2, 3)
    return pixels.flatten(3, 4).flatten(1, 2)[:, None, :height, :width]


def _padded(plane: Tensor, multiple: int) -> Tensor:
    height, width = (-length % multiple for length in plane.shape[2:])
    return F.pad(plane, (0, width, 0, height), mode="replicate") if height or width else plane


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of 8 values, as a matrix."""
    k = torch.arange(_BLOCK, dtype=torch.float64)
    matrix = torch.cos(math.pi / _BLOCK * (k + 0.5) * k[:, None]) * math.sqrt(2 / _BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _tables(base: Sequence[Sequence[int]], qualities: Tensor, like: Tensor) -> Tensor:
    """A quantisation table as libjpeg scales it for each of N qualities, in whole levels of 8 bits: (N, 1, 1, 8, 8)."""
    scales = torch.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities).cpu()
    tables = (torch.tensor(base) * scales[:, None, None] + 50) // 100
    return tables.clamp(1, 255).to(like)[:, None, None]
