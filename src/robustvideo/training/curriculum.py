"""Curriculum adversarial training: a budget that rises, or falls, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from robustvideo.attacks import PGD, Attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.threat import Linf
from robustvideo.training.adversarial import UnderAttack
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Stage, Step, trainings

Direction = Literal["up", "down"]


@trainings.register("cat")
@dataclass(frozen=True)
class CurriculumAdversarialTraining(UnderAttack):
    """Adversarial training with a budget that rises from 0 epoch by epoch (CAT; Kinfu and Vidal 2022, 4.2).

    ``min CE(F(x + delta_k), y)`` with ``|delta_k| <= eps_k``; `staircase` gives ``eps_k``. The logged ``eps`` is in
    units of 1/255. The paper changes the budget "at every xi-th iteration" and its released code once per epoch or
    once per batch, by version; here it is every ``every`` epochs. Steps of the attack keep their ratio to the budget;
    the default is the paper's, step = budget (Table 2). On stored clips a Linf budget between two levels acts as the
    lower one.

    Attributes:
        attack: the adversary; its own budget is the largest. Default: PGD in Linf, eps 12/255, 5 steps of the whole
            budget.
        direction: "up" (default), or "down" from the largest budget to 0.
        every: epochs per stair, at least 1. Default 1: a ramp.

    Raises:
        InputError: a targeted attack, an unknown direction, or ``every`` below 1.
    """

    attack: Attack = field(default=PGD(threat=Linf(12 / 255), steps=5, step_size=12 / 255, early_stop=False))
    direction: Direction = "up"
    every: int = 1

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if self.direction not in ("up", "down"):
            raise unknown("direction", self.direction, ("up", "down"))
        if self.every < 1:
            raise InputError(f"A budget holds for at least one epoch, got every={self.every}.")

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        return {"eps": 255 * self._budget(stage.epoch, stage.epochs)}

    def adversarial(self, step: Step) -> Clip:
        eps = self._budget(step.epoch, step.epochs)
        return attacked(self.attack, step.network, step.clip, step.labels, seed=step.seed, eps=eps)

    def _budget(self, epoch: int, epochs: int) -> float:
        return self.attack.threat.parts[0].eps * staircase(epoch, epochs, self.every, self.direction)


def staircase(epoch: int, epochs: int, every: int, direction: Direction) -> float:
    """Share of the largest budget in an epoch: ``floor(epoch / every) / floor((epochs - 1) / every)``, or 1 minus it.

    It goes from 0 to 1 ("up") or from 1 to 0. Where there is one stair only, it is 1 in both directions: training
    on clean clips alone would be no curriculum.

    Args:
        epoch: from 0.
        epochs: how many there are.
        every: epochs per stair.
        direction: "up" or "down".
    """
    stairs = (epochs - 1) // every
    if stairs == 0:
        return 1.0
    climbed = epoch // every
    return (climbed if direction == "up" else stairs - climbed) / stairs
