"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field

import torch
import torch.nn.functional as F

from robustvideo.attacks import FGSM
from robustvideo.attacks.attack import Problem, Variables
from robustvideo.errors import InputError
from robustvideo.model import at_rest
from robustvideo.threat import Linf, ThreatModel, with_budget
from robustvideo.training.adversary import steepest_step
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("free_at")
@dataclass(frozen=True)
class FreeAdversarialTraining(Method):
    """Every batch is replayed, and each replay's gradient moves weights and perturbation (Shafahi et al. 2019).

    ``replays`` times per batch, ``theta`` descends on ``CE(F(x + delta), y)`` and, from the same backward pass,
    ``delta <- P(delta + eps * d)``, d the steepest direction of its gradient, P the projection onto the ball and the
    box of the clips. delta stays for the next batch: each place in a batch has its own, first 0. It is neither
    rounded to what a file holds, for that has no gradient, nor taken in evaluation mode.

    A batch counts for as many updates as it is replayed: divide the epochs of a recipe by ``replays``. On several
    processes each has perturbations of its own, which those of the main process replace at every start of an epoch
    and after an interruption; only on a single one does a resumed run end with the very same weights.

    Attributes:
        threat: what the adversary may change. Default: Linf, 8/255.
        eps: shorthand for the threat model's budget.
        replays: updates per batch, m in the source. Default 4; the source reports 2 to 10, and 8 as best.

    Raises:
        InputError: ``replays`` below 1.
    """

    threat: ThreatModel = field(default=Linf(8 / 255))
    eps: InitVar[float | None] = None
    replays: int = 4

    def __post_init__(self, eps: float | None) -> None:
        if eps is not None:
            object.__setattr__(self, "threat", with_budget(self.threat, eps))
        if self.replays < 1:
            raise InputError(f"A batch is used at least once, got replays={self.replays}.")

    def losses(self, step: Step) -> Iterator[Loss]:
        with at_rest(step.network):
            problem = FGSM(threat=self.threat, seed=step.seed).problem(step.network, step.clip, step.labels)
        # the parts of a batch begin in order and end in order, so each finds what it left itself
        waiting = step.memory.setdefault("perturbations", [])
        variables = _projected(problem, waiting.pop(0)) if waiting else _zeros(problem)
        for _ in range(self.replays):
            variables = tuple(v.detach().requires_grad_() for v in variables)
            logits = step.forward(self.threat.perturb(step.clip, variables, problem.masks))
            correct = (logits.argmax(1) == step.labels).float().mean()
            yield Loss(F.cross_entropy(logits, step.labels), {"robust_accuracy": correct}, leaves=variables)
            gradients = tuple(torch.zeros_like(v) if v.grad is None else v.grad.nan_to_num(0, 0, 0) for v in variables)
            with torch.no_grad():
                variables = steepest_step(problem, variables, gradients, 1.0)
        waiting.append([v.detach() for v in variables])


def _zeros(problem: Problem) -> Variables:
    return tuple(part.zeros(problem.clip.signal(part.modality)) for part in problem.threat.parts)


def _projected(problem: Problem, variables: Variables) -> Variables:
    """Perturbations of other clips, moved to where these are and into their box."""
    signals = [problem.clip.signal(part.modality) for part in problem.threat.parts]
    return tuple(
        part.project(signal, variable.to(signal), eps, mask)
        for part, signal, variable, eps, mask in zip(
            problem.threat.parts, signals, variables, problem.eps, problem.masks, strict=True
        )
    )
