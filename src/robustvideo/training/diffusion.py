"""Training of video diffusion networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.models.video_diffusion import BehindDenoiser, reflected
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.training.method import Loss, Method, Part, Step, trainings


@trainings.register("diffusion")
@dataclass(frozen=True)
class DiffusionTraining(Method):
    """A video diffusion network learns to predict the noise in clean videos (Ho et al. 2020, eq. 14).

    ``mean (n - e(sqrt(abar_t) z_0 + sqrt(1 - abar_t) n, t))^2``, a timestep and noise for every clip of every batch.
    The network behind it is left as it is: it only tells epochs apart, by its accuracy on clips that were noised and
    denoised once. Bring it trained, as in ``model: embedded:r3d?with=video_diffusion()``.

    Attributes:
        highest: timesteps are drawn below this one. Default 1000: all. Purification starts at timestep 101, so that a
            small network does better to spend itself on the lower ones.

    Raises:
        InputError: a timestep that is none.
    """

    highest: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.highest <= NoiseSchedule().timesteps:
            raise InputError(f"highest= of diffusion is from 1 to 1000, got {self.highest}.")

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        return {"denoiser": Part(_behind_denoiser(network).denoiser.parameters())}

    def losses(self, step: Step) -> Iterator[Loss]:
        denoiser = _behind_denoiser(step.network).denoiser
        random = ClipRandom([seed_for(step.seed, "diffusion", name) for name in step.clip.ids])
        timesteps = random.integers(0, self.highest)[:, 0].to(step.clip.device)
        clean = reflected(2 * step.clip.video - 1, denoiser.factor)
        noise = random.normal(clean)
        levels = torch.tensor(NoiseSchedule().levels()).to(clean)[timesteps][:, None, None, None, None]
        with step.autocast():
            predicted = denoiser(levels.sqrt() * clean + (1 - levels).sqrt() * noise, timesteps).float()
        yield Loss(F.mse_loss(predicted, noise))


def _behind_denoiser(network: Model) -> BehindDenoiser:
    if not isinstance(network, BehindDenoiser):
        raise InputError("The training diffusion needs a diffusion network: add with=video_diffusion() to the model.")
    return network
