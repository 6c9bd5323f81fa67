"""Fewer grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.purifier import Purifier, defenses


@defenses.register("bit_depth")
@dataclass(frozen=True)
class BitDepth(Purifier):
    """Bit-depth reduction: pixels rounded to ``2^b`` levels (Xu et al. 2018, feature squeezing).

    ``round((2^b - 1) x) / (2^b - 1)``. A staircase has no gradient; ``bpda`` takes it for the identity.

    Attributes:
        bits: b, 1 to 8. Default 4.

    Raises:
        InputError: bits out of range.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= 8:
            raise InputError(f"bits of bit_depth is from 1 to 8, got {self.bits}.")

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        steps = 2**self.bits - 1
        return (clip.with_signal("video", (clip.video.detach() * steps).round() / steps),)
