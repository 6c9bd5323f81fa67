"""Noise schedules of diffusion models: how much of a signal is left at each timestep, and which steps are taken.

``abar_t`` is the share of the signal's variance at timestep t: ``z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) n``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from robustvideo.errors import InputError, unknown

Kind = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class Step:
    """One step between a timestep and the level below it. All of it: nobody derives an index again.

    Attributes:
        t: the timestep.
        upper: abar at t.
        lower: abar at the level below.
    """

    t: int
    upper: float
    lower: float

    @property
    def log_variance(self) -> float:
        """Log of the posterior variance ``(1 - abar_p) / (1 - abar_t) * (1 - abar_t / abar_p)``; below 0.

        At the lowest timestep it may be 0: above a level that is free of noise, and at timestep 0 of a schedule that
        ends at abar_0 itself (diffusers' ``steps_offset=0, set_alpha_to_one=False``). In both it is the log of
        ``1 - abar_t``: DDPM's upper bound for a step to no noise at all, and so the same whichever way a schedule ends.
        (diffusers' DDPM clips the variance to 1e-20, whose log would be six times that of any other step.)
        """
        if self.lower == 1 or self.lower <= self.upper:
            return math.log(1 - self.upper)
        return math.log((1 - self.lower) / (1 - self.upper) * (1 - self.upper / self.lower))


@dataclass(frozen=True)
class NoiseSchedule:
    """The levels that a diffusion model was trained on. The defaults are those of ModelScope's text-to-video model.

    Attributes:
        kind: how beta grows, as diffusers names it.
        start, end: its first and last value; the cosine has none.
        timesteps: how many there are.
        offset: what is added to the timesteps of a coarser grid.
        final_is_one: whether the level below the lowest timestep of a grid is free of noise; else it is abar_0. A grid
            of every timestep whose offset leaves out timestep 0 ends at that one's level instead, as in diffusers.
        prediction: what the network predicts.
        betas: betas of one's own instead.

    Raises:
        InputError: an unknown kind or prediction.
    """

    kind: Kind = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    timesteps: int = 1000
    offset: int = 1
    final_is_one: bool = False
    prediction: Prediction = "epsilon"
    betas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("noise schedule", self.kind, get_args(Kind))
        if self.prediction not in get_args(Prediction):
            raise unknown("prediction of a diffusion model", self.prediction, get_args(Prediction))

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule that a scheduler of diffusers is configured for.

        Raises:
            InputError: a schedule that is not one of discrete levels with a noisy last one.
        """
        if config.get("rescale_betas_zero_snr"):
            raise InputError("A schedule whose last level holds no signal (rescale_betas_zero_snr) is not supported.")
        if "num_train_timesteps" not in config or ("beta_schedule" not in config and not config.get("trained_betas")):
            raise InputError("The scheduler beside this diffusion model is of another kind: it needs discrete betas.")
        return NoiseSchedule(
            kind=config.get("beta_schedule", "linear"),
            start=config.get("beta_start", 0.0001),
            end=config.get("beta_end", 0.02),
            timesteps=config["num_train_timesteps"],
            offset=config.get("steps_offset", 0),
            final_is_one=config.get("set_alpha_to_one", True),
            prediction=config.get("prediction_type", "epsilon"),
            betas=tuple(config.get("trained_betas") or ()),
        )

    def levels(self) -> list[float]:
        """abar of every timestep, computed in float64."""
        return torch.cumprod(1 - self._betas(), 0).tolist()

    def steps(self, grid: int, count: int) -> tuple[Step, ...]:
        """The lowest ``count`` steps of a grid, from the highest down; "leading" spacing.

        A grid of 50 over 1000 timesteps with offset 1 is 1, 21, ..., 981: its 6 lowest steps start at 101.

        Raises:
            InputError: more steps than the grid has.
        """
        stride = self.timesteps // grid if 1 <= grid <= self.timesteps else 0
        if not stride or not 1 <= count <= grid or (count - 1) * stride + self.offset >= self.timesteps:
            raise InputError(
                f"A diffusion model of {self.timesteps} timesteps has a grid of 1 to {self.timesteps}, of which some "
                f"are taken from the lowest up: got {count} of {grid}."
            )
        below = self.offset - stride  # 0 where a grid of every timestep starts at 1
        end = self.levels()[below] if below >= 0 else 1.0 if self.final_is_one else self.levels()[0]
        return self.chain([i * stride + self.offset for i in range(count)], end)

    def chain(self, timesteps: Sequence[int], end: float) -> tuple[Step, ...]:
        """Steps between timesteps that are given from the lowest up; from the highest down, to the level ``end``."""
        levels = self.levels()
        lower = [end, *(levels[t] for t in timesteps[:-1])]
        return tuple(Step(t, levels[t], below) for t, below in zip(timesteps, lower, strict=True))[::-1]

    def _betas(self) -> torch.Tensor:
        if self.betas:
            return torch.tensor(self.betas, dtype=torch.float64)
        if self.kind == "scaled_linear":
            return torch.linspace(self.start**0.5, self.end**0.5, self.timesteps, dtype=torch.float64) ** 2
        if self.kind == "linear":
            return torch.linspace(self.start, self.end, self.timesteps, dtype=torch.float64)
        edges = torch.arange(self.timesteps + 1, dtype=torch.float64) / self.timesteps
        left = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - left[1:] / left[:-1]).clamp_max(0.999)


def coarser(steps: Sequence[Step], count: int) -> list[int]:
    """``count`` of the steps' timesteps from the lowest up, evenly spread; the highest is always one of them.

    Raises:
        InputError: fewer than 1 or more than there are.
    """
    if not 1 <= count <= len(steps):
        raise InputError(f"Of {len(steps)} steps, 1 to {len(steps)} can be taken, got {count}.")
    places = torch.linspace(0, len(steps) - 1, count, dtype=torch.float64).round().long().tolist()
    return [steps[i].t for i in places][::-1]
