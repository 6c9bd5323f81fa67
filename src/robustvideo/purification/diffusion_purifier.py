"""What the purifiers by a diffusion model share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.models.noise_schedule import NoiseSchedule, Step, coarser
from robustvideo.purification.diffusion_loading import load_diffusion
from robustvideo.purification.diffusion_model import Diffusion, Precision
from robustvideo.purification.purifier import Gradient, Purifier
from robustvideo.threat.box import into_box

_FEW = 3
"""Steps of the surrogate that stands in where none is named (Lee and Kim 2023: fewer, larger steps)."""

_WINDOW = 16
"""Frames at once: a network of videos is trained on about as many, and its memory grows with them."""


@dataclass(frozen=True, eq=False)
class Passage:
    """What happened in one purification.

    Attributes:
        candidates: latents (B, c, T, h, w), each to be decoded to one answer.
        states: the states of the way down, below the top; none unless it was recorded.
        references: what the way up was at the same levels; the latents of the clip at the end. Detached. None unless it
            was recorded.
    """

    candidates: tuple[Tensor, ...]
    states: tuple[Tensor, ...] = ()
    references: tuple[Tensor, ...] = ()

    @property
    def deviation(self) -> Tensor:
        """(B,) mean squared difference of states and references: what DiffAttack adds to a loss (Kang et al. 2023)."""
        pairs = zip(self.states, self.references, strict=True)
        return torch.stack([(z - r.detach()).square().flatten(1).mean(1) for z, r in pairs]).mean(0)


@dataclass(frozen=True)
class DiffusionPurifier(Purifier):
    """Base of the purifiers by a diffusion model: noise is put on a clip and taken off again.

    ``exact`` differentiates through every pass of the network. Each step is computed again in the backward pass, so
    that memory holds the activations of one step and a state per step. ``surrogate`` without a ``surrogate=`` is the
    same purifier in 3 larger steps from the same level (Lee and Kim 2023).

    Attributes:
        model: the diffusion model; see `robustvideo.purification.diffusion_loading.load_diffusion`. Default: the one of
            `embedded:kinetic`.
        steps: how many steps of the grid are taken, t*. Default 6, which starts at timestep 101 of 1000.
        grid: how many steps would lead all the way to noise. Default 50.
        substeps: so many of the timesteps, evenly spread, the highest among them. Default: all.
        precision: of the network: fp32 or bf16 (autocast); the states are never below fp32.

    Raises:
        InputError: a number of steps that cannot be.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    model: str = "embedded:kinetic"
    steps: int = 6
    grid: int = 50
    substeps: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.grid:
            raise InputError(f"steps= of {self.registered_name} is from 1 to grid={self.grid}, got {self.steps}.")
        if self.substeps is not None and not 1 <= self.substeps <= self.steps:
            raise InputError(f"substeps= is from 1 to steps={self.steps}, got {self.substeps}.")
        if self.precision not in get_args(Precision):
            raise unknown("precision", self.precision, get_args(Precision))
        super().__post_init__()

    def network(self) -> nn.Module:
        """A ModuleDict with the ``diffusion`` model."""
        return nn.ModuleDict({"diffusion": load_diffusion(self.model, self.precision)})

    @property
    def window(self) -> int | None:
        return _WINDOW

    @property
    def weights(self) -> Hashable:
        return self.model, self.precision

    def sharing(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, nn.ModuleDict), "what network() returned"
        return nn.ModuleDict({"diffusion": network["diffusion"]})

    def stand_in(self) -> Purifier | None:
        if self.gradient != "surrogate" or self.surrogate is not None:
            return self.surrogate
        return self.shortened(min(_FEW, self.substeps or self.steps))

    def shortened(self, count: int) -> DiffusionPurifier:
        """The same purifier in ``count`` steps, with its exact gradient."""
        return replace(self, gradient="exact", substeps=count)

    def taken(self, schedule: NoiseSchedule) -> tuple[Step, ...]:
        """The steps of a purification, from the highest down."""
        steps = schedule.steps(self.grid, self.steps)
        return steps if self.substeps is None else schedule.chain(coarser(steps, self.substeps), steps[-1].lower)

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return self.traced(clip, seeds, network, recorded=False)[0]

    def reconstructed(
        self, clip: Clip, seeds: Sequence[int], network: nn.Module | None
    ) -> tuple[tuple[Clip, ...], Tensor]:
        """What `purify` returns, and the mean deviation (B,) of its passages (`Passage.deviation`)."""
        inside = clip.with_signal("video", into_box(clip.video))
        answers: list[Clip] = []
        deviations = []
        for own in self.seeds_of_votes(seeds):
            found, passage = self.traced(inside, own, network)
            answers += found
            deviations.append(passage.deviation)
        return tuple(answers), torch.stack(deviations).mean(0)

    def traced(
        self, clip: Clip, seeds: Sequence[int], network: nn.Module | None, recorded: bool = True
    ) -> tuple[tuple[Clip, ...], Passage]:
        """One purification of clips in [0, 1], and what happened in it; see `Purifier.purify` and `passage`."""
        network = self.network() if network is None else network
        assert isinstance(network, nn.ModuleDict), "what network() returned"
        diffusion = network["diffusion"]
        assert isinstance(diffusion, Diffusion)
        passage = self.passage(diffusion, clip, seeds, network, recorded)
        videos = (diffusion.decode(latents, clip.video) for latents in passage.candidates)
        return tuple(clip.with_signal("video", video) for video in videos), passage

    @abstractmethod
    def passage(
        self, diffusion: Diffusion, clip: Clip, seeds: Sequence[int], network: nn.ModuleDict, recorded: bool = False
    ) -> Passage:
        """One purification in latents.

        Args:
            diffusion, clip, seeds, network: see `Purifier.purify`.
            recorded: keep the states and references of every step, which only `reconstructed` looks at. Without a
                gradient nothing else grows with the number of steps.
        """
