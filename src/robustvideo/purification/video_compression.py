"""Video compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from robustvideo.clip import Clip
from robustvideo.data.codec import Codec, reencode
from robustvideo.purification.purifier import Purifier, defenses


@defenses.register("video_compression")
@dataclass(frozen=True)
class VideoCompression(Purifier):
    """H.264 compression of the clip, through a real encoder (Kinfu and Vidal 2022; GARD's Armory).

    Rounded to 8 bits, encoded by x264 and decoded, each clip alone and always to the same bytes. An exact gradient
    does not exist; ``bpda`` takes the codec for the identity, as Armory does.

    Attributes:
        crf: constant rate factor, 0 (best) to 51. Default 28, that of the Adversarial Robustness Toolbox and of
            Kinfu and Vidal's baseline.

    Raises:
        InputError: a rate factor out of range.
    """

    crf: int = 28

    def __post_init__(self) -> None:
        super().__post_init__()
        Codec("h264", self.crf)

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (reencode(clip, f"h264:{self.crf}"),)
