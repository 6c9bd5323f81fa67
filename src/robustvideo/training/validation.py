"""How often a network is right, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks import Attack
from robustvideo.clip import Clip
from robustvideo.model import Model, at_rest, classify


@dataclass(frozen=True)
class Accuracy:
    """A share of clips.

    Attributes:
        correct: clips classified correctly (under attack: whatever the attack tried).
        clips: clips in all.
    """

    correct: int
    clips: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.correct / self.clips

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.correct} of {self.clips} clips)"


def count_correct(model: Model, batches: Iterator[tuple[Clip, Tensor]], attack: Attack | None) -> Tensor:
    """How many clips a model gets right: an int64 tensor [clean, under attack, clips] on the CPU.

    Clips that are misclassified as they are count as wrong under attack and are not attacked. Without an attack the
    second number is that of the first. The model is used in evaluation mode and left as it was.
    """
    clean = robust = total = 0
    for clip, labels in batches:
        with at_rest(model):
            right = (classify(model, clip).argmax(1) == labels).nonzero()[:, 0]
        total += len(clip)
        clean += len(right)
        if attack is None or len(right) == 0:
            robust += len(right)
        else:
            robust += int((~attack(model, clip.select(right), labels[right]).success).sum())
    return torch.tensor([clean, robust, total])
