"""Searches in turn: what adds up, over starts, targets and members alike."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from toys import Linear, clips, problem_for, weights

from robustvideo.attacks.attack import AttackResult, Problem
from robustvideo.attacks.search import Search, in_turn
from robustvideo.threat import Linf

EVERY = 10
"""Steps that a scripted search takes where a clip stands, or always when it does not stop early."""


def scripted(falls: Mapping[str, int], early_stop: bool) -> Search:
    """A search of `EVERY` steps in which some clips fall, each at a step that is known."""

    def search(problem: Problem) -> AttackResult:
        first = torch.tensor([falls.get(name, -1) for name in problem.clip.ids])
        none = torch.zeros(len(first), dtype=torch.long)
        return AttackResult(
            clip=problem.clip,
            success=first >= 0,
            first_success_step=first,
            steps=torch.where((first >= 0) & early_stop, first, EVERY),
            loss_trace=torch.zeros(len(first), EVERY),
            forward_passes=none + 1,
            backward_passes=none,
            logits=torch.zeros(len(first), 2),
            margin=torch.where(first >= 0, 1.0, -1.0),
        )

    return search


@pytest.mark.parametrize("early_stop", [True, False])
def test_steps_of_the_searches_before_count(early_stop: bool) -> None:
    """What a clip that falls in the third search took is the steps of all three; its first success is what counts."""
    problem = problem_for(Linear(weights()), clips(4), torch.zeros(4, dtype=torch.long), Linf(0.1))
    scripts = [{"0": 4}, {"1": 0}, {"0": 1, "2": 7}]
    inner = [scripted(falls, early_stop) for falls in scripts]

    def nested(problem: Problem) -> AttackResult:
        return in_turn(problem, inner[1:], early_stop)

    for searches in (inner, [inner[0], nested]):
        found = in_turn(problem, searches, early_stop)
        assert found.first_success_step.tolist() == [4, 10, 27, -1]
        assert found.steps.tolist() == ([4, 10, 27, 30] if early_stop else [30] * 4)
