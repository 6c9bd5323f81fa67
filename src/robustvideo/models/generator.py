"""3-D APE-GAN: a generator that takes perturbations out of a video, in front of a model, and its discriminator.

Jin et al. 2019 ("APE-GAN"), in three dimensions as in Kinfu & Vidal 2022, section 4.3. Trained by ``ape`` and ``gat``
(`robustvideo.training`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.front import Front

_SLOPE = 0.2  # of the leaky ReLUs; published for the discriminator, ours for the generator


class Generator(nn.Module):
    """(B, 3, T, H, W) pixels in [0, 1] -> the same shape and range, for any T, H and W.

    Three convolutions of stride 2 and three transposed ones back, kernel 4, with batch normalisation and leaky ReLU
    between them and a sigmoid at the end; there is no way past the bottleneck. What is no multiple of 8 is padded by
    repeating the last frame, row and column, and cropped again.

    Args:
        width: channels after the first convolution; 64 as published.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        down = [3, width, 2 * width, 4 * width]
        up = [4 * width, 2 * width, width]
        layers: list[nn.Module] = []
        for channels, out in pairwise(down):
            layers += [nn.Conv3d(channels, out, 4, 2, 1), nn.BatchNorm3d(out), nn.LeakyReLU(_SLOPE)]
        for channels, out in pairwise(up):
            layers += [nn.ConvTranspose3d(channels, out, 4, 2, 1), nn.BatchNorm3d(out), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.ConvTranspose3d(width, 3, 4, 2, 1)

    def forward(self, video: Tensor) -> Tensor:
        frames, height, width = video.shape[2:]
        dtype = self.last.weight.dtype
        cleaned = self.last(self.layers(_padded(video.to(dtype), 8)))[:, :, :frames, :height, :width]
        return torch.sigmoid(cleaned.to(dtype))  # pixels keep full precision under autocast


class Discriminator(nn.Module):
    """(B, 3, T, H, W) pixels in [0, 1] -> (B,) logits of being a clean video.

    Four convolutions of stride 2, kernel 4, without bias, with batch normalisation and leaky ReLU; then the average
    over all places and a linear map. (Published: a linear map of all places of a 16 x 112 x 112 video; the average
    takes any size.) What is no multiple of 16 is padded as in `Generator`.

    Args:
        width: channels after the first convolution; 64 as published.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv3d(before, after, 4, 2, 1, bias=False), nn.BatchNorm3d(after), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.head = nn.Linear(8 * width, 1)

    def forward(self, video: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(_padded(video.to(self.head.weight.dtype), 16)))[:, 0]
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


class BehindGenerator(Front):
    """A model that sees what a generator makes of a video; it is `robustvideo.model.Purified`.

    The generator works on the stored video, before the model's own resizing and normalisation, and gradients pass
    through it exactly: attacks on this model are end-to-end. Sound goes by untouched.

    Args:
        generator: maps pixels (B, 3, T, H, W) in [0, 1] to pixels.
        undefended: the model behind it.
    """

    def __init__(self, generator: Generator, undefended: Model):
        super().__init__(undefended)
        self.generator = generator

    def purify(self, clip: Clip) -> Clip:
        return replace(clip, video=self.generator(clip.video))


@alterations.register("ape_gan")
@dataclass(frozen=True)
class ApeGan(Alteration):
    """A 3-D APE-GAN generator in front of the network (Jin et al. 2019; Kinfu & Vidal 2022, section 4.3).

    Untrained, it destroys its input: train it with ``ape`` or ``gat``.

    Attributes:
        width: channels after the generator's first convolution. Default: 64, as published.

    Raises:
        InputError: a width below 1.
    """

    width: int = 64

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"width= of ape_gan is at least 1, got {self.width}.")

    def apply(self, model: Model) -> Model:
        return BehindGenerator(Generator(self.width), model)


def _padded(video: Tensor, multiple: int) -> Tensor:
    """A video whose frames, height and width are multiples, by repeating its last frame, row and column."""
    frames, height, width = (-length % multiple for length in video.shape[2:])
    return F.pad(video, (0, width, 0, height, 0, frames), mode="replicate") if frames or height or width else video
