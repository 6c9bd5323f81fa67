"""PGD on the margins of the votes."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor
from toys import Linear, clips, problem_for, weights

from robustvideo.attacks import PGD, VotePGD
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import Margin
from robustvideo.attacks.vote_margin import HingedMargin
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import Linf


class Three(Model):
    """Three votes of a linear model, lost by 5, and won by 1 and by 2 (for label 0, on the clip of ``origin``)."""

    lead: ClassVar[tuple[float, ...]] = (5.0, -1.0, -2.0)

    def __init__(self, origin: Clip):
        super().__init__()
        self.linear = [Linear(weights(seed=seed)) for seed in range(3)]
        self.shift = [lead - float(m.value(origin).detach()) for lead, m in zip(self.lead, self.linear, strict=True)]

    def votes(self, clip: Clip) -> Tensor:
        margins = [m.value(clip) + shift for m, shift in zip(self.linear, self.shift, strict=True)]
        return torch.stack([torch.stack([-s / 2, s / 2], 1) for s in margins], 1)

    def verdict(self, votes: Tensor) -> Tensor:
        wins = (votes[..., 1] > votes[..., 0]).sum(1).to(votes.dtype) - 1.5
        return torch.stack([-wins, wins], 1) + 0 * votes.mean(1)

    def forward(self, clip: Clip) -> Tensor:
        return self.verdict(self.votes(clip))


def test_a_vote_that_is_lost_for_good_no_longer_pulls() -> None:
    clip = clips(1)
    model = Three(clip)
    problem = problem_for(model, clip, torch.tensor([0]), Linf(8 / 255))
    start = (torch.zeros_like(clip.video),)
    found = plain(problem, HingedMargin(1.0), start)
    expected = sum(m.weight.detach() for m in model.linear[1:]) / 3
    assert torch.allclose(found.gradients[0][0], expected)
    assert torch.allclose(found.objective, torch.tensor([(1.0 - 1.0 - 2.0) / 3], dtype=torch.float64))
    everyone = plain(problem, Margin(), start).gradients[0][0]
    assert torch.allclose(everyone, sum(m.weight.detach() for m in model.linear) / 3)  # type: ignore[arg-type]


def test_it_turns_a_second_vote_where_that_is_all_it_takes() -> None:
    clip = clips(1)
    result = VotePGD(eps=2 / 255, steps=10)(Three(clip), clip, torch.tensor([0]))
    assert result.success.all()
    assert (result.margin > 0).all()


def test_on_one_vote_and_without_a_hinge_it_is_pgd_on_the_margin() -> None:
    """For two classes the sign of the margin's gradient is that of the cross-entropy's: the same steps as PGD."""
    clip, labels = clips(3), torch.tensor([0, 1, 0])
    model = Linear(weights())
    options = {"eps": 2 / 255, "steps": 4, "early_stop": False}
    ours, pgd = VotePGD(kappa=1e9, **options), PGD(**options)  # type: ignore[arg-type]
    assert torch.equal(ours(model, clip, labels).clip.video, pgd(model, clip, labels).clip.video)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="kappa"):
        VotePGD(kappa=0.0)
