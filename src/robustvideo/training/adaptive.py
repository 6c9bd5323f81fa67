"""Adaptive adversarial training: budgets, or kinds of attack, drawn as often as they still hurt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from robustvideo.attacks import PGD, Attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import at_rest, classify
from robustvideo.randomness import seed_for
from robustvideo.threat import Linf
from robustvideo.training.adversarial import UnderAttack
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Stage, Step, trainings

_FLOOR = 1e-8  # keeps a choice with no loss at all possible


@trainings.register("aat")
@dataclass(frozen=True)
class AdaptiveAdversarialTraining(UnderAttack):
    """Adversarial training with budgets drawn by how much they still hurt (AAT; Kinfu and Vidal 2022, 4.1).

    Every batch draws a budget ``eps_i ~ P`` and trains on ``CE(F(x + delta), y)``. P starts uniform (the paper
    leaves that open) and is measured anew every ``min(every, epochs // budgets)`` epochs, at least 1 (Algorithm 1)::

        P(eps_i) = sum_n CE(F(x_n + delta_n^i), y_n) / sum_j sum_n CE(F(x_n + delta_n^j), y_n)        (eq. 8)

    The sums run over the same ``probe_clips`` training clips each time, with the network in evaluation mode; the
    paper sums over all of them. The same formula draws among kinds of attack. ``p_0, p_1, ...`` are logged.

    Attributes:
        attack: the adversary. Its steps keep their ratio to the budget; its own budget is only the unit of its step
            size. Default: PGD in Linf, 5 steps of the whole budget, as in the paper (Table 2).
        budgets: what to draw from, in the unit of the attack's budget; 0 is the clean clip. Default 0, 2, ...,
            12/255 (paper 5.1).
        attacks: kinds of attack to draw from instead, each at its own budget (paper 5.3). Default: none.
        every: epochs between measurements, xi in the paper. Default 10 (paper 5.1).
        probe_clips: clips that P is measured on. Default 512.
        adaptive: false keeps P uniform, the paper's naive variant.

    Raises:
        InputError: nothing to draw from, a negative budget, a targeted attack, or a number below 1.
    """

    attack: Attack = field(default=PGD(threat=Linf(12 / 255), steps=5, step_size=12 / 255, early_stop=False))
    budgets: tuple[float, ...] = tuple(level / 255 for level in range(0, 13, 2))
    attacks: tuple[Attack, ...] = ()
    every: int = 10
    probe_clips: int = 512
    adaptive: bool = True

    def __post_init__(self) -> None:
        require_untargeted(self.attack, *self.attacks)
        if not self.choices:
            raise InputError("There is nothing to draw from: give budgets, or attacks.")
        if not all(0 <= eps < float("inf") for eps in self.budgets):
            raise InputError(f"Budgets are finite and at least 0, got {list(self.budgets)}.")
        if self.every < 1 or self.probe_clips < 1:
            raise InputError(f"every and probe_clips are at least 1, got {self.every} and {self.probe_clips}.")

    @property
    def choices(self) -> Sequence[tuple[Attack, float | None]]:
        """What is drawn: an attack and a budget, None for its own."""
        if self.attacks:
            return [(attack, None) for attack in self.attacks]
        return [(self.attack, eps) for eps in self.budgets]

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        count = len(self.choices)
        if stage.epoch == 0:
            stage.memory["probabilities"] = [1 / count] * count
        elif self.adaptive and stage.epoch % max(1, min(self.every, stage.epochs // count)) == 0:
            stage.memory["probabilities"] = shares(self._mean_losses(stage))
        return {f"p_{i}": p for i, p in enumerate(stage.memory["probabilities"])}

    def adversarial(self, step: Step) -> Clip:
        attack, eps = self.choices[drawn(step.memory["probabilities"], step.seed)]
        return attacked(attack, step.network, step.clip, step.labels, seed=step.seed, eps=eps)

    def _mean_losses(self, stage: Stage) -> list[float]:
        """Mean cross-entropy of the probed clips under each choice."""
        totals, clips = torch.zeros(len(self.choices), dtype=torch.float64), 0
        for clip, labels in stage.sample(self.probe_clips):
            clips += len(clip)
            for i, (attack, eps) in enumerate(self.choices):
                adversarial = attacked(attack, stage.network, clip, labels, seed=stage.seed, eps=eps)
                with at_rest(stage.network):
                    logits = classify(stage.network, adversarial)
                totals[i] += float(F.cross_entropy(logits, labels, reduction="sum"))
        return (totals / clips).tolist()


def shares(losses: Sequence[float]) -> list[float]:
    """Probabilities in proportion to losses (eq. 8); a loss of 0 keeps a vanishing share."""
    floored = [loss + _FLOOR for loss in losses]
    return [loss / sum(floored) for loss in floored]


def drawn(probabilities: Sequence[float], seed: int) -> int:
    """A number below ``len(probabilities)``, drawn by them; a function of the seed alone.

    All parts of a batch have its seed, so they draw the same, on every process.
    """
    random = torch.Generator().manual_seed(seed_for("choice", seed))
    weights = torch.tensor(probabilities, dtype=torch.float64)
    return int(torch.multinomial(weights, 1, generator=random))
