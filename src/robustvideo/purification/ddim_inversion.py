"""DDIM inversion: the noise that is put on a clip is what the diffusion model finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.models.noise_schedule import Step
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_purifier import DiffusionPurifier, Passage
from robustvideo.purification.diffusion_steps import moved, of_one_frame
from robustvideo.purification.purifier import defenses
from robustvideo.purification.recomputation import recomputed


@defenses.register("ddim_inversion")
@dataclass(frozen=True)
class DDIMInversion(DiffusionPurifier):
    """DDIM inversion and back: no random draw; what comes back is close to what went in (VideoPure's baseline).

    Eq. 10 of VideoPure up, eq. 8 down; the noise on the way up is asked for at the timestep that a step leads to.

    Attributes:
        model, steps, grid, substeps, precision: see the base.
    """

    def passage(
        self, diffusion: Diffusion, clip: Clip, seeds: Sequence[int], network: nn.ModuleDict, recorded: bool = False
    ) -> Passage:
        source = diffusion.encode(clip.video)
        steps = self.taken(diffusion.schedule)
        way = inverted(diffusion, source, steps, recorded=recorded)
        state, states = way[-1], []
        for step in steps:
            state = recomputed(denoised, diffusion, state, step)
            if recorded:
                states.append(state)
        return Passage((state,), tuple(states), tuple(way[-2::-1]))


def inverted(
    diffusion: Diffusion, source: Tensor, steps: Sequence[Step], frame: int | None = None, recorded: bool = True
) -> list[Tensor]:
    """The states of the way up, the latents of the clip first.

    Args:
        diffusion: the model.
        source: (B, c, T, h, w) latents of the clip, taken for a state at the level below the lowest step.
        steps: from the highest down.
        frame: whose noise all frames get (temporal DDIM inversion, eq. 11). Default: each its own.
        recorded: False returns the top alone, and holds no other.
    """

    def risen(state: Tensor, step: Step) -> Tensor:
        noise = diffusion.noise(state, step, step.lower)
        return moved(state, noise if frame is None else of_one_frame(noise, frame), step.lower, step.upper)

    way = [source]
    for step in reversed(steps):
        state = recomputed(risen, way[-1], step)
        way = [*way, state] if recorded else [state]
    return way


def denoised(diffusion: Diffusion, state: Tensor, step: Step) -> Tensor:
    """One DDIM step down."""
    return moved(state, diffusion.noise(state, step), step.upper, step.lower)
