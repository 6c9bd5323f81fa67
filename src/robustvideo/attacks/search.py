"""Searches, one after another: what still stands goes to the next, and the best of all is kept per clip.

Restarts, targets and the members of an ensemble are all this: a list of searches over the same clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, Variables
from robustvideo.clip import Clip

Search = Callable[[Problem], AttackResult]
"""Anything that looks for adversarial clips and returns verified ones."""


def in_turn(problem: Problem, searches: Iterable[Search], early_stop: bool = True) -> AttackResult:
    """Run searches in turn and keep, per clip, a success before none, then the largest margin.

    A later search never makes the attack weaker. Passes and steps add up.

    Args:
        problem: the clips.
        searches: at least one.
        early_stop: a later search sees only the clips that still stand. Without it every search sees all.
    """
    found: AttackResult | None = None
    rows = torch.arange(len(problem.clip), device=problem.clip.device)
    for search in searches:
        result = search(problem if len(rows) == len(problem.clip) else problem.select(rows))
        found = result if found is None else _better(found, result, rows)
        if early_stop:
            rows = (~found.success).nonzero()[:, 0]
            if len(rows) == 0:
                break
    if found is None:
        raise ValueError("there is no search to run")
    return found


def conclude(
    problem: Problem,
    variables: Variables,
    *,
    first_success_step: Tensor,
    loss_trace: Tensor,
    forward_passes: Tensor,
    backward_passes: Tensor,
) -> AttackResult:
    """The result of a search that ran a loop of its own: its final points as a file holds them, with their verdict.

    Args:
        problem: the clips.
        variables: the point to keep of each clip, one tensor per part of the threat model.
        first_success_step: (B,) step of the first success, as the search saw it; -1 for none. A clip that the
            verdict contradicts is reported as -1.
        loss_trace: (B, steps); what is not NaN are the steps taken.
        forward_passes, backward_passes: (B,) passes so far; the verdict adds one.
    """
    verdict = problem.verdict(variables)
    return AttackResult(
        clip=verdict.clip,
        success=verdict.success,
        first_success_step=torch.where(verdict.success, first_success_step, -1),
        steps=(~loss_trace.isnan()).sum(1),
        loss_trace=loss_trace,
        forward_passes=forward_passes + 1,
        backward_passes=backward_passes,
        logits=verdict.logits,
        margin=verdict.margin,
    )


def _better(known: AttackResult, new: AttackResult, rows: Tensor) -> AttackResult:
    """``known`` with those of its ``rows`` replaced in which ``new`` is better; counters add up."""
    better = new.success & ~known.success[rows]
    better |= (new.success == known.success[rows]) & (new.margin > known.margin[rows])
    chosen = better.nonzero()[:, 0]
    places = rows[chosen]

    def put(old: Tensor, fresh: Tensor) -> Tensor:
        return old.index_copy(0, places, fresh[chosen].to(old.dtype))

    steps = max(known.loss_trace.shape[1], new.loss_trace.shape[1])
    first = known.first_success_step
    newly = (first[rows] < 0) & (new.first_success_step >= 0)
    return AttackResult(
        clip=_put_clip(known.clip, new.clip, put),
        success=put(known.success, new.success),
        first_success_step=first.index_copy(0, rows[newly], (known.steps[rows] + new.first_success_step)[newly]),
        steps=known.steps.index_add(0, rows, new.steps),
        loss_trace=put(_widened(known.loss_trace, steps), _widened(new.loss_trace, steps)),
        forward_passes=known.forward_passes.index_add(0, rows, new.forward_passes),
        backward_passes=known.backward_passes.index_add(0, rows, new.backward_passes),
        logits=put(known.logits, new.logits),
        margin=put(known.margin, new.margin),
    )


def _put_clip(known: Clip, new: Clip, put: Callable[[Tensor, Tensor], Tensor]) -> Clip:
    if known.audio is None or new.audio is None:
        return replace(known, video=put(known.video, new.video))
    return replace(known, video=put(known.video, new.video), audio=put(known.audio, new.audio))


def _widened(trace: Tensor, steps: int) -> Tensor:
    return torch.nn.functional.pad(trace, (0, steps - trace.shape[1]), value=torch.nan)
