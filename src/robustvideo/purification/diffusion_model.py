"""`Diffusion`: what a purifier needs of a diffusion model, be it of videos or images, of pixels or latents."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from robustvideo.models.noise_schedule import NoiseSchedule, Step
from robustvideo.models.video_diffusion import reflected
from robustvideo.purification.diffusion_steps import as_noise
from robustvideo.purification.recomputation import recomputed
from robustvideo.threat.box import into_box

Precision = Literal["fp32", "bf16"]

_CHUNK = 16  # frames that an autoencoder of images takes at once; it changes nothing but the memory


class Codec(Protocol):
    """Between pixels and the space that a diffusion model works in.

    Attributes:
        factor: what height and width of the pixels must be multiples of.
    """

    factor: int

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, c, T, h, w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, c, T, h, w) -> (B, 3, T, H, W) in about [-1, 1]."""


class Pixels(nn.Module):
    """The codec of a diffusion model of pixels: nothing is to be done.

    Args:
        factor: see `Codec`.
    """

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class FrameAutoencoder(nn.Module):
    """The codec of a latent diffusion model: an autoencoder of images, frame by frame.

    A latent is the mean of the posterior, not a draw, times the autoencoder's ``scaling_factor``.

    Args:
        autoencoder: an AutoencoderKL of diffusers.
    """

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder
        self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.scale = float(autoencoder.config.scaling_factor)

    def encode(self, pixels: Tensor) -> Tensor:
        return self._each(lambda frames: self.autoencoder.encode(frames).latent_dist.mean * self.scale, pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return self._each(lambda frames: self.autoencoder.decode(frames / self.scale).sample, latents)

    def _each(self, function: Any, video: Tensor) -> Tensor:
        frames = video.transpose(1, 2).flatten(0, 1).to(dtype_of(self, video.dtype))
        each: Tensor = torch.cat([recomputed(function, part) for part in torch.split(frames, _CHUNK)]).to(video.dtype)
        return each.view(len(video), video.shape[2], *each.shape[1:]).transpose(1, 2)


class CallCounter:
    """How often a diffusion model's network ran. A copy of the model counts into the same one.

    Attributes:
        batches: forward passes of a batch so far; those that a backward pass runs again are counted again.
        clips: the same, each pass as often as there are clips in its batch.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.clips = 0

    def __deepcopy__(self, memo: object) -> CallCounter:
        return self


class Diffusion(nn.Module):
    """A diffusion model of videos: a network, the space it works in, and the noise levels it was trained on.

    States keep the type of the clip, whatever the network's is.

    Args:
        network: states (B, c, T, h, w) and timesteps (B,) -> what the schedule's ``prediction`` says, the same shape.
        codec: between pixels and states; a module.
        schedule: see `NoiseSchedule`.
        precision: bf16 runs network and codec under autocast; states and all arithmetic between them are not.

    Attributes:
        calls: counts passes of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        codec: Pixels | FrameAutoencoder | Codec,
        schedule: NoiseSchedule | None = None,
        precision: Precision = "fp32",
    ):
        super().__init__()
        self.network = network
        self.codec = codec
        self.schedule = schedule or NoiseSchedule()
        self.precision = precision
        self.calls = CallCounter()

    def encode(self, video: Tensor) -> Tensor:
        """The latents of a video (B, 3, T, H, W) in [0, 1], mirrored at its edge to a size that the codec takes."""
        pixels = 2 * reflected(video, self.codec.factor) - 1
        with self._autocast(video):
            return recomputed(self.codec.encode, pixels).to(video.dtype)

    def decode(self, latents: Tensor, like: Tensor) -> Tensor:
        """The video in [0, 1] of latents, cropped to the size of ``like``."""
        with self._autocast(latents):
            pixels = recomputed(self.codec.decode, latents)
        height, width = like.shape[3:]
        return into_box(pixels[..., :height, :width].to(like.dtype) / 2 + 0.5)

    def noise(self, state: Tensor, step: Step, level: float | None = None) -> Tensor:
        """The noise that the network finds in a state, asked at a step's timestep.

        Args:
            state: (B, c, T, h, w).
            step: whose timestep the network is told.
            level: abar of the state. Default: that of the timestep.
        """
        self.calls.batches += 1
        self.calls.clips += len(state)
        timesteps = torch.full((len(state),), step.t, device=state.device)
        with self._autocast(state):
            output = self.network(state.to(dtype_of(self.network, state.dtype)), timesteps).to(state.dtype)
        return as_noise(output, state, step.upper if level is None else level, self.schedule.prediction)

    def _autocast(self, like: Tensor) -> torch.autocast:
        """Precision of the network; an autocast around it stays what it is where this model asks for none."""
        kind = like.device.type
        if self.precision == "bf16":
            return torch.autocast(kind, torch.bfloat16)
        return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


def dtype_of(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """The type of a module's weights; the default where it has none."""
    weight = next(module.parameters(), None)
    return default if weight is None else weight.dtype
