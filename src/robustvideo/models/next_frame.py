"""Models that predict the next frame, as classifiers of their own failure (DeepSAVA, appendix C).

A clip of T + 1 frames holds the T that the predictor sees and the one that it should predict. The answer is a class,
"predicted" or "mispredicted", whose margin rises with the error: attacks, evaluation and reports need no other contract
for a regression. The last frame is the truth: an adversary must leave it alone, so attack within the support
`before_the_last`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.catalog import networks
from robustvideo.support import Frames

LABELS = ("predicted", "mispredicted")


class NextFrameModel(Model):
    """Logits ``(1 - e, e - 1)``, e the mean squared error of the last predicted frame in units of a tolerance.

    The error of the last frame alone counts: DeepSAVA's figures are of "the predicted frame". Its margin for label 0 is
    ``2 (e - 1)``, so cross-entropy and margin both rise with the error.

    Args:
        predictor: frames (B, C, T, H, W) in [0, 1] -> the frames after each of them, of the same shape.
        tolerance: mean squared error from which a frame counts as mispredicted.
    """

    labels = LABELS

    def __init__(self, predictor: nn.Module, tolerance: float):
        super().__init__()
        self.predictor = predictor
        self.tolerance = tolerance

    def predict(self, video: Tensor) -> Tensor:
        """The frames (B, C, T, H, W) after each of the frames of a video."""
        predicted: Tensor = self.predictor(video)
        return predicted

    def errors(self, clip: Clip) -> Tensor:
        """(B,) mean squared error of the prediction of the last frame from all others.

        Raises:
            InputError: clips of one frame.
        """
        if clip.frames < 2:
            raise InputError("A model of the next frame needs clips of at least two frames.")
        predicted = self.predict(clip.video[:, :, :-1])[:, :, -1]
        return (predicted - clip.video[:, :, -1]).square().flatten(1).mean(1)

    def forward(self, clip: Clip) -> Tensor:
        excess = self.errors(clip) / self.tolerance - 1
        return torch.stack([-excess, excess], dim=1)

    def error_at(self, margin: Tensor) -> Tensor:
        """The mean squared errors that margins of label 0 stand for, e.g. of a loss trace of ``loss=margin``."""
        return self.tolerance * (1 + margin / 2)


def before_the_last(frames: int) -> Frames:
    """The support that spares the last of so many frames: what a predictor sees, but not what it should predict."""
    return Frames(tuple(range(frames - 1)))


@networks.register("next_frame")
@dataclass(frozen=True)
class NextFrame:
    """Convolutional LSTMs that predict the next frame (Shi et al. 2015), for ``embedded:moving_digits``.

    Attributes:
        hidden: channels of every state. Default 32.
        layers: LSTMs on top of each other. Default 2.
        kernel: side of their convolutions, odd. Default 5.
        tolerance: mean squared error from which a frame counts as mispredicted. Default 0.02.

    Raises:
        InputError: a number out of range.
    """

    hidden: int = 32
    layers: int = 2
    kernel: int = 5
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.layers < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(
                "next_frame needs hidden and layers of at least 1 and an odd kernel, got "
                f"{self.hidden}, {self.layers} and {self.kernel}."
            )
        if not 0 < self.tolerance < float("inf"):
            raise InputError(f"A tolerance is positive, got {self.tolerance:g}.")

    def build(self) -> Model:
        return NextFrameModel(ConvLSTMPredictor(self.hidden, self.layers, self.kernel), self.tolerance)


class ConvLSTMPredictor(nn.Module):
    """(B, 3, T, H, W) -> the frames after each, the same shape, in (0, 1).

    What is read from the last state is added to the frame seen, as a logit: an untrained network about copies it.

    Args:
        hidden: channels of every state.
        layers: LSTMs on top of each other.
        kernel: side of their convolutions.
    """

    def __init__(self, hidden: int, layers: int, kernel: int):
        super().__init__()
        self.cells = nn.ModuleList(ConvLSTM(hidden if layer else 3, hidden, kernel) for layer in range(layers))
        self.readout = nn.Conv2d(hidden, 3, 1)

    def forward(self, video: Tensor) -> Tensor:
        seen = video
        for cell in self.cells:
            seen = cell(seen)
        batch, _, frames = video.shape[:3]
        change: Tensor = self.readout(seen.transpose(1, 2).flatten(0, 1))
        logits = 6 * video - 3 + change.view(batch, frames, *change.shape[1:]).transpose(1, 2)
        return logits.sigmoid()


class ConvLSTM(nn.Module):
    """One LSTM whose products are convolutions: (B, C, T, H, W) -> its states (B, hidden, T, H, W).

    Args:
        channels: C.
        hidden: channels of the state.
        kernel: side of the convolutions.
    """

    def __init__(self, channels: int, hidden: int, kernel: int):
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(channels + hidden, 4 * hidden, kernel, padding=kernel // 2)

    def forward(self, video: Tensor) -> Tensor:
        state = video.new_zeros(len(video), self.hidden, *video.shape[3:])
        memory, states = state, []
        for frame in video.unbind(2):
            keep, write, show, new = self.gates(torch.cat([frame, state], dim=1)).chunk(4, dim=1)
            memory = (keep + 1).sigmoid() * memory + write.sigmoid() * new.tanh()
            state = show.sigmoid() * memory.tanh()
            states.append(state)
        return torch.stack(states, dim=2)
