"""The embedded networks: small, trained on `embedded:kinetic`, their weights shipped with the package.

All take 16 frames of 48 x 48. ``r3d`` and ``r3d_at`` are one architecture, plainly and adversarially trained.
``cnn_lstm`` encodes each frame alone, as the places of what it finds there, and reads the sequence with a recurrent
network: it tells translations well, turning and zooming badly. ``frame2d`` averages the answers to single frames: it
cannot know motion, so on `embedded:kinetic`, where a single frame says nothing about the class, it stays near chance
(12.5 %). That is its point: an evaluation in which it does well is broken.

Each file of weights tells in its metadata the recipe that made it, the recipe's hash, and the accuracies measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Literal

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.checkpoint import load_state, read_labels, read_state
from robustvideo.models.framewise import FrameSequence, FramewiseModel
from robustvideo.models.small import MEAN, STD, R3DSmall
from robustvideo.registry import construct
from robustvideo.spec import Call, Source

FRAMES, SIZE = 16, (48, 48)
CLASSES = 8


def build(name: str, classes: int = CLASSES) -> Model:
    """An untrained network, with weights drawn from torch's global random state.

    Args:
        name: one of `NAMES`.
        classes: number of logits.

    Raises:
        InputError: an unknown name.
    """
    if name not in _BUILDERS:
        raise unknown("embedded model", name, _BUILDERS)
    return _BUILDERS[name](classes)


@dataclass(frozen=True)
class Options:
    """Options of a spec ``embedded:<name>``.

    Attributes:
        weights: None for those that come with the package; "none" for an untrained network.
        classes: of an untrained network. Default: those of the data it is built for, else those of the weights.
    """

    weights: Literal["none"] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.weights is None and self.classes not in (None, CLASSES):
            raise InputError(f"The embedded weights have {CLASSES} classes: with classes=, set weights=none.")


def load_embedded(source: Source, num_classes: int | None = None) -> Model:
    """Load ``embedded:<name>``.

    Args:
        source: the parsed spec.
        num_classes: classes of an untrained network when ``classes=`` is not given.

    Raises:
        InputError: an unknown name or option.
    """
    options = construct(Options, Call(f"embedded:{source.name}", dict(source.options)))
    if options.weights == "none":
        return build(source.name, options.classes or num_classes or CLASSES)
    model = build(source.name)
    with as_file(files("robustvideo") / "models" / "weights" / f"{source.name}.safetensors") as path:
        load_state(model, read_state(path), f"embedded:{source.name}")
        model.labels = read_labels(path)
    return model


class Whereabouts(nn.Module):
    """Where each channel is active, instead of how much: (N, C, H, W) -> (N, 4C).

    A channel's softmax over all places weighs the cosine and sine of row and column (a full circle each, since the
    pictures of `embedded:kinetic` wrap around): a spatial soft argmax (Levine et al. 2016) on a torus.
    """

    circles: Tensor

    def __init__(self, height: int, width: int):
        super().__init__()
        rows = torch.arange(height) * (2 * math.pi / height)
        columns = torch.arange(width) * (2 * math.pi / width)
        places = torch.meshgrid(rows, columns, indexing="ij")
        circles = torch.stack([f(place).flatten() for place in places for f in (torch.cos, torch.sin)], dim=1)
        self.register_buffer("circles", circles, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = x.flatten(2).softmax(2)
        return (weights @ self.circles.to(weights.dtype)).flatten(1)


class LastState(nn.Module):
    """A one-layer LSTM, then a linear map of its last state: (B, T, D) -> (B, K)."""

    def __init__(self, features: int, hidden: int, classes: int):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.lstm(features)
        logits: Tensor = self.linear(states[:, -1])
        return logits


class MeanOfAnswers(nn.Module):
    """A linear map of each frame's features, averaged over the frames: (B, T, D) -> (B, K)."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        answers: Tensor = self.linear(features)
        return answers.mean(1)


def _r3d(classes: int) -> Model:
    return R3DSmall(classes, FRAMES, SIZE[0]).build()


def _cnn_lstm(classes: int) -> Model:
    encoder = nn.Sequential(
        *_conv2d(3, 16, kernel=5, stride=2),
        *_conv2d(16, 32, kernel=3, stride=2),
        *_conv2d(32, 32, kernel=3, stride=1),
        nn.Conv2d(32, 16, kernel_size=1),
        Whereabouts(SIZE[0] // 4, SIZE[1] // 4),
    )
    return _framewise(encoder, LastState(4 * 16, 64, classes))


def _frame2d(classes: int) -> Model:
    encoder = nn.Sequential(
        *_conv2d(3, 16, kernel=5, stride=2),
        *_conv2d(16, 32, kernel=3, stride=2),
        *_conv2d(32, 64, kernel=3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return _framewise(encoder, MeanOfAnswers(64, classes))


def _framewise(encoder: nn.Module, reader: nn.Module) -> Model:
    network = FrameSequence(encoder, reader)
    return FramewiseModel(network, frames=FRAMES, size=SIZE, mean=[MEAN] * 3, std=[STD] * 3)


def _conv2d(channels: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]


_BUILDERS: dict[str, Callable[[int], Model]] = {
    "cnn_lstm": _cnn_lstm,
    "frame2d": _frame2d,
    "r3d": _r3d,
    "r3d_at": _r3d,
}
NAMES = tuple(_BUILDERS)
"""The names after ``embedded:``."""
