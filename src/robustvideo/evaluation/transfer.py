"""Clips crafted on one model, or on several at once, and tried on others: how often each is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.crafting import clean_verdict, craft
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.model import Model
from robustvideo.models.ensemble import Ensemble

Batches = Sequence[tuple[Clip, Tensor]]
"""Clean clips and (B,) labels, batch by batch; gone through more than once."""


@dataclass(frozen=True)
class Success:
    """How often a model is wrong on adversarial clips.

    Attributes:
        clips: how many there are.
        wrong: how many it mistakes, clean errors among them: the success rate of AV section 6.2 counts these.
        correct: how many it recognises undisturbed.
        fooled: how many of those it mistakes under attack.
    """

    clips: int = 0
    wrong: int = 0
    correct: int = 0
    fooled: int = 0

    def __add__(self, other: Success) -> Success:
        return Success(
            self.clips + other.clips,
            self.wrong + other.wrong,
            self.correct + other.correct,
            self.fooled + other.fooled,
        )

    @property
    def rate(self) -> Interval:
        """Misclassified clips of all clips, with Wilson's interval."""
        return wilson(self.wrong, self.clips)

    @property
    def fooling_rate(self) -> Interval:
        """Fooled clips of those recognised undisturbed, with Wilson's interval."""
        return wilson(self.fooled, self.correct)


def successes(surrogate: Model, targets: Mapping[str, Model], attack: Attack, batches: Batches) -> dict[str, Success]:
    """Craft on one model and try on others, all on the same clips.

    Args:
        surrogate: what the attack sees; an `Ensemble` for several at once.
        targets: name -> model; the surrogate itself among them is the white-box row.
        attack: without ``early_stop=False`` it stops where the surrogate just fails, and transfers badly.
        batches: clean clips with their labels.

    Raises:
        InputError: there are no clips.
    """
    return tried([craft(attack, surrogate, clip, labels).clip for clip, labels in batches], targets, batches)


def tried(crafted: Sequence[Clip], targets: Mapping[str, Model], batches: Batches) -> dict[str, Success]:
    """Try crafted clips on models.

    Args:
        crafted: one batch for each of ``batches``.
        targets: name -> model.
        batches: the clean clips with their labels.

    Raises:
        InputError: there are no clips.
    """
    if not batches:
        raise InputError("There are no clips to transfer.")
    found = dict.fromkeys(targets, Success())
    for (clip, labels), adversarial in zip(batches, crafted, strict=True):
        for name, target in targets.items():
            clean, attacked = (clean_verdict(target, c, labels).success for c in (clip, adversarial))
            found[name] += counted(clean, attacked)
    return found


def counted(clean_errors: Tensor, errors: Tensor) -> Success:
    """Success of (B,) errors without and under an attack."""
    fooled = errors & ~clean_errors
    return Success(len(errors), int(errors.sum()), int((~clean_errors).sum()), int(fooled.sum()))


def success_matrix(
    models: Mapping[str, Model], attacks: Mapping[str, Attack], batches: Batches
) -> dict[tuple[str, str, str], Success]:
    """Every attack on every surrogate, tried on every model (AV figure 5).

    Returns:
        (attack, surrogate, target) -> success; equal names of both models are the white-box diagonal.
    """
    return {
        (attack_name, surrogate, target): success
        for attack_name, attack in attacks.items()
        for surrogate, model in models.items()
        for target, success in successes(model, models, attack, batches).items()
    }


def left_out(
    models: Mapping[str, Model], attacks: Mapping[str, Attack], batches: Batches
) -> dict[tuple[str, str], Success]:
    """Every attack on an ensemble of all models but one, tried on that one (AV figure 6).

    Returns:
        (attack, target) -> success.

    Raises:
        InputError: fewer than two models.
    """
    if len(models) < 2:
        raise InputError("An ensemble that leaves one model out needs at least two models.")
    found = {}
    for attack_name, attack in attacks.items():
        for target, model in models.items():
            others = Ensemble([other for name, other in models.items() if name != target])
            found[attack_name, target] = successes(others, {target: model}, attack, batches)[target]
    return found


def mean_transfer(successes: Iterable[Success]) -> Interval:
    """Misclassification rate over several targets: every clip counts by the share of the targets that it fools."""
    found = list(successes)
    clips = found[0].clips if found else 0
    return wilson(sum(s.wrong for s in found) / max(1, len(found)), clips)
