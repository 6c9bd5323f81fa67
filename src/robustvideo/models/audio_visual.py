"""Audio-visual models: a visual backbone per time step, an audio backbone per time step, and a fusion (AV section 6.1).

A clip is cut into T time steps of equal length. Step t of both modalities covers the same time, and its features
depend on nothing else: ``phi_v(t), phi_a(t)`` in R^D. ``F_m = mean_t phi_m(t)``; the fusion is their sum or their
concatenation, and one linear map makes logits of it. Because of the mean, any number of steps can be fed.

The paper (Zhang et al., ICLR 2025, "AV") leaves T, D, the spectrogram and what "sum" adds open; all are our decisions.

Sound, by one rule: it is what was heard while the frames were seen, whatever its length. A clip without a sound track
is heard as silence of 1/8 second per frame. Channels are mixed down to their mean, and any rate is resampled, inside
the model: a perturbation is always one of stored samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, uniform_indices, wrap
from robustvideo.models.backbones import NAMES, backbone
from robustvideo.models.catalog import networks
from robustvideo.models.spectrogram import Hearing, LogMel

Fusion = Literal["sum", "concat"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of the frames: ImageNet's."""

SILENT_FRAMES_PER_SECOND = 8
"""What a frame of a clip without a sound track is heard as: silence of this part of a second (our decision)."""


class AudioVisualModel(Model):
    """A network that sees and hears; it is `robustvideo.model.Featurised`.

    Args:
        visual: (N, 3 * span, H, W) -> (N, D).
        audio: (N, 1, mels, frames) -> (N, D).
        fusion: "sum" or "concat".
        features: D.
        classes: number of logits.
        steps: T, the most time steps it looks at; a clip of fewer frames has fewer.
        span: frames of one step, side by side in the channels: the first, then the changes from frame to frame. 1 is
            the paper's; more let it see motion.
        size: side of the frames.
        hearing: the spectrogram.

    Raises:
        InputError: an unknown fusion, or a number below 1.
    """

    def __init__(
        self,
        visual: nn.Module,
        audio: nn.Module,
        *,
        fusion: Fusion,
        features: int,
        classes: int,
        steps: int,
        span: int,
        size: int,
        hearing: Hearing,
    ):
        super().__init__()
        if fusion not in get_args(Fusion):
            raise unknown("fusion", fusion, get_args(Fusion))
        for name, number in (("steps", steps), ("span", span), ("size", size)):
            if number < 1:
                raise InputError(f"{name}= of an audio-visual model is at least 1, got {number}.")
        self.visual = visual
        self.audio = audio
        self.spectrogram = LogMel(hearing)
        self.fusion = fusion
        self.head = nn.Linear(features if fusion == "sum" else 2 * features, classes)
        self.span = span
        self.steps = steps
        self.frames = steps * span
        self.size = (size, size)
        self.sample_rate = hearing.rate
        self.picture = wrap(nn.Identity(), frames=None, size=size, mean=MEAN, std=STD)

    def forward(self, clip: Clip) -> Tensor:
        return self.fuse(self.features(clip))

    def features(self, clip: Clip) -> dict[str, Tensor]:
        """ "video" and "audio" -> (B, T, D) features of each time step, T at most ``frames / span``."""
        video = clip.video
        steps = min(max(1, video.shape[2] // self.span), self.steps)
        if video.shape[2] != steps * self.span:
            video = video[:, :, uniform_indices(video.shape[2], steps * self.span).to(video.device)]
        return {"video": self._see(video, steps), "audio": self._hear(clip, steps)}

    def fuse(self, features: Mapping[str, Tensor], keep: Tensor | None = None) -> Tensor:
        """Logits (B, K) of features (B, T, D).

        Args:
            features: of both modalities.
            keep: factors of the fusion layer's inputs (B, `fused_size`), or of its weights for every clip
                (B, K, `fused_size`): 0 drops one. None keeps all.
        """
        fused = self.join(features)
        if keep is not None and keep.ndim == 3:
            thinned: Tensor = torch.einsum("bf,bkf,kf->bk", fused, keep.to(fused), self.head.weight.to(fused))
            return thinned + self.head.bias
        logits: Tensor = self.head(fused if keep is None else fused * keep.to(fused))
        return logits

    def join(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, `fused_size`): what the last linear map is given."""
        seen, heard = features["video"].mean(1), features["audio"].mean(1)
        return seen + heard if self.fusion == "sum" else torch.cat([seen, heard], dim=1)

    @property
    def fused_size(self) -> int:
        """Neurons of the fusion layer."""
        return self.head.in_features

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _see(self, video: Tensor, steps: int) -> Tensor:
        video = self.picture.prepare(video.expand(-1, 3, -1, -1, -1)).to(self._dtype)
        within = video.transpose(1, 2).reshape(len(video) * steps, self.span, *video.shape[1:2], *video.shape[3:])
        changes = torch.cat([within[:, :1], within.diff(dim=1)], dim=1)  # motion is learned sooner from changes
        seen: Tensor = self.visual(changes.flatten(1, 2))
        return seen.view(len(video), steps, -1)

    def _hear(self, clip: Clip, steps: int) -> Tensor:
        rate = clip.sample_rate or self.spectrogram.hearing.rate
        sound = clip.audio
        if sound is None or sound.shape[2] == 0:
            sound = clip.video.new_zeros(len(clip), 1, max(1, clip.frames * rate // SILENT_FRAMES_PER_SECOND))
        windows = windows_of(sound.mean(1), steps)
        spectrograms = self.spectrogram(windows.flatten(0, 1), rate).to(self._dtype)
        heard: Tensor = self.audio(spectrograms[:, None])
        return heard.view(len(clip), steps, -1)


def windows_of(sound: Tensor, steps: int) -> Tensor:
    """(B, samples) -> (B, T, W): the sound of each time step, ``W = samples // T``.

    The last ``samples % T`` samples belong to no step. Sound of fewer samples than steps is followed by silence.
    """
    sound = F.pad(sound, (0, max(0, steps - sound.shape[1])))
    width = sound.shape[1] // steps
    return sound[:, : steps * width].reshape(len(sound), steps, width)


@networks.register("audio_visual")
@dataclass(frozen=True)
class AudioVisualNetwork:
    """Audio-visual model: a visual and an audio backbone per time step, fused by sum or concatenation.

    Backbones: ``alexnet``, ``vgg11``, ``resnet18``, and for a CPU ``alexnet_small``, ``vgg_small``, ``resnet_small``.
    The paper's models also go by its names, see ``AcV`` ... ``RsR``. Untrained; ``checkpoint=`` brings weights.

    Attributes:
        visual: backbone that sees. Default resnet18.
        fusion: "sum" or "concat" of the features (not of logits: our decision). Default "sum".
        audio: backbone that hears. Default resnet18.
        classes: number of logits. Default: that of the data it is trained on.
        steps: time steps. Default 8; at least 2, or there is nothing to vary over time.
        span: frames per step, stacked. Default 1, the paper's. It takes ``steps * span`` frames.
        size: side of the frames. Default 224.
        features: D, of each step and modality. Default 512.
        rate, n_fft, hop, mels: see `Hearing`.

    Raises:
        InputError: an unknown backbone or fusion, or a number out of range.
    """

    visual: str = "resnet18"
    fusion: Fusion = "sum"
    audio: str = "resnet18"
    classes: int = 27
    steps: int = 8
    span: int = 1
    size: int = 224
    features: int = 512
    rate: int = 16000
    n_fft: int = 512
    hop: int = 160
    mels: int = 64

    def __post_init__(self) -> None:
        for name in (self.visual, self.audio):
            if name not in NAMES:
                raise unknown("backbone", name, NAMES)
        for name, least in (("classes", 2), ("steps", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of an audio-visual model is at least {least}, got {getattr(self, name)}.")

    def build(self) -> AudioVisualModel:
        return AudioVisualModel(
            backbone(self.visual, 3 * self.span, self.features),
            backbone(self.audio, 1, self.features),
            fusion=self.fusion,
            features=self.features,
            classes=self.classes,
            steps=self.steps,
            span=self.span,
            size=self.size,
            hearing=Hearing(self.rate, self.n_fft, self.hop, self.mels),
        )
