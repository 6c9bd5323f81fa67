"""Votes: several classifications of one clip, and the verdict that they make."""

from __future__ import annotations

import torch
from torch import Tensor


def ballot(votes: Tensor) -> Tensor:
    """(B, K) scores whose largest is the majority class of the votes' logits (B, M, K).

    The number of votes of a class, plus less than one for the sum of its softmax over all votes: among classes of
    equally many votes the one of the largest summed softmax wins, then the lowest number. (VideoPure's code lets
    the lowest number win at once, so low classes win ties.)
    """
    votes = votes.detach()
    probabilities = votes.softmax(2).sum(1)
    counts = torch.zeros_like(probabilities)
    counts.scatter_add_(1, votes.argmax(2), torch.ones_like(votes[..., 0]))
    return counts + probabilities / (votes.shape[1] + 1)


def majority(votes: Tensor) -> Tensor:
    """(B,) class of most votes (B, M, K); see `ballot` for ties."""
    return ballot(votes).argmax(1)


def majority_logits(votes: Tensor) -> Tensor:
    """(B, K) logits of which the softmax is each class's share of the `ballot`, in fp32 at least.

    The ballot has no useful gradient, a count being flat: the backward pass takes the logits for the mean of the
    votes' own.
    """
    votes = votes.float() if votes.element_size() < 4 else votes
    if votes.shape[1] == 1:
        return votes[:, 0]
    scores = ballot(votes)
    shares = (scores / scores.sum(1, keepdim=True)).clamp_min(torch.finfo(scores.dtype).tiny).log()
    mean = votes.mean(1)
    return shares + (mean - mean.detach())
