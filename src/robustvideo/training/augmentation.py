"""Random views of training clips, drawn clip by clip: the same clip in the same epoch is seen the same way."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.randomness import seed_for


class Augmentation(BaseModel):
    """What is varied. Where a clip lies in time is varied by ``views=`` in the data's spec.

    Attributes:
        flip: mirror a clip left to right, every other time.
        crop: least share of the side that a random square window keeps; it is resized back. 1 takes all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: bool = False
    crop: float = Field(default=1.0, gt=0, le=1)

    def __call__(self, clip: Clip, seed: object) -> Clip:
        """A batch with every clip varied by its own random numbers, a function of ``seed`` and its id."""
        if not self.flip and self.crop == 1:
            return clip
        videos = []
        for video, name in zip(clip.video, clip.ids, strict=True):
            random = torch.Generator().manual_seed(seed_for("augmentation", seed, name))
            side, top, left, mirror = torch.rand(4, generator=random).tolist()
            video = _window(video, self.crop + (1 - self.crop) * side, top, left)
            videos.append(video.flip(-1) if self.flip and mirror < 0.5 else video)
        return replace(clip, video=torch.stack(videos))


def _window(video: Tensor, share: float, top: float, left: float) -> Tensor:
    """A window (C, T, h, w) of a video (C, T, H, W) at a relative place, resized to the whole's size."""
    height, width = video.shape[2:]
    h, w = round(share * height), round(share * width)
    if (h, w) == (height, width):
        return video
    y, x = round(top * (height - h)), round(left * (width - w))
    cut = video[:, :, y : y + h, x : x + w].transpose(0, 1)
    return F.interpolate(cut, (height, width), mode="bilinear", align_corners=False).transpose(0, 1)
