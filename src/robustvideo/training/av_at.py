"""Adversarial training of audio-visual models: on picture and sound at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustvideo.attacks import PGD, Attack
from robustvideo.threat import AudioVisual
from robustvideo.training.adversarial import AdversarialTraining
from robustvideo.training.method import trainings


@trainings.register("av_at")
@dataclass(frozen=True)
class AudioVisualAdversarialTraining(AdversarialTraining):
    """Cross-entropy on clips attacked in picture and sound: ``min CE(F(x + delta), y)`` (AV equation 5; Madry et al.).

    The baseline "AT" of Zhang et al. 2025.

    Attributes:
        attack: the adversary. Default: PGD, 10 steps (the paper's), 8/255 of the pixels and 0.012 of the waveform,
            without early stopping.
    """

    attack: Attack = field(default=PGD(threat=AudioVisual(), steps=10, early_stop=False))
