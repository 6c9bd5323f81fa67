"""`Windowed`: a short-clip model that reads a long video window by window, and is attacked as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model


class Windowed(Model):
    """The mean of a model's logits over windows of a video of any length: multi-view testing as a model.

    An attack on it optimises one perturbation for every frame of the video against the averaged verdict. Each
    window is recomputed during the backward pass, so the memory for activations is that of one window, whatever
    the length; the price is one more forward pass per step.

    Args:
        model: takes clips of ``window`` frames.
        window: frames per window. Default: the model's own number of frames.
        stride: frames from one window to the next. Default: ``window`` (no overlap). A last window that would
            run over the end is moved back so that every frame is seen.

    Raises:
        InputError: neither the model nor ``window`` says how long a window is, or a number is not positive.
    """

    def __init__(self, model: Model, window: int | None = None, stride: int | None = None):
        super().__init__()
        length = window or model.frames
        if length is None:
            raise InputError("This model takes clips of any length: say how many frames a window has.")
        if length < 1 or (stride is not None and stride < 1):
            raise InputError(f"A window and its stride are at least one frame, got {window} and {stride}.")
        self.model = model
        self.window = length
        self.stride = stride or length
        self.labels = model.labels
        self.size = model.size
        self.sample_rate = model.sample_rate

    def for_gradients(self) -> Model:
        inner = self.model.for_gradients()
        return self if inner is self.model else Windowed(inner, self.window, self.stride)

    def forward(self, clip: Clip) -> Tensor:
        views = [self._view(clip, start) for start in window_starts(clip.frames, self.window, self.stride)]
        attacked = any(signal is not None and signal.requires_grad for signal in (clip.video, clip.audio))
        if torch.is_grad_enabled() and attacked:
            logits: list[Tensor] = [checkpoint(self.model, view, use_reentrant=False) for view in views]
        else:
            logits = [self.model(view) for view in views]
        return torch.stack(logits).mean(0)

    def _view(self, clip: Clip, start: int) -> Clip:
        stop = start + self.window
        audio = clip.audio
        if audio is not None:
            samples = audio.shape[2]
            audio = audio[:, :, start * samples // clip.frames : stop * samples // clip.frames]
        return Clip(clip.video[:, :, start:stop], audio, clip.sample_rate, clip.ids)


def window_starts(frames: int, window: int, stride: int) -> Sequence[int]:
    """First frames of the windows that cover a video; the last one ends with it.

    Raises:
        InputError: the video is shorter than one window.
    """
    if frames < window:
        raise InputError(f"A video of {frames} frames is shorter than one window of {window}.")
    starts = list(range(0, frames - window + 1, stride))
    if starts[-1] + window < frames:
        starts.append(frames - window)
    return starts
