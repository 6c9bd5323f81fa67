"""A small video diffusion network in pixel space, and a classifier behind one pass of it.

The network predicts the noise in a video at any timestep of the default `robustvideo.models.noise_schedule`. Trained by
``diffusion`` (`robustvideo.training`), it is what the purifiers of `robustvideo.purification` take as their ``model=``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.checkpoint import load_state, read_state
from robustvideo.models.front import Front
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.randomness import ClipRandom, seed_for

_GROUPS = 4
_TIME = 64  # features of a timestep
_PREFIX = "denoiser."
_EMBEDDED = ("kinetic",)
"""Names after ``embedded:``: files of ``weights/diffusion``. (Those of ``weights`` itself are classifiers.)"""


class Block(nn.Module):
    """``x + conv(scale norm(conv(norm(x))) + shift)``; SiLU, then a convolution over the plane, then one over time.

    The timestep scales and shifts every channel: how loud the noise is decides by how much it must be amplified.
    """

    def __init__(self, channels: int, span: int):
        super().__init__()
        self.time = nn.Linear(_TIME, 2 * channels)
        self.first, self.second = _convolution(channels, span), _convolution(channels, span)
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, channels) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None, None].chunk(2, dim=1)
        inner = self.norms[1](self.first(self.norms[0](x)))
        return x + self.second((1 + scale) * inner + shift)  # type: ignore[no-any-return]


class VideoDenoiser(nn.Module):
    """Predicts the noise: (B, 3, T, H, W) in about [-1, 1], and (B,) timesteps -> the same shape.

    A U-Net of three resolutions, each half the side of the one before, starting at half the video's; the number of
    frames stays. Any T; H and W are multiples of `factor`. Normalisation is within a clip, so that no clip depends on
    its batch.

    Args:
        width: channels at the first resolution, a multiple of 4; the others have two and three times as many.
        framewise: every frame is a video of its own: a diffusion model of images.
    """

    factor: ClassVar[int] = 8

    def __init__(self, width: int = 32, framewise: bool = False):
        super().__init__()
        channels = [width, 2 * width, 3 * width]
        span = 1 if framewise else 3
        self.width = width
        self.framewise = framewise
        self.embed = nn.Sequential(nn.Linear(_TIME, _TIME), nn.SiLU(), nn.Linear(_TIME, _TIME), nn.SiLU())
        self.enter = nn.Conv3d(12, width, (1, 3, 3), padding=(0, 1, 1))
        self.down = nn.ModuleList(Block(c, span) for c in channels)
        self.smaller = nn.ModuleList(nn.Conv3d(a, b, (1, 2, 2), (1, 2, 2)) for a, b in pairwise(channels))
        self.middle = Block(channels[-1], span)
        self.larger = nn.ModuleList(nn.ConvTranspose3d(b, a, (1, 2, 2), (1, 2, 2)) for a, b in pairwise(channels))
        self.up = nn.ModuleList(Block(c, span) for c in channels[:-1])
        self.leave = nn.Sequential(
            nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv3d(width, 12, (1, 3, 3), 1, (0, 1, 1))
        )
        self.to(memory_format=torch.channels_last_3d)  # a purification in bf16 takes two thirds of the time on a CPU

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        if not self.framewise:
            return self._predicted(state, timesteps)
        frames = state.transpose(1, 2).flatten(0, 1)[:, :, None]
        noise = self._predicted(frames, timesteps.repeat_interleave(state.shape[2]))
        return noise.view(len(state), -1, *state.shape[1:2], *state.shape[3:]).transpose(1, 2)

    def _predicted(self, state: Tensor, timesteps: Tensor) -> Tensor:
        time = self.embed(_waves(timesteps).to(state.dtype))
        x = self.enter(_framewise(F.pixel_unshuffle, state))
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(x, time)
            if number < len(self.smaller):
                kept.append(x)
                x = self.smaller[number](x)
        x = self.middle(x, time)
        for number in reversed(range(len(self.up))):
            x = self.up[number](self.larger[number](x) + kept[number], time)
        return _framewise(F.pixel_shuffle, self.leave(x))


class BehindDenoiser(Front):
    """A model that sees what one pass of a denoiser makes of a noised video; it is `robustvideo.model.Purified`.

    The video is diffused to one timestep, with noise that is the clip's own (a function of its id), and the clean video
    that the network predicts from there is classified: one-shot denoising (Carlini et al. 2023). It lets the ordinary
    trainer choose the epoch in which the diffusion model serves a classifier best; the purifiers use the denoiser
    alone.

    Args:
        denoiser: the diffusion network.
        undefended: the model behind it.
        timestep: how noisy the video is made.
    """

    def __init__(self, denoiser: VideoDenoiser, undefended: Model, timestep: int):
        super().__init__(undefended)
        self.denoiser = denoiser
        self.timestep = timestep
        self.level = NoiseSchedule().levels()[timestep]

    def purify(self, clip: Clip) -> Clip:
        clean = 2 * clip.video - 1
        noise = ClipRandom([seed_for("denoiser", name) for name in clip.ids]).normal(clean)
        signal, share = math.sqrt(self.level), math.sqrt(1 - self.level)
        state = signal * clean + share * noise
        padded, (height, width) = reflected(state, self.denoiser.factor), state.shape[3:]
        timesteps = torch.full((len(state),), self.timestep, device=state.device)
        weight = self.denoiser.enter.weight
        predicted = self.denoiser(padded.to(weight.dtype), timesteps)[..., :height, :width].to(state.dtype)
        video = (state - share * predicted) / signal
        return replace(clip, video=(video / 2 + 0.5).clamp(0, 1))


@alterations.register("video_diffusion")
@dataclass(frozen=True)
class VideoDiffusion(Alteration):
    """A video diffusion network in front of the network: noise, and one pass that takes it out (Carlini et al. 2023).

    Untrained, it destroys its input: train it with ``diffusion``. What it learns does not depend on the network, which
    only tells epochs apart.

    Attributes:
        width: channels at the denoiser's first resolution, a multiple of 4. Default 32: 0.8 million weights.
        timestep: at which epochs are told apart, of 1000. Default 301, twice as noisy as purification starts, so that
            accuracies do not all come to the clean one.
        framewise: a diffusion model of images instead, which sees every frame alone.
        start: a trained denoiser to go on from (`load_denoiser`), which decides what it is. Default: none.

    Raises:
        InputError: a width or a timestep that cannot be, or a denoiser that is not there.
    """

    width: int = 32
    timestep: int = 301
    framewise: bool = False
    start: str | None = None

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % _GROUPS:
            raise InputError(f"width= of video_diffusion is a multiple of 4, got {self.width}.")
        if not 0 <= self.timestep < NoiseSchedule().timesteps:
            raise InputError(f"timestep= of video_diffusion is from 0 to 999, got {self.timestep}.")

    def apply(self, model: Model) -> Model:
        denoiser = (
            VideoDenoiser(self.width, self.framewise) if self.start is None else load_denoiser(self.start).train()
        )
        return BehindDenoiser(denoiser, model, self.timestep)


def load_denoiser(name: str) -> VideoDenoiser:
    """A trained denoiser, in evaluation mode: ``embedded:kinetic``, or a file that ``robustvideo train`` wrote.

    Args:
        name: the file may stand behind ``trained:``.

    Raises:
        InputError: an unknown name, no such file, or one that holds no denoiser.
    """
    if not name.startswith("embedded:"):
        return _read(Path(name.removeprefix("trained:")).expanduser(), name)
    own = name.removeprefix("embedded:")
    if own not in _EMBEDDED:
        raise unknown("embedded diffusion model", own, _EMBEDDED)
    with as_file(files("robustvideo") / "models" / "weights" / "diffusion" / f"{own}.safetensors") as path:
        return _read(path, name)


def _read(path: Path, name: str) -> VideoDenoiser:
    state = read_state(path)
    own = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}
    if not own:
        raise InputError(f"{name} holds no diffusion model: train a network with=video_diffusion() by diffusion.")
    with torch.random.fork_rng([]):  # the weights that are drawn here are replaced at once
        framewise = own["middle.first.2.weight"].shape[2] == 1
        denoiser = VideoDenoiser(width=len(own["enter.weight"]), framewise=framewise)
    load_state(denoiser, own, name)
    return denoiser.eval()


def reflected(video: Tensor, multiple: int) -> Tensor:
    """A video whose height and width are multiples, by mirroring it at its lower and right edge."""
    for axis in (3, 4):
        length = video.shape[axis]
        if length % multiple:
            places = torch.arange(length + -length % multiple, device=video.device) % max(2 * (length - 1), 1)
            video = video.index_select(axis, torch.minimum(places, (2 * (length - 1) - places).abs()))
    return video


def _framewise(shuffle: Callable[[Tensor, int], Tensor], video: Tensor) -> Tensor:
    """Every frame's pixels in channels, a square of two by two in four, or back."""
    frames = shuffle(video.transpose(1, 2).flatten(0, 1), 2)
    return frames.view(len(video), video.shape[2], *frames.shape[1:]).transpose(1, 2)


def _convolution(channels: int, span: int) -> nn.Sequential:
    return nn.Sequential(
        nn.SiLU(),
        nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)),
        nn.Conv3d(channels, channels, (span, 1, 1), padding=(span // 2, 0, 0)),
    )


def _waves(timesteps: Tensor) -> Tensor:
    """(B, 64) sines and cosines of the timesteps, at frequencies from 1 to 1/10000 (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10000) * torch.arange(_TIME // 2, device=timesteps.device) / (_TIME // 2))
    angles = timesteps[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
