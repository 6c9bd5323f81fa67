"""The temporal and modality based attack: both of its parents at once."""

from __future__ import annotations

from dataclasses import dataclass

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.audio_visual import AudioVisualAttack


@attacks.register("tma")
@dataclass(frozen=True)
class TMA(AudioVisualAttack):
    """Temporal and modality based attack: `tia` and `mma` in one objective (Zhang et al. 2025, equation 4).

    With ``lam1=0, lam2=0, copies=1, decay=0`` it is I-FGSM. FGSM on N masked copies (AV figure 2) is
    ``tma(lam1=0, lam2=0, steps=1, copies=N+1, transforms=[mask], mask_ratio=p)``.

    Attributes:
        lam1: weight of the variances over time, see `TIA`.
        lam2: weight of the cosine between modalities, see `MMA`.
    """

    lam1: float = 0.1
    lam2: float = 1.0

    @property
    def weights(self) -> tuple[float, float]:
        return self.lam1, self.lam2
