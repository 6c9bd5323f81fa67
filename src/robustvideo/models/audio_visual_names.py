"""The eight models of the paper by its names, {visual}{fusion}{audio}: A AlexNet, V VGG, R ResNet; s sum, c concat.

The text of the paper (AV sections 3 and 6.1) contradicts itself about which backbone sees and which hears; its figures
5 and 12 agree on visual A or R and audio V or R, and so do these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from robustvideo.errors import unknown
from robustvideo.models.audio_visual import AudioVisualModel, AudioVisualNetwork, Fusion
from robustvideo.models.backbones import Scale
from robustvideo.models.catalog import networks

_SIGHT = {"A": {"full": "alexnet", "small": "alexnet_small"}, "R": {"full": "resnet18", "small": "resnet_small"}}
_HEARING = {"V": {"full": "vgg11", "small": "vgg_small"}, "R": {"full": "resnet18", "small": "resnet_small"}}
_FUSION: dict[str, Fusion] = {"s": "sum", "c": "concat"}


@dataclass(frozen=True)
class _Named:
    """Attributes common to the eight models.

    Attributes:
        classes: number of logits. Default: that of the data it is trained on.
        scale: "full" is the paper's backbones, 8 steps of one frame of 224 x 224, features of 512 numbers, sound at
            16 kHz in 64 mel bands. "small" trains in minutes on a CPU: backbones of the same plan, 8 steps of two
            frames of 48 x 48 (classes of `embedded:kinetic` are motions), 64 numbers, 8 kHz in 32 bands.
        steps: time steps. Default 8.
        span: frames per step. Default: 1, small 2.
    """

    NAME: ClassVar[str]

    classes: int = 27
    scale: Scale = "full"
    steps: int = 8
    span: int | None = None

    def __post_init__(self) -> None:
        if self.scale not in ("full", "small"):
            raise unknown("scale", self.scale, ("full", "small"))

    def build(self) -> AudioVisualModel:
        sight, fusion, hearing = tuple(self.NAME)
        visual, audio = _SIGHT[sight][self.scale], _HEARING[hearing][self.scale]
        span = self.span or (1 if self.scale == "full" else 2)
        whole = AudioVisualNetwork(visual, _FUSION[fusion], audio, self.classes, self.steps, span)
        if self.scale == "full":
            return whole.build()
        return replace(whole, size=48, features=64, rate=8000, n_fft=256, hop=64, mels=32).build()


@networks.register("AcV")
@dataclass(frozen=True)
class AcV(_Named):
    """AlexNet sees, VGG-11 hears, fused by concatenation (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "AcV"


@networks.register("AcR")
@dataclass(frozen=True)
class AcR(_Named):
    """AlexNet sees, ResNet-18 hears, fused by concatenation (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "AcR"


@networks.register("AsV")
@dataclass(frozen=True)
class AsV(_Named):
    """AlexNet sees, VGG-11 hears, fused by sum (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "AsV"


@networks.register("AsR")
@dataclass(frozen=True)
class AsR(_Named):
    """AlexNet sees, ResNet-18 hears, fused by sum (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "AsR"


@networks.register("RcV")
@dataclass(frozen=True)
class RcV(_Named):
    """ResNet-18 sees, VGG-11 hears, fused by concatenation (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "RcV"


@networks.register("RcR")
@dataclass(frozen=True)
class RcR(_Named):
    """ResNet-18 sees, ResNet-18 hears, fused by concatenation (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "RcR"


@networks.register("RsV")
@dataclass(frozen=True)
class RsV(_Named):
    """ResNet-18 sees, VGG-11 hears, fused by sum (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "RsV"


@networks.register("RsR")
@dataclass(frozen=True)
class RsR(_Named):
    """ResNet-18 sees, ResNet-18 hears, fused by sum (Zhang et al. 2025); ``scale=small`` for a CPU.

    Attributes:
        classes, scale, steps, span: see the base.
    """

    NAME = "RsR"
