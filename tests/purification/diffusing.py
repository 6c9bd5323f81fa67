"""Diffusion models whose every step is known on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.purification.diffusion_model import Codec, Diffusion, Pixels

SCHEDULE = NoiseSchedule()


class Known(nn.Module):
    """A network that is a function of the state and its timestep, a number."""

    def __init__(self, function: Callable[[Tensor, int], Tensor]):
        super().__init__()
        self.function = function
        self.asked: list[int] = []

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.shape == (len(state),)
        self.asked.append(int(timesteps[0]))
        return self.function(state, int(timesteps[0]))


class Tiny(nn.Module):
    """One 3 x 3 x 3 convolution, tanh, and a bias that follows the timestep; float64."""

    def __init__(self, channels: int = 3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv = nn.Conv3d(channels, channels, 3, padding=1).double()

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        bias = (timesteps.to(state.dtype) / 300)[:, None, None, None, None]
        return torch.tanh(2 * self.conv(state) + bias)


class SpaceToDepth(nn.Module):
    """Squares of 8 x 8 pixels in 192 channels, times a scale: a codec that loses nothing."""

    factor = 8

    def encode(self, pixels: Tensor) -> Tensor:
        return 0.2 * _each(lambda frames: F.pixel_unshuffle(frames, 8), pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return _each(lambda frames: F.pixel_shuffle(frames, 8), latents) / 0.2


def _each(function: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    frames = function(video.transpose(1, 2).flatten(0, 1))
    return frames.view(len(video), video.shape[2], *frames.shape[1:]).transpose(1, 2)


def known(function: Callable[[Tensor, int], Tensor], codec: Codec | None = None) -> nn.ModuleDict:
    """The networks of a purifier whose noise is a function."""
    return networks(Known(function), codec)


def networks(network: nn.Module, codec: Codec | None = None) -> nn.ModuleDict:
    """The networks of a purifier around one that predicts noise."""
    return nn.ModuleDict({"diffusion": Diffusion(network, codec or Pixels(1))})


def a_video(batch: int = 2, frames: int = 4, height: int = 16, width: int = 16, seed: int = 0) -> Clip:
    """Random videos in float64, away from the bounds."""
    random = torch.Generator().manual_seed(seed)
    return Clip(0.3 + 0.4 * torch.rand(batch, 3, frames, height, width, generator=random, dtype=torch.float64))


def latents(batch: int = 2, frames: int = 4, **others: Any) -> Tensor:
    """Random latents, float64."""
    return 2 * a_video(batch, frames, **others).video - 1


def nothing(state: Tensor, t: int) -> Tensor:
    """No noise is found anywhere."""
    return torch.zeros_like(state)


def rugged(state: Tensor, t: int) -> Tensor:
    """Something nonlinear in which every frame depends on every other."""
    return torch.sin(3 * state + t) + state.mean(2, keepdim=True) ** 2
