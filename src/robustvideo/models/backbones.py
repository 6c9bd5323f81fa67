"""Backbones that turn a picture, or a spectrogram, into one feature: what audio-visual models see and hear with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from robustvideo.errors import InputError, unknown
from robustvideo.models.small import Residual

Scale = Literal["full", "small"]


class Backbone(nn.Module):
    """Layers, the mean over all places, and a linear map without activation: (N, channels, H, W) -> (N, D).

    Without activation features have both signs, so that those of two modalities can point in opposite directions.
    A picture that is too small for the layers is enlarged first.

    Args:
        layers: (N, channels, H, W) -> (N, width, h, w).
        width: channels after the layers.
        features: D.
        least: smallest height and width that the layers can take.
    """

    def __init__(self, layers: nn.Module, width: int, features: int, least: int):
        super().__init__()
        self.layers = layers.to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.project = nn.Linear(width, features)
        self.least = least

    def forward(self, picture: Tensor) -> Tensor:
        size = [max(extent, self.least) for extent in picture.shape[2:]]
        if size != list(picture.shape[2:]):
            picture = F.interpolate(picture, size, mode="bilinear", align_corners=False)
        features: Tensor = self.project(self.layers(picture).mean((2, 3)))
        return features


def backbone(name: str, channels: int, features: int) -> Backbone:
    """An untrained backbone.

    Args:
        name: one of `NAMES`. ``alexnet``, ``vgg11`` (with batch normalisation) and ``resnet18`` are torchvision's;
            those with ``_small`` have the same plan and a hundredth of the cost, for a CPU.
        channels: of the pictures: 3 for a colour frame, 1 for a spectrogram.
        features: D.

    Raises:
        InputError: an unknown name, or a number below 1.
    """
    if name not in _BUILDERS:
        raise unknown("backbone", name, _BUILDERS)
    if channels < 1 or features < 1:
        raise InputError(f"A backbone has at least one channel and one feature, got {channels} and {features}.")
    layers, width, least = _BUILDERS[name](channels)
    return Backbone(layers, width, features, least)


Layers = tuple[nn.Module, int, int]
"""Layers, their width, and the smallest side they take."""


def _alexnet(channels: int) -> Layers:
    layers = torchvision.models.alexnet().features
    layers[0] = nn.Conv2d(channels, 64, 11, 4, 2)
    return layers, 256, 63


def _vgg11(channels: int) -> Layers:
    layers = torchvision.models.vgg11_bn().features
    layers[0] = nn.Conv2d(channels, 64, 3, padding=1)
    return layers, 512, 32


def _resnet18(channels: int) -> Layers:
    network = torchvision.models.resnet18()
    network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return nn.Sequential(*list(network.children())[:-2]), 512, 32


def _alexnet_small(channels: int) -> Layers:
    """Large kernels first, pooled in between."""
    layers = nn.Sequential(
        *_conv(channels, 24, kernel=7, stride=2), nn.MaxPool2d(2), *_conv(24, 48, kernel=5), nn.MaxPool2d(2)
    )
    return nn.Sequential(layers, *_conv(48, 64)), 64, 8


def _vgg_small(channels: int) -> Layers:
    """Kernels of 3 only, pooled after each pair."""
    layers = [*_conv(channels, 16), *_conv(16, 16), nn.MaxPool2d(2), *_conv(16, 32), *_conv(32, 32), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *_conv(32, 64)), 64, 4


def _resnet_small(channels: int) -> Layers:
    """A wide stem, as motion between frames is of several pixels; then strided layers, each before a residual block."""
    layers = [*_conv(channels, 24, kernel=7, stride=2), nn.MaxPool2d(2)]
    for before, after, stride in ((24, 32, 1), (32, 64, 2)):
        block = Residual(nn.Sequential(*_conv(after, after), *_conv(after, after)[:2]))
        layers += [*_conv(before, after, stride=stride), block]
    return nn.Sequential(*layers), 64, 4


def _conv(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]


_BUILDERS: dict[str, Callable[[int], Layers]] = {
    "alexnet": _alexnet,
    "vgg11": _vgg11,
    "resnet18": _resnet18,
    "alexnet_small": _alexnet_small,
    "vgg_small": _vgg_small,
    "resnet_small": _resnet_small,
}
NAMES = tuple(_BUILDERS)
"""The backbones there are."""
