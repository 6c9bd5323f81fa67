"""`Clip`: a batch of videos, with or without sound. The one thing that flows everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from robustvideo.errors import InputError

Modality = Literal["video", "audio"]


@dataclass(frozen=True, eq=False)
class Clip:
    """A batch of clips as a decoder delivers them.

    Resizing, normalising, frame sampling and spectrograms belong to the model under attack, never to the clip.

    Attributes:
        video: float tensor (B, C, T, H, W) in [0, 1], channel order RGB.
        audio: optional float tensor (B, channels, samples) in [-1, 1].
        sample_rate: samples per second of ``audio``; required with it.
        ids: one stable name per clip. Seeds, records and file names derive from it, so that a result depends
            on the clip and not on its place in a batch. Defaults to "0", "1", ...

    Raises:
        InputError: what is no tensor or has the wrong rank or type, sound without a rate, or lengths that do not
            agree.
    """

    video: Tensor
    audio: Tensor | None = None
    sample_rate: int | None = None
    ids: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for signal in (self.video, self.audio):
            if not isinstance(signal, Tensor | None):
                kind = type(signal).__name__
                raise InputError(f"A clip is made of tensors, got {kind}: torch.as_tensor(...) makes one of an array.")
        if self.video.ndim != 5 or not self.video.is_floating_point():
            raise InputError(
                "A clip's video is a float tensor (B, C, T, H, W) in [0, 1]; "
                f"got shape {tuple(self.video.shape)} of {self.video.dtype}."
            )
        if self.audio is not None:
            if self.audio.ndim != 3 or len(self.audio) != len(self.video) or not self.audio.is_floating_point():
                raise InputError(
                    "A clip's audio is a float tensor (B, channels, samples) with the video's B; "
                    f"got {tuple(self.audio.shape)} beside video {tuple(self.video.shape)}."
                )
            if not self.sample_rate:
                raise InputError("A clip with audio needs its sample_rate in samples per second.")
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(len(self.video))))
        if len(self.ids) != len(self.video):
            raise InputError(f"A clip of {len(self.video)} videos needs as many ids, got {len(self.ids)}.")

    def __len__(self) -> int:
        return self.video.shape[0]

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return self.video.shape[2]

    @property
    def device(self) -> torch.device:
        return self.video.device

    def signal(self, modality: Modality) -> Tensor:
        """The tensor of one modality.

        Raises:
            InputError: sound is asked of a silent clip.
        """
        if modality == "video":
            return self.video
        if self.audio is None:
            raise InputError(
                "This clip has no sound track, so its audio cannot be attacked or measured: its file has none, or the "
                "model does not hear, or the data spec does not ask for it (audio=true)."
            )
        return self.audio

    def with_signal(self, modality: Modality, signal: Tensor) -> Clip:
        """The same clip with one modality replaced."""
        return replace(self, video=signal) if modality == "video" else replace(self, audio=signal)

    def select(self, index: Tensor | Sequence[int]) -> Clip:
        """The clips at ``index`` (integers, or a (B,) bool mask), in that order."""
        index = torch.as_tensor(index, device=self.device)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        return Clip(
            video=self.video[index],
            audio=None if self.audio is None else self.audio[index],
            sample_rate=self.sample_rate,
            ids=tuple(self.ids[i] for i in index.tolist()),
        )

    def detach(self) -> Clip:
        """The same values, cut from any autograd graph and usable in a new one."""
        audio = None if self.audio is None else _detached(self.audio)
        return replace(self, video=_detached(self.video), audio=audio)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Clip:
        """The clip on another device or in another floating type."""
        audio = None if self.audio is None else self.audio.to(device=device, dtype=dtype)
        return replace(self, video=self.video.to(device=device, dtype=dtype), audio=audio)

    def check_range(self) -> None:
        """Raise `InputError` unless video lies in [0, 1] and audio in [-1, 1] (NaN is outside)."""
        for modality, low in (("video", 0.0), ("audio", -1.0)):
            signal = self.video if modality == "video" else self.audio
            if signal is None or signal.numel() == 0:
                continue
            least, most = (float(v) for v in torch.aminmax(signal.detach()))
            if not (least >= low and most <= 1.0):
                raise InputError(
                    f"A clip's {modality} must lie in [{low:g}, 1], got [{least:g}, {most:g}]: "
                    "divide 8-bit pixels by 255, 16-bit sound by 32768, and leave normalisation to the model."
                )


def _detached(signal: Tensor) -> Tensor:
    return signal.clone() if signal.is_inference() else signal.detach()


def concatenate(clips: Sequence[Clip]) -> Clip:
    """One batch out of several of the same shape and sample rate.

    Raises:
        InputError: nothing to join, or shapes, presence of sound or rates that differ.
    """
    if not clips:
        raise InputError("There is no clip to join into a batch.")
    shapes = {(c.video.shape[1:], None if c.audio is None else c.audio.shape[1:], c.sample_rate) for c in clips}
    if len(shapes) > 1:
        raise InputError(
            "Clips of one batch must have one shape and one sound format; "
            f"got {' and '.join(str(tuple(s[0])) for s in sorted(shapes, key=str))} "
            "(set frames= and size= in the data spec)."
        )
    audios = [c.audio for c in clips if c.audio is not None]
    return Clip(
        video=torch.cat([c.video for c in clips]),
        audio=torch.cat(audios) if audios else None,
        sample_rate=clips[0].sample_rate,
        ids=tuple(i for c in clips for i in c.ids),
    )


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """One value per clip (B,), shaped to broadcast over a (B, ...) tensor."""
    return values.view(-1, *([1] * (like.ndim - 1)))
