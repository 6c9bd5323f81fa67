"""`Refused`: an audio-visual model's encoders under another fusion; what the defences of AV's tables build on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from robustvideo.clip import Clip, Modality
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.audio_visual import AudioVisualModel

MODALITIES: tuple[Modality, ...] = ("video", "audio")
"""Names of the features of an audio-visual model, in order."""


class Refused(Model):
    """The encoders of an audio-visual model, fused anew; it is `robustvideo.model.Featurised`.

    Args:
        encoders: the model; used up.
    """

    def __init__(self, encoders: AudioVisualModel):
        super().__init__()
        self.encoders = encoders
        self.labels, self.sample_rate = encoders.labels, encoders.sample_rate
        self.frames, self.size, self.span = encoders.frames, encoders.size, encoders.span

    def forward(self, clip: Clip) -> Tensor:
        return self.fuse(self.features(clip))

    def features(self, clip: Clip) -> dict[str, Tensor]:
        """ "video" and "audio" -> (B, T, D) features of each time step."""
        return self.encoders.features(clip)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of features (B, T, D)."""
        raise NotImplementedError


def audio_visual(model: Model, alteration: str) -> AudioVisualModel:
    """The model, if it is an audio-visual one with its own fusion.

    Raises:
        InputError: it is not.
    """
    if not isinstance(model, AudioVisualModel):
        raise InputError(f"{alteration} alters the fusion of an audio_visual model; {type(model).__name__} is none.")
    return model


def pooled(features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, D) mean features of video and of audio, in fp32 at least."""
    seen, heard = (features[name].mean(1) for name in MODALITIES)
    return (seen.float(), heard.float()) if seen.element_size() < 4 else (seen, heard)
