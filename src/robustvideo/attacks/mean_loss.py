"""The mean of an objective over the members of an ensemble, each asked alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from robustvideo.attacks.attack import Problem
from robustvideo.attacks.objectives import Objective
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
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
            for number in range(len(_ensemble(problem.gradient_model).models))
            for name, value in self.objective.reference(_of_member(problem, number)).items()
        }

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        ensemble = _ensemble(problem.gradient_model)
        total: Tensor | float = 0.0
        answers = []
        for number, weight in enumerate(ensemble.weights):
            value, logits = ensemble.call(self.objective, _of_member(problem, number), adversarial)
            total = total + weight * value
            answers.append(logits)
        assert isinstance(total, Tensor)
        return total, ensemble.fuse(answers)


def _of_member(problem: Problem, number: int) -> Problem:
    """The problem as a member alone would have it: its own models, and what was computed once of them."""
    own = f"{number}/"
    gradient_model = _ensemble(problem.gradient_model).models[number]
    # behind a purifier, say, only the gradients' model is an ensemble
    model = problem.model.models[number] if isinstance(problem.model, Ensemble) else gradient_model
    reference = {k.removeprefix(own): v for k, v in problem.reference.items() if k.startswith(own)}
    return replace(problem, model=model, gradient_model=gradient_model, reference=reference)


def _ensemble(model: Model) -> Ensemble:
    if not isinstance(model, Ensemble):
        raise InputError("The mean loss of an ensemble needs an ensemble to attack: give it several models.")
    return model
