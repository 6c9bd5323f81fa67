"""DiffPure: noise is drawn onto a clip, and a diffusion model takes it off."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.models.noise_schedule import Step
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_purifier import DiffusionPurifier, Passage
from robustvideo.purification.diffusion_steps import moved, noised, posterior, predicted_clean
from robustvideo.purification.purifier import defenses
from robustvideo.purification.recomputation import recomputed
from robustvideo.randomness import ClipRandom, seed_for


@dataclass(frozen=True)
class DiffPure(DiffusionPurifier):
    """Base: diffuse to the highest timestep with fresh noise, every frame its own; then step down."""

    @property
    def random(self) -> bool:
        return True

    def passage(
        self, diffusion: Diffusion, clip: Clip, seeds: Sequence[int], network: nn.ModuleDict, recorded: bool = False
    ) -> Passage:
        source = diffusion.encode(clip.video)
        steps = self.taken(diffusion.schedule)
        drawn = _drawn(source, seeds, "start")
        state = noised(source, drawn, steps[0].upper)
        states, references = [], []
        for step in steps:
            state = recomputed(self.denoised, diffusion, state, step, tuple(seeds))
            if recorded:
                states.append(state)
                references.append(noised(source.detach(), drawn, step.lower))
        return Passage((state,), tuple(states), tuple(references))

    @abstractmethod
    def denoised(self, diffusion: Diffusion, state: Tensor, step: Step, seeds: Sequence[int]) -> Tensor:
        """The state one level below."""


@defenses.register("diffpure_ddim")
@dataclass(frozen=True)
class DiffPureDDIM(DiffPure):
    """DiffPure with DDIM: fresh noise to a timestep, then a few steps down that draw nothing (Nie et al. 2022).

    In the latents of a video diffusion model as VideoPure compares it: timestep 101, 6 steps.

    Attributes:
        model, steps, grid, substeps, precision: see the base.
    """

    def denoised(self, diffusion: Diffusion, state: Tensor, step: Step, seeds: Sequence[int]) -> Tensor:
        return moved(state, diffusion.noise(state, step), step.upper, step.lower)


@defenses.register("diffpure_ddpm")
@dataclass(frozen=True)
class DiffPureDDPM(DiffPure):
    """DiffPure with DDPM: fresh noise to a timestep, then every timestep down, each with noise (Nie et al. 2022).

    In the latents of a video diffusion model as VideoPure compares it: timesteps 101, 100, ..., 1, the "fixed small"
    posterior variance, noise at the last step as well, where a model's schedule does not end at 1.

    Attributes:
        model, substeps, precision: see the base.
        steps: Default 101.
        grid: Default 1000.
    """

    steps: int = 101
    grid: int = 1000

    def denoised(self, diffusion: Diffusion, state: Tensor, step: Step, seeds: Sequence[int]) -> Tensor:
        clean = predicted_clean(state, diffusion.noise(state, step), step.upper)
        mean, variance = posterior(state, clean, step)
        return mean + sqrt(variance) * _drawn(state, seeds, step.t)


def _drawn(like: Tensor, seeds: Sequence[int], what: object) -> Tensor:
    """Noise that is a function of the seeds, so that a step computed again draws the same."""
    return ClipRandom([seed_for(seed, "noise", what) for seed in seeds]).normal(like)
