"""`AudioVisual`: a budget for the pixels and one for the waveform; a modality of budget 0 is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustvideo.errors import InputError
from robustvideo.threat.balls import Linf
from robustvideo.threat.part import Part, ThreatModel, threats


@threats.register("audio_visual")
@dataclass(frozen=True)
class AudioVisual(ThreatModel):
    """Linf balls around the pixels and around the waveform at once; either may be 0.

    A modality of budget 0 is no part of the threat model: its gradient is not taken, and the result is verified to
    equal the clean signal bit for bit. A clip without a sound track needs ``audio=0``.

    Attributes:
        eps: budget of the pixels, a fraction of [0, 1]. Default 8/255.
        audio: budget of the waveform, in its own unit: [-1, 1] is full scale. Default 0.012, 393 steps of 16-bit
            sound (the larger setting of Tian and Xu 2021; AV states none).
        stored: verdicts count on the grid of a file; see `Part`.

    Raises:
        InputError: a negative budget, one below what a file can hold, or two budgets of 0.
    """

    eps: float = 8 / 255
    audio: float = 0.012
    stored: bool = True

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("An audio-visual threat model needs a budget: eps= and audio= are both 0.")

    @property
    def parts(self) -> Sequence[Part]:
        video = (Linf(self.eps, stored=self.stored),) if self.eps != 0 else ()
        return video + ((Linf(self.audio, modality="audio", stored=self.stored),) if self.audio != 0 else ())

    def with_eps(self, eps: float) -> AudioVisual:
        """The same threat model with another budget for the pixels; the waveform's changes in proportion.

        Raises:
            InputError: the pixels have no budget to compare with.
        """
        if self.eps == 0:
            raise InputError("This threat model leaves the pixels alone: give audio= in it, not eps.")
        return replace(self, eps=eps, audio=self.audio * (eps / self.eps))
