"""The modality misalignment attack."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.audio_visual import AudioVisualAttack


@attacks.register("mma")
@dataclass(frozen=True)
class MMA(AudioVisualAttack):
    """Modality misalignment attack: leave the class, and turn what is heard from what is seen (Zhang et al. 2025).

    ``J = CE(F(T(x + delta)), y) - lam2 * cos(F_a, F_v)`` of the features before fusion (AV equations 3 and 4): towards
    -1, not merely towards 0. Features of unequal length are refused.

    Attributes:
        lam2: weight of the cosine. Default 1, our decision.
        classification, per_step, copies, transforms, mask_ratio, where, synchronous, compose: see the base.
    """

    lam2: float = 1.0

    @property
    def weights(self) -> tuple[float, float]:
        return 0.0, self.lam2
