"""Toy purifiers whose effect on a gradient is known on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from robustvideo.clip import Clip
from robustvideo.models.generator import Generator
from robustvideo.models.video_diffusion import VideoDenoiser
from robustvideo.purification import Purifier
from robustvideo.purification.purifier import Gradient
from robustvideo.randomness import ClipRandom


@dataclass(frozen=True)
class Toy(Purifier):
    registered_name: ClassVar[str] = "toy"
    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"


@dataclass(frozen=True)
class Identity(Toy):
    copies: int = 1

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip,) * self.copies


@dataclass(frozen=True)
class Grey(Toy):
    """Whatever it is given, the same picture: its exact gradient is 0."""

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip.with_signal("video", 0 * clip.video + 0.4),)


@dataclass(frozen=True)
class Scaled(Toy):
    """``a x + c``."""

    a: float = 1.0
    c: float = 0.0

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip.with_signal("video", self.a * clip.video + self.c),)


@dataclass(frozen=True)
class Jitter(Toy):
    """``x + sigma n`` with n drawn for each purification."""

    sigma: float = 0.1

    @property
    def random(self) -> bool:
        return True

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        noise = ClipRandom(seeds).normal(clip.video)
        return (clip.with_signal("video", clip.video + self.sigma * noise),)


@dataclass(frozen=True)
class TwoViews(Toy):
    """Two votes: the clip, and its negative."""

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip, clip.with_signal("video", 1 - clip.video))


@dataclass(frozen=True)
class Sudden(Toy):
    """As long as a window allows: frames come out as their distance from the window's first."""

    frames: int = 4

    @property
    def window(self) -> int:
        return self.frames

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        assert clip.frames <= self.frames
        place = torch.arange(clip.frames, dtype=clip.video.dtype) / self.frames
        return (clip.with_signal("video", 0 * clip.video + place[:, None, None]),)


@cache
def generator_file(folder: Path) -> str:
    """The weights of a small generator, as a trained model's file holds them."""
    path = folder / "model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(2)
    state = {f"generator.{name}": tensor for name, tensor in generator.state_dict().items()}
    save_file({**state, "undefended.weight": torch.zeros(3)}, str(path))
    return str(path)


@cache
def denoiser_file(folder: Path) -> str:
    """The weights of a small diffusion network, as a trained model's file holds them."""
    path = folder / "denoiser.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = VideoDenoiser(4)
    state = {f"denoiser.{name}": tensor.contiguous() for name, tensor in denoiser.state_dict().items()}
    save_file({**state, "undefended.weight": torch.zeros(3)}, str(path))
    return str(path)
