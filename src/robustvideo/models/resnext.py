"""3-D ResNeXt (Hara et al. 2018), the network of Kinfu & Vidal 2022."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import networks

_MEAN = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255)
_STD = 1 / 255
_EXPANSION, _CARDINALITY = 2, 32
_PLANES = (128, 256, 512, 1024)
_BLOCKS_101 = (3, 4, 23, 3)

_stem = re.compile(r"^(conv1|bn1)\.")
_branch = re.compile(r"^(layer[1-4]\.\d+)\.(conv[1-3]|bn[1-3])\.")


class Bottleneck(nn.Module):
    """``relu(branch(x) + shortcut(x))``, the middle convolution of the branch in groups.

    Args:
        channels: of the input.
        planes: channels of the convolution in groups; the output has twice as many.
        stride: of the convolution in groups and of the shortcut, in time, height and width.
    """

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        out = planes * _EXPANSION
        # plain sequences, in which a gradient twin folds each normalisation into its convolution
        self.branch = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv3d(channels, planes, 1, bias=False),
                bn1=nn.BatchNorm3d(planes),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv3d(planes, planes, 3, stride, 1, groups=_CARDINALITY, bias=False),
                bn2=nn.BatchNorm3d(planes),
                relu2=nn.ReLU(inplace=True),
                conv3=nn.Conv3d(planes, out, 1, bias=False),
                bn3=nn.BatchNorm3d(out),
            )
        )
        changes = stride != 1 or channels != out
        layers = [nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out)] if changes else []
        self.downsample = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.downsample(x))


class ResNeXt(nn.Module):
    """(B, 3, T, H, W) -> (B, classes); T is halved four times, H and W five times, then all places are averaged.

    Args:
        blocks: number of bottlenecks in each of the four stages.
        classes: number of logits.
    """

    def __init__(self, blocks: tuple[int, ...], classes: int):
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False),
                bn1=nn.BatchNorm3d(64),
                relu=nn.ReLU(inplace=True),
                maxpool=nn.MaxPool3d(3, 2, 1),
            )
        )
        channels = (64, *(planes * _EXPANSION for planes in _PLANES))
        stages = [
            nn.Sequential(
                *(
                    Bottleneck(out if number else before, out // _EXPANSION, 2 if stage and not number else 1)
                    for number in range(count)
                )
            )
            for stage, (count, (before, out)) in enumerate(zip(blocks, pairwise(channels), strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, video: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(video)))))
        logits: Tensor = self.fc(x.mean((2, 3, 4)))
        return logits


@networks.register("resnext3d_101")
@dataclass(frozen=True)
class ResNeXt101:
    """ResNeXt-101 with 3-D convolutions, cardinality 32, 48 million parameters (Hara et al. 2018).

    ``checkpoint=`` takes the public checkpoints of kenshohara/3D-ResNets-PyTorch, too; with those of Kinetics-400 set
    ``classes=400``. Pixels are normalised as for that release of 2018: minus the mean colour of ActivityNet, in units
    of 1/255, and not scaled (the repository's later default, mean and deviation of Kinetics, came without weights of
    this network). Its centre crop is not part of the model: clips of another size are resized whole.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on.
        frames, size: number and side of the frames it takes. Default 16 and 112 (Kinfu & Vidal 2022, section 5).
        blocks: bottlenecks in each of the four stages. Default: those of the 101 layers.

    Raises:
        InputError: a number out of range.
    """

    classes: int = 400
    frames: int = 16
    size: int = 112
    blocks: tuple[int, ...] = _BLOCKS_101

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("frames", 1), ("size", 16)):
            if getattr(self, name) < least:
                raise InputError(f"{name}= of resnext3d_101 is at least {least}, got {getattr(self, name)}.")
        if len(self.blocks) != len(_PLANES) or min(self.blocks) < 1:
            raise InputError(f"blocks= of resnext3d_101 are {len(_PLANES)} positive numbers, got {list(self.blocks)}.")

    def build(self) -> Model:
        network = ResNeXt(self.blocks, self.classes)
        return wrap(network, frames=self.frames, size=self.size, mean=_MEAN, std=(_STD,) * 3)

    @staticmethod
    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of kenshohara/3D-ResNets-PyTorch by this network's names; those that it knows stay.

        Those of 2018 were saved before batch normalisation counted its batches: the counts start at 0.
        """
        converted = {_branch.sub(r"\1.branch.\2.", _stem.sub(r"stem.\1.", name)): t for name, t in state.items()}
        ends = (".running_var", ".num_batches_tracked")
        counts = {name.replace(*ends): torch.tensor(0) for name in converted if name.endswith(ends[0])}
        return {**counts, **converted}
