"""Toy models with known optima, and clips to attack: the oracles of the tests.

Every model here is small enough to reason about on paper. Their margin (wrong logit minus true one) is
``value(clip)`` for label 0 and ``-value(clip)`` for label 1, so two labels in one batch pull in opposite directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustvideo.attacks import PGD
from robustvideo.attacks.attack import Problem
from robustvideo.clip import Clip
from robustvideo.model import Model, Routing
from robustvideo.models.moe import MixtureOfExperts
from robustvideo.registry import spec_of
from robustvideo.threat import ThreatModel

SHAPE = (3, 4, 6, 8)
"""(C, T, H, W) of the toy clips."""


class TwoClass(Model):
    """Logits ``(-s/2, s/2)`` of a scalar s per clip: the margin of label 0 is s, of label 1 it is -s."""

    def value(self, clip: Clip) -> Tensor:
        raise NotImplementedError

    def forward(self, clip: Clip) -> Tensor:
        s = self.value(clip)
        return torch.stack([-s / 2, s / 2], dim=1)


class Linear(TwoClass):
    """``s = scale * (<w, video> + <v, audio> + b)``."""

    def __init__(self, weight: Tensor, bias: float = 0.0, audio: Tensor | None = None, scale: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.audio = None if audio is None else nn.Parameter(audio)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=weight.dtype))
        self.scale = scale

    def value(self, clip: Clip) -> Tensor:
        s = (clip.video * self.weight).flatten(1).sum(1) + self.bias
        if self.audio is not None:
            s = s + (clip.signal("audio") * self.audio).flatten(1).sum(1)
        return s * self.scale


class Smooth(TwoClass):
    """A curved scalar: gradients change from place to place, and no finite difference is exact by accident."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, audio: tuple[int, int] | None = None, seed: int = 0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64))
        self.sound = None if audio is None else nn.Parameter(torch.randn(audio, generator=random, dtype=torch.float64))

    def value(self, clip: Clip) -> Tensor:
        video = clip.video
        s = torch.sin(3 * video * self.weight).flatten(1).mean(1) + (video[..., 1:] * video[..., :-1]).flatten(1).mean(
            1
        )
        if self.sound is not None:
            s = s + torch.tanh(clip.signal("audio") * self.sound).flatten(1).mean(1)
        return s


class Stairs(TwoClass):
    """A linear scalar rounded down to whole numbers: its gradient is zero everywhere."""

    def __init__(self, weight: Tensor, bias: float = 0.0):
        super().__init__()
        self.linear = Linear(weight, bias)

    def value(self, clip: Clip) -> Tensor:
        return self.linear.value(clip).floor() + 0.5


class ConvNet(Model):
    """A small 3-D network with batch norm, dropout and three classes: everything that could couple clips."""

    def __init__(self, channels: int = 3, classes: int = 3, seed: int = 0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv3d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 2 * 2 * 2, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5)
            self.norm.running_mean.copy_(torch.randn(6, generator=random))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.rand(6, generator=random) + 0.5)  # type: ignore[union-attr]

    def forward(self, clip: Clip) -> Tensor:
        video = self.norm(self.conv(clip.video)).relu()
        return self.head(self.drop(nn.functional.adaptive_avg_pool3d(video, 2).flatten(1)))


class Able(Model):
    """A small network with every ability that an attack may ask for: routed, featurised and framewise.

    Frames are encoded one by one, sound in as many pieces; three linear experts read the mean feature of each and a
    router weighs them. Batch norm and dropout are there to be left alone. It counts the calls of its encoder.
    """

    def __init__(self, classes: int = 3, width: int = 4, experts: int = 3, seed: int = 0, fail_at: int | None = None):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.hear = nn.Linear(1, width)
        self.drop = nn.Dropout(0.5)
        self.router = nn.Linear(2 * width, experts)
        self.experts = nn.ModuleList(nn.Linear(2 * width, classes) for _ in range(experts))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
            self.norm.running_mean.copy_(torch.randn(width, generator=random))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.rand(width, generator=random) + 0.5)  # type: ignore[union-attr]
        self.tally = Tally()
        self.fail_at = fail_at

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.tally.dtypes.append(frames.dtype)
        if self.fail_at is not None and len(self.tally.dtypes) >= self.fail_at:
            raise RuntimeError("the toy fails on purpose")
        return self.norm(self.conv(frames)).tanh().flatten(2).mean(2)

    def features(self, clip: Clip) -> dict[str, Tensor]:
        batch, frames = len(clip), clip.frames
        video = self.encode_frames(clip.video.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, frames))
        found = {"video": video}
        if clip.audio is not None:
            pieces = clip.audio.mean(1).unflatten(1, (frames, -1))
            found["audio"] = self.hear(pieces.square().mean(2, keepdim=True)).tanh()
        return found

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return self._routing(features).logits

    def head(self, features: Tensor) -> Tensor:
        return self._routing({"video": features}).logits

    def route(self, clip: Clip, needed: Tensor | None = None) -> Routing:
        return self._routing(self.features(clip))  # every expert runs anyway

    def forward(self, clip: Clip) -> Tensor:
        return self.route(clip).logits

    def reconstruct(self, clip: Clip) -> tuple[Tensor, Tensor]:
        return self(clip)[:, None], clip.video.square().flatten(1).mean(1)

    def _routing(self, features: Mapping[str, Tensor]) -> Routing:
        video = features["video"].mean(1)
        audio = features["audio"].mean(1) if "audio" in features else torch.zeros_like(video)
        seen = self.drop(torch.cat([video, audio], dim=1))
        router = self.router(seen)
        weights = router.softmax(1)
        opinions = torch.stack([expert(seen) for expert in self.experts], dim=1)
        return Routing((weights[:, :, None] * opinions).sum(1), router, opinions, weights)


class LinearLogits(Model):
    """Logits ``W vec(video) + b``, one row of W per class (or per expert, in a router)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, clip: Clip) -> Tensor:
        return torch.einsum("bcthw,kcthw->bk", clip.video, self.weight) + self.bias


def mixture(
    experts: int = 3, classes: int = 3, *, top: int = 1, gate: Any = "kept", seed: int = 0, scale: float = 0.2
) -> MixtureOfExperts:
    """Linear experts behind a linear router, all of whose logits are near 0 on grey clips; in float64."""
    random = torch.Generator().manual_seed(seed)

    def linear(rows: int) -> LinearLogits:
        weight = scale * torch.randn(rows, *SHAPE, generator=random, dtype=torch.float64)
        return LinearLogits(weight, -0.5 * weight.flatten(1).sum(1))

    return MixtureOfExperts([linear(classes) for _ in range(experts)], linear(experts), top, gate)


class Tally:
    """What a model was called with. Copies of a model (a gradient twin) write into the same one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.dtypes: list[torch.dtype] = []
        self.notes: list[Any] = []

    def __deepcopy__(self, memo: object) -> Tally:
        return self

    def forwards(self, name: str) -> int:
        """How often a clip went through the model."""
        return sum(ids.count(name) for ids in self.calls)


class Watched(Model):
    """A model that writes down every call before it passes it on; it can fail at the n-th call."""

    def __init__(self, inner: Model, fail_at: int | None = None):
        super().__init__()
        self.inner = inner
        self.tally = Tally()
        self.fail_at = fail_at

    def forward(self, clip: Clip) -> Tensor:
        self.tally.calls.append(clip.ids)
        self.tally.dtypes.append(clip.video.dtype)
        if self.fail_at is not None and len(self.tally.calls) >= self.fail_at:
            raise RuntimeError("the toy fails on purpose")
        return self.inner(clip)


def weights(shape: tuple[int, ...] = SHAPE, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random weights, none of them close to zero."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (w + 0.1 * w.sign()).to(dtype)


def clips(
    batch: int = 3,
    *,
    shape: tuple[int, ...] = SHAPE,
    low: int = 64,
    high: int = 192,
    seed: int = 2,
    dtype: torch.dtype = torch.float64,
    samples: int | None = None,
) -> Clip:
    """Clips on the 8-bit grid with grey levels in [low, high), far from the box unless asked otherwise."""
    random = torch.Generator().manual_seed(seed)
    video = torch.randint(low, high, (batch, *shape), generator=random).to(dtype) / 255
    if samples is None:
        return Clip(video)
    audio = torch.randint(-16000, 16000, (batch, 1, samples), generator=random).to(dtype) / 32768
    return Clip(video, audio, sample_rate=8000)


def alternating(batch: int) -> Tensor:
    """Labels 0, 1, 0, 1, ...: neighbours in a batch must move in opposite directions."""
    return torch.arange(batch) % 2


def signs(labels: Tensor, like: Tensor) -> Tensor:
    """+1 where the margin of a `TwoClass` model is its value, -1 where it is the negative, shaped to broadcast."""
    return (1.0 - 2.0 * labels.to(like.dtype)).view(-1, *([1] * (like.ndim - 1)))


def problem_for(
    model: Model, clip: Clip, labels: Tensor, threat: ThreatModel, *, targeted: bool = False, precision: Any = "fp32"
) -> Problem:
    """What an attack's loop sees, with the model itself as its gradient twin."""
    attack = PGD(threat, targeted=targeted, precision=precision)
    return replace(attack.problem(model, clip, labels, None, None), gradient_model=model)


def short(thing: object) -> str:
    """A readable test id of an attack, a threat model or a support: its class and what is not at its default."""
    return spec_of(thing).replace(" ", "") if hasattr(thing, "registered_name") else str(thing)
