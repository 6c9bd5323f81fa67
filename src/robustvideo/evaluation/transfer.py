"""Clips crafted on one model, or on several at once, and tried on others: how often each is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.crafting import clean_verdict, craft_for_others
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.model import Model

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
        attack: takes all its steps, see `craft_for_others`.
        batches: clean clips with their labels.

    Raises:
        InputError: there are no clips.
    """
    return tried([craft_for_others(attack, surrogate, clip, labels).clip for clip, labels in batches], targets, batches)


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


def mean_transfer(successes: Iterable[Success]) -> Interval:
    """Misclassification rate over several targets: every clip counts by the share of the targets that it fools."""
    found = list(successes)
    clips = found[0].clips if found else 0
    return wilson(sum(s.wrong for s in found) / max(1, len(found)), clips)
