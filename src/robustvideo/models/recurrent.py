"""Recurrent networks over per-frame features: CNN+LSTM, CNN+GRU and CNN+RNN (DeepSAVA, sections 4.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision import models

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.catalog import networks
from robustvideo.models.framewise import FrameSequence, FramewiseModel
from robustvideo.models.small import MEAN, STD
from robustvideo.models.tsm import IMAGENET_MEAN, IMAGENET_STD

Cell = Literal["lstm", "gru", "rnn"]
Backbone = Literal["small", "resnet18", "resnet50", "inception_v3"]
Read = Literal["last", "mean"]


@networks.register("cnn_rnn")
@dataclass(frozen=True)
class CNNRNN:
    """A CNN on each frame, then an LSTM, a GRU or a plain recurrent network (Mu et al. 2024).

    The paper's CNN+LSTM is ``cnn_rnn?backbone=inception_v3&size=299&hidden=2048``. Its training code reads the last
    state; its attack's network averages the answers to all steps (``read=mean``). Two layers answer, 512 wide.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on.
        cell: "lstm" (default), "gru" or "rnn".
        backbone: what encodes a frame: "small" (default), three convolutions, or torchvision's "resnet18",
            "resnet50" or "inception_v3", untrained.
        frames, size: number and side of the frames it takes. Default 40 (section 4.1) and 64.
        hidden: width of the recurrent state. Default 128.
        dropout: in training, before each of the two layers. Default 0.5, the paper's code's.
        read: "last" (default) or "mean".

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    classes: int = 101
    cell: Cell = "lstm"
    backbone: Backbone = "small"
    frames: int = 40
    size: int = 64
    hidden: int = 128
    dropout: float = 0.5
    read: Read = "last"

    def __post_init__(self) -> None:
        for name, choices in (("cell", Cell), ("backbone", Backbone), ("read", Read)):
            if getattr(self, name) not in get_args(choices):
                raise unknown(f"{name} of cnn_rnn:", getattr(self, name), get_args(choices))
        least_size = 75 if self.backbone == "inception_v3" else 16
        for name, least in (("classes", 2), ("frames", 1), ("size", least_size), ("hidden", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of cnn_rnn is at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout= is in [0, 1), got {self.dropout:g}.")

    def build(self) -> Model:
        encoder, width = frame_encoder(self.backbone)
        reader = RecurrentReader(self.cell, width, self.hidden, self.classes, self.dropout, self.read)
        small = self.backbone == "small"
        return FramewiseModel(
            FrameSequence(encoder, reader),
            frames=self.frames,
            size=self.size,
            mean=[MEAN] * 3 if small else IMAGENET_MEAN,
            std=[STD] * 3 if small else IMAGENET_STD,
        )


class RecurrentReader(nn.Module):
    """A one-layer recurrent network, then two layers: (B, T, D) -> (B, K).

    Args:
        cell: "lstm", "gru" or "rnn".
        features: D.
        hidden: width of the state.
        classes: K.
        dropout: in training, before each of the two layers.
        read: answer to the "last" state, or the "mean" of the answers to all.
    """

    def __init__(self, cell: Cell, features: int, hidden: int, classes: int, dropout: float, read: Read):
        super().__init__()
        self.cell = _DIFFERENTIABLE[cell](features, hidden, batch_first=True)
        self.answer = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(hidden, 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, classes)
        )
        self.read = read

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.cell(features)
        answer: Tensor = self.answer(states[:, -1] if self.read == "last" else states)
        return answer if self.read == "last" else answer.mean(1)


class _AlwaysTraining(nn.Module):
    """One layer without dropout does the same in both modes, but cuDNN gives gradients in training mode only."""

    def train(self, mode: bool = True) -> _AlwaysTraining:
        del mode
        return super().train(True)


class _LSTM(_AlwaysTraining, nn.LSTM):
    pass


class _GRU(_AlwaysTraining, nn.GRU):
    pass


class _RNN(_AlwaysTraining, nn.RNN):
    pass


_DIFFERENTIABLE: Mapping[str, Callable[..., nn.RNNBase]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}


def frame_encoder(backbone: Backbone) -> tuple[nn.Module, int]:
    """An untrained network (N, 3, H, W) -> (N, D), and D."""
    if backbone == "small":
        return _small_encoder(), 128
    if backbone == "inception_v3":
        inception = models.inception_v3(weights=None, aux_logits=False, init_weights=False, transform_input=False)
        inception.fc, inception.dropout = nn.Identity(), nn.Identity()
        return inception, 2048
    resnet = getattr(models, backbone)(weights=None)
    width: int = resnet.fc.in_features
    resnet.fc = nn.Identity()
    return resnet, width


def _small_encoder() -> nn.Module:
    layers: list[nn.Module] = []
    for channels, out, kernel in ((3, 16, 5), (16, 32, 3), (32, 32, 3)):
        conv = nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
