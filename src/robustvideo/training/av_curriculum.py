"""Adversarial curriculum training with efficient crafting (AV section 5.3, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from robustvideo.attacks.segments import SegmentTMA
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.training.adversarial import UnderAttack
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Stage, Step, trainings

Schedule = Literal["full", "constant", "linear", "cosine"]


@trainings.register("av_curriculum")
@dataclass(frozen=True)
class AudioVisualCurriculum(UnderAttack):
    """Adversarial curriculum: the share of a clip that is attacked and the dropout of the fusion layer rise in cycles.

    Zhang et al. 2025, section 5.3. Perturbations are crafted by `SegmentTMA` on a share p_r of the time steps, with a
    share p_d of the fusion layer's neurons dropped, both from `ratio`; the update itself drops nothing. The number of
    steps rises with them. When a cycle ends, all begins anew. The paper says "masked" in one place and "sampled" in
    another: only if p_r is the share that is *sampled* is a low one the easy phase that it is said to be.

    The schedules of appendix B: ``schedule=full`` ("none" there) crafts on all steps and drops nothing;
    ``schedule=constant`` with ``high=0.05``, 0.2 or 0.3 is "D*M"; with ``on_model=false`` "D", with ``on_data=false``
    "M". (A clip of few frames has no step for every share: 20 have.)

    Attributes:
        attack: the crafting; the schedule replaces its ``ratio``, ``dropout`` and ``steps``. Default: 10 steps, 8/255
            of the pixels and 0.012 of the waveform, one copy per step (several are for transfer).
        schedule: "full", "constant" (at ``high``), "linear" or "cosine". Default "cosine".
        low, high: share at the start and at the end of a cycle. Default 0.05 and 0.20, the paper's.
        on_data: let the schedule set p_r; else all steps are sampled.
        on_model: let the schedule set p_d; else nothing is dropped.
        cycles: how many cycles a training has. Default 5, our decision.
        least_steps: gradient steps at the start of a cycle; at its end there are those of the attack. Default 2.

    Raises:
        InputError: a targeted attack, an unknown schedule, shares out of order, or a number below 1.
    """

    attack: SegmentTMA = field(default=SegmentTMA(copies=1, early_stop=False))
    schedule: Schedule = "cosine"
    low: float = 0.05
    high: float = 0.20
    on_data: bool = True
    on_model: bool = True
    cycles: int = 5
    least_steps: int = 2

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if self.schedule not in get_args(Schedule):
            raise unknown("schedule", self.schedule, get_args(Schedule))
        if not 0 < self.low <= self.high < 1:
            raise InputError(f"Shares are 0 < low <= high < 1, got low={self.low:g} and high={self.high:g}.")
        if self.cycles < 1 or not 1 <= self.least_steps <= self.attack.steps:
            raise InputError("A curriculum has at least one cycle, and between 1 and the attack's steps to begin with.")

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        crafting = self.crafting(stage.epoch / stage.epochs)
        return {"sampled": crafting.ratio, "dropped": crafting.dropout, "steps": float(crafting.steps)}

    def adversarial(self, step: Step) -> Clip:
        return attacked(self.crafting(step.progress), step.network, step.clip, step.labels, seed=step.seed)

    def crafting(self, progress: float) -> SegmentTMA:
        """The adversary when a share of the training is done."""
        if self.schedule == "full":
            return replace(self.attack, ratio=1.0, dropout=0.0)
        place = math.fmod(progress * self.cycles, 1.0)
        share = ratio(self.schedule, place, self.low, self.high)
        most = self.attack.steps
        return replace(
            self.attack,
            ratio=share if self.on_data else 1.0,
            dropout=share if self.on_model else 0.0,
            steps=most if self.schedule == "constant" else round(self.least_steps + (most - self.least_steps) * place),
        )


def ratio(schedule: Schedule, place: float, low: float, high: float) -> float:
    """p_r and p_d at a place in [0, 1] of a cycle.

    ``low + (high - low) u`` (linear), ``low + (high - low) (1 - cos(pi u)) / 2`` (cosine), ``high`` (constant).
    """
    if schedule == "linear":
        return low + (high - low) * place
    if schedule == "cosine":
        return low + (high - low) * (1 - math.cos(math.pi * place)) / 2
    return high
