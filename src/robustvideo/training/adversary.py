"""The adversary inside a training method: any attack, at a budget that may change from batch to batch."""

from __future__ import annotations

from torch import Tensor

from robustvideo.attacks import Attack
from robustvideo.attacks.attack import Problem, Variables
from robustvideo.clip import Clip, per_clip
from robustvideo.errors import InputError
from robustvideo.model import Model


def require_untargeted(*attacks: Attack) -> None:
    """Refuse attacks whose labels would be their targets.

    Raises:
        InputError: one of the attacks is targeted.
    """
    if any(attack.targeted for attack in attacks):
        raise InputError("Training under attack leaves the true class: its attack cannot be targeted.")


def budgets(attack: Attack, clip: Clip, eps: float) -> list[Tensor]:
    """Budgets of a call, one (B,) tensor per part of the attack's threat model.

    Args:
        attack: its own budget is the unit of its step size, so its steps grow and shrink with ``eps``.
        clip: the clips to attack.
        eps: budget of the first part; the others change in proportion.
    """
    first = attack.threat.parts[0]
    return [clip.video.new_full((len(clip),), part.eps * (eps / first.eps)) for part in attack.threat.parts]


def attacked(
    attack: Attack, network: Model, clip: Clip, labels: Tensor, *, seed: int, eps: float | None = None
) -> Clip:
    """Clips under an attack with fresh random draws.

    Args:
        attack: the adversary.
        network: what it attacks, in evaluation mode; it leaves no trace in it.
        clip: clean clips.
        labels: (B,) true classes.
        seed: seeds the draws.
        eps: budget instead of the attack's own, see `budgets`; 0 leaves the clips as they are, at no cost.
    """
    if eps == 0:
        return clip
    given = None if eps is None else budgets(attack, clip, eps)
    return attack.with_seed(seed).craft(network, clip, labels, eps=given)


def random_start(problem: Problem) -> Variables:
    """A random point of each part's ball, drawn per clip."""
    random = problem.random("start")
    return tuple(
        part.random_start(problem.clip.signal(part.modality), eps, mask, random)
        for part, eps, mask in zip(problem.threat.parts, problem.eps, problem.masks, strict=True)
    )


def steepest_step(problem: Problem, variables: Variables, gradients: Variables, size: float) -> Variables:
    """Variables moved by ``size`` budgets along the steepest direction of their gradients, and projected."""
    moved = []
    for i, part in enumerate(problem.threat.parts):
        signal, mask, eps = problem.clip.signal(part.modality), problem.masks[i], problem.eps[i]
        direction = part.steepest(gradients[i], signal, mask)
        there = variables[i] + per_clip(size * eps, direction) * direction
        moved.append(part.project(signal, there, eps, mask))
    return tuple(moved)
