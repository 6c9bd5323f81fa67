"""Votes are counted right, ties included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.purification.votes import ballot, majority, majority_logits


def voting(*rows: tuple[int, float], classes: int = 5) -> Tensor:
    """(1, M, K) logits of votes, each for a class with a probability; the rest is shared out evenly."""
    votes = []
    for chosen, probability in rows:
        share = torch.full((classes,), (1 - probability) / (classes - 1), dtype=torch.float64)
        share[chosen] = probability
        votes.append(share.log())
    return torch.stack(votes)[None]


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([(3, 0.9)], 3),
        ([(3, 0.4), (3, 0.4), (0, 0.999)], 3),  # two weak votes beat a strong one
        ([(1, 0.6), (4, 0.9)], 4),  # a tie: the surer class
        ([(4, 0.6), (1, 0.9)], 1),
        ([(0, 0.5)] * 3 + [(2, 0.7)] * 3 + [(4, 0.99)], 2),  # 3-3-1, the tie of seven votes
        ([(2, 0.8), (1, 0.8)], 1),  # a tie to the last bit: the lowest number
    ],
)
def test_the_majority(rows: list[tuple[int, float]], winner: int) -> None:
    votes = voting(*rows)
    assert majority(votes).tolist() == [winner]
    assert majority_logits(votes).argmax(1).tolist() == [winner]


def test_a_class_without_the_most_votes_never_wins() -> None:
    """Whatever the logits, the winner has the largest count, and among those the largest summed softmax."""
    random = torch.Generator().manual_seed(0)
    votes = 20 * torch.randn(500, 7, 4, generator=random, dtype=torch.float64)
    counts = torch.stack([row.argmax(1).bincount(minlength=4) for row in votes])
    summed = votes.softmax(2).sum(1)
    for winner, count, share in zip(majority(votes).tolist(), counts, summed, strict=True):
        best = (count == count.max()).nonzero().flatten().tolist()
        assert winner == max(best, key=lambda k, s=share: float(s[k]))  # type: ignore[misc]


def test_one_vote_stands_for_itself() -> None:
    votes = torch.randn(3, 1, 4, requires_grad=True)
    assert torch.equal(majority_logits(votes), votes[:, 0])


def test_the_logits_are_finite_and_their_softmax_is_the_share_of_the_ballot() -> None:
    votes = torch.tensor([[[1000.0, -1000.0, 0.0], [1000.0, 0.0, -1000.0]]])
    logits = majority_logits(votes)
    assert logits.isfinite().all()
    scores = ballot(votes)
    assert torch.allclose(logits.softmax(1), scores / scores.sum())
    assert majority_logits(votes.bfloat16()).dtype == torch.float32


def test_the_gradient_is_that_of_the_mean() -> None:
    votes = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad((majority_logits(votes) * weight).sum(), votes)
    assert torch.allclose(found, (weight / 3)[:, None].expand_as(votes))
