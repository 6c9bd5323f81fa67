"""No purification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from robustvideo.clip import Clip
from robustvideo.purification.purifier import Gradient, Purifier, defenses


@defenses.register("identity")
@dataclass(frozen=True)
class Identity(Purifier):
    """No purification: names the identity, as in ``jpeg(surrogate=identity)``."""

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip,)
