"""SlowFast networks: many channels at few frames beside few channels at many (Feichtenhofer et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import networks

_TIMES = {"slow": (1, 1, 3, 3), "fast": (3, 3, 3, 3)}
"""Frames that the first convolution of a block looks at, by pathway and stage (table 1 of the source)."""

Triple = tuple[int, int, int]


class Bottleneck(nn.Module):
    """Residual block T x 1 x 1, 1 x 3 x 3, 1 x 1 x 1; space is halved by the middle one."""

    def __init__(self, channels: int, inner: int, time: int, stride: int):
        super().__init__()
        out = 4 * inner
        self.branch = nn.Sequential(
            *_conv(channels, inner, (time, 1, 1)),
            nn.ReLU(),
            *_conv(inner, inner, (1, 3, 3), (1, stride, stride)),
            nn.ReLU(),
            *_conv(inner, out, (1, 1, 1)),
        )
        same = channels == out and stride == 1
        self.shortcut = nn.Sequential(*([] if same else _conv(channels, out, (1, 1, 1), (1, stride, stride))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.branch(x))


class TwoPathways(nn.Module):
    """(B, 3, T, H, W) -> (B, K); the fast pathway sees all frames, the slow one every ``alpha``-th.

    Lateral connections lead from fast to slow before every stage: a convolution over five frames that keeps every
    ``alpha``-th and doubles the channels.

    Args:
        classes, width, depths, alpha, beta, dropout: see `SlowFastR50`.
    """

    def __init__(self, classes: int, width: int, depths: tuple[int, ...], alpha: int, beta: int, dropout: float):
        super().__init__()
        self.alpha = alpha
        slow, fast = width, width // beta
        self.stems = nn.ModuleDict({"slow": _stem(slow, time=1), "fast": _stem(fast, time=5)})
        self.laterals = nn.ModuleList()
        self.stages = nn.ModuleList()
        for index, depth in enumerate(depths):
            self.laterals.append(nn.Sequential(*_conv(fast, 2 * fast, (5, 1, 1), (alpha, 1, 1)), nn.ReLU()))
            inner, stride = width * 2**index, 1 if index == 0 else 2
            self.stages.append(
                nn.ModuleDict(
                    {
                        "slow": _stage(slow + 2 * fast, inner, depth, _TIMES["slow"][index], stride),
                        "fast": _stage(fast, inner // beta, depth, _TIMES["fast"][index], stride),
                    }
                )
            )
            slow, fast = 4 * inner, 4 * inner // beta
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(slow + fast, classes))

    def forward(self, video: Tensor) -> Tensor:
        slow = self.stems["slow"](video[:, :, :: self.alpha])
        fast = self.stems["fast"](video)
        for lateral, stage in zip(self.laterals, self.stages, strict=True):
            assert isinstance(stage, nn.ModuleDict)
            slow, fast = stage["slow"](torch.cat([slow, lateral(fast)], dim=1)), stage["fast"](fast)
        logits: Tensor = self.head(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], dim=1))
        return logits


@networks.register("slowfast_r50")
@dataclass(frozen=True)
class SlowFastR50:
    """SlowFast 4 x 16 on ResNet-50: 32 frames for the fast pathway, 4 of them for the slow one.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on, else 400.
        frames: frames of the fast pathway, a multiple of ``alpha``. Default 32, of 64 film frames every other one in
            the source.
        size: side of the frames. Default 224, the source's.
        width: channels of the slow pathway's first layer, a multiple of ``beta``. Default 64.
        depths: residual blocks of the four stages. Default those of ResNet-50.
        alpha: how many times more frames the fast pathway sees. Default 8, the source's.
        beta: how many times fewer channels it has. Default 8, the source's.
        dropout: before the last layer. Default 0.5, the source's.

    Raises:
        InputError: a number out of range, or frames and width that do not divide.
    """

    classes: int = 400
    frames: int = 32
    size: int = 224
    width: int = 64
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    alpha: int = 8
    beta: int = 8
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.classes < 2 or self.size < 32 or min(self.depths) < 1:
            raise InputError("slowfast_r50 needs at least 2 classes, size 32 and one block in every stage.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout= is a share in [0, 1), got {self.dropout:g}.")
        if self.alpha < 1 or self.frames < 1 or self.frames % self.alpha:
            raise InputError(f"frames= of slowfast_r50 is a multiple of alpha={self.alpha}, got {self.frames}.")
        if self.beta < 1 or self.width < 1 or self.width % self.beta:
            raise InputError(f"width= of slowfast_r50 is a multiple of beta={self.beta}, got {self.width}.")

    def build(self) -> Model:
        network = TwoPathways(self.classes, self.width, self.depths, self.alpha, self.beta, self.dropout)
        # mean and standard deviation of the source's release
        return wrap(network, frames=self.frames, size=self.size, mean=[0.45] * 3, std=[0.225] * 3)


def _stem(channels: int, time: int) -> nn.Sequential:
    pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    return nn.Sequential(*_conv(3, channels, (time, 7, 7), (1, 2, 2)), nn.ReLU(), pool)


def _stage(channels: int, inner: int, depth: int, time: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels, inner, time, stride)
    return nn.Sequential(first, *(Bottleneck(4 * inner, inner, time, 1) for _ in range(depth - 1)))


def _conv(channels: int, out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> list[nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return [nn.Conv3d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm3d(out)]
