"""Temporal shift module: 2-D ResNets that look at time by shifting channels between frames (Lin et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import networks

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def temporal_shift(x: Tensor, frames: int, part: int = 8) -> Tensor:
    """Move some channels to the frame before and as many to the frame after; zeros come in at the ends.

    Args:
        x: (B * T, C, H, W), the frames of a clip one after another.
        frames: T.
        part: one channel in ``part`` goes each way. Default 8, the source's.
    """
    x = x.reshape(-1, frames, *x.shape[1:])
    fold = x.shape[2] // part
    nothing = torch.zeros_like(x[:, :1])
    earlier = torch.cat([x[:, 1:, :fold], nothing[:, :, :fold]], dim=1)
    later = torch.cat([nothing[:, :, fold : 2 * fold], x[:, :-1, fold : 2 * fold]], dim=1)
    return torch.cat([earlier, later, x[:, :, 2 * fold :]], dim=2).flatten(0, 1)


class Shifted(nn.Module):
    """A layer that sees its input after a temporal shift; see `temporal_shift`."""

    def __init__(self, layer: nn.Module, frames: int, part: int):
        super().__init__()
        self.layer = layer
        self.frames = frames
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self.layer(temporal_shift(x, self.frames, self.part))
        return shifted


class ShiftedFrames(nn.Module):
    """A 2-D network run on all frames, its logits averaged over them: (B, 3, T, H, W) -> (B, K)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, video: Tensor) -> Tensor:
        logits: Tensor = self.network(video.transpose(1, 2).flatten(0, 1))
        return logits.view(len(video), -1, logits.shape[1]).mean(1)


@dataclass(frozen=True)
class _TSM:
    """Attributes common to the networks with temporal shift.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on, else 400.
        frames: number of frames; clips of other lengths are sampled evenly. Default 8, the source's.
        size: side of the frames. Default 224, the source's.
        shift: one channel in this many is shifted each way, before the first convolution of every residual block
            (the source's residual shift). Default 8, the source's.
    """

    classes: int = 400
    frames: int = 8
    size: int = 224
    shift: int = 8

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("frames", 2), ("size", 32), ("shift", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of a network with temporal shift is at least {least}.")

    def _shifted(self, resnet: Callable[..., Any]) -> Model:
        network = resnet(weights=None, num_classes=self.classes)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                block.conv1 = Shifted(block.conv1, self.frames, self.shift)
        return wrap(ShiftedFrames(network), frames=self.frames, size=self.size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@networks.register("tsm_r18")
@dataclass(frozen=True)
class TSMResNet18(_TSM):
    """ResNet-18 with temporal shift (Lin et al. 2019).

    Attributes:
        classes, frames, size, shift: see the base.
    """

    def build(self) -> Model:
        return self._shifted(resnet18)


@networks.register("tsm_r50")
@dataclass(frozen=True)
class TSMResNet50(_TSM):
    """ResNet-50 with temporal shift (Lin et al. 2019).

    Attributes:
        classes, frames, size, shift: see the base.
    """

    def build(self) -> Model:
        return self._shifted(resnet50)
