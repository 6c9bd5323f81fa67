"""Plain training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F

from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("standard")
@dataclass(frozen=True)
class Standard(Method):
    """Cross-entropy on clean clips."""

    @property
    def for_accuracy(self) -> bool:
        return True

    def losses(self, step: Step) -> Iterator[Loss]:
        logits = step.forward(step.clip)
        correct = (logits.argmax(1) == step.labels).float().mean()
        yield Loss(F.cross_entropy(logits, step.labels), {"accuracy": correct})
