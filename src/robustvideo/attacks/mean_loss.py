"""The mean of an objective over the members of an ensemble, each asked alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from robustvideo.attacks.attack import Problem
from robustvideo.attacks.objectives import Objective
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models.ensemble import Ensemble


@dataclass(frozen=True)
class MeanLoss:
    """The weighted mean of an objective over the members of an `Ensemble`, each asked alone.

    The logits, from which a climb guesses its success, are the ensemble's.

    Attributes:
        objective: of one model.
    """

    objective: Objective

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        """One entry per member and name: ``<member's number>/<name>``."""
        return {
            f"{number}/{name}": value
            for number, model in enumerate(_ensemble(problem).models)
            for name, value in self.objective.reference(replace(problem, gradient_model=model)).items()
        }

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        ensemble = _ensemble(problem)
        total: Tensor | float = 0.0
        answers = []
        for number, (model, weight) in enumerate(zip(ensemble.models, ensemble.weights, strict=True)):
            own = f"{number}/"
            reference = {k.removeprefix(own): v for k, v in problem.reference.items() if k.startswith(own)}
            alone = replace(problem, gradient_model=model, reference=reference)
            value, logits = ensemble.call(self.objective, alone, adversarial)
            total = total + weight * value
            answers.append(logits)
        assert isinstance(total, Tensor)
        return total, ensemble.fuse(answers)


def _ensemble(problem: Problem) -> Ensemble:
    if not isinstance(problem.gradient_model, Ensemble):
        raise InputError("The mean loss of an ensemble needs an ensemble to attack: give it several models.")
    return problem.gradient_model
