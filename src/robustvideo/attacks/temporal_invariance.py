"""The temporal invariance attack."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.audio_visual import AudioVisualAttack


@attacks.register("tia")
@dataclass(frozen=True)
class TIA(AudioVisualAttack):
    """Temporal invariance attack: leave the class, with features that vary less over time (Zhang et al. 2025).

    ``J = CE(F(T(x + delta)), y) - lam1 * (Var_t m_v(t) + Var_t m_a(t))``, ``m(t)`` the mean of a modality's feature
    at step t (AV equations 2 and 4). The introduction speaks of inconsistent frames; the equation and section 4.1
    lower the variance, and so does this. A clip in which nothing changes has none to lower.

    Attributes:
        lam1: weight of the variances. The paper leaves it open. Default 0.1, chosen on 64 validation clips of
            embedded:kinetic: with 1 the variance drowns the cross-entropy, and fewer clips are fooled.
        classification, scale, copies, transforms, mask_ratio, where, synchronous, compose: see the base.
    """

    lam1: float = 0.1

    @property
    def weights(self) -> tuple[float, float]:
        return self.lam1, 0.0
