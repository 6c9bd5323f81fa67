"""Best of m, majority of m, and the clean clips beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import Linear, Smooth, clips, weights

from robustvideo.clip import Clip
from robustvideo.errors import RobustVideoError
from robustvideo.evaluation.resubmission import (
    compared,
    majority_correct,
    mean_correct,
    measure_resubmission,
    resubmit,
    submissions,
    worst_correct,
)
from robustvideo.model import Model
from robustvideo.purification import Defended, Purifier, load_defense
from robustvideo.randomness import ClipRandom, seed_for


class Coin(Model):
    """Two classes; right about label 1 with probability q, drawn from a clip's name."""

    def __init__(self, q: float):
        super().__init__()
        self.q = q

    def forward(self, clip: Clip) -> Tensor:
        draw = ClipRandom(seed_for("coin", name) for name in clip.ids).uniform(torch.empty(len(clip), 1))
        right = (draw < self.q).double()
        return torch.cat([1 - right, right], 1)


def many(count: int) -> Clip:
    return Clip(torch.zeros(count, 1, 1, 1, 1), ids=tuple(f"clip {i}" for i in range(count)))


@pytest.mark.parametrize("q", [0.97, 0.7])
@pytest.mark.parametrize("m", [1, 5])
def test_the_statistics_of_a_coin(q: float, m: int) -> None:
    """Mean q, worst q^m, majority the binomial tail; each within five standard deviations over 2000 clips."""
    logits = submissions(Coin(q), many(2000), m)
    labels = torch.ones(2000, dtype=torch.long)
    tail = sum(math.comb(m, k) * q**k * (1 - q) ** (m - k) for k in range(m // 2 + 1, m + 1))
    for measure, expected in ((mean_correct, q), (worst_correct, q**m), (majority_correct, tail)):
        found = float(measure(logits, labels).double().mean())
        assert abs(found - expected) < 5 * (expected * (1 - expected) / 2000) ** 0.5


def test_one_submission_makes_all_three_equal() -> None:
    logits, labels = submissions(Coin(0.6), many(50), 1), torch.ones(50, dtype=torch.long)
    assert torch.equal(mean_correct(logits, labels) == 1, worst_correct(logits, labels))
    assert torch.equal(worst_correct(logits, labels), majority_correct(logits, labels))


def test_the_worst_is_below_the_mean_and_falls_with_m() -> None:
    labels = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(200, 9, 3, generator=torch.Generator().manual_seed(1))
    logits[torch.arange(200), :, labels] += 1
    worst = [float(worst_correct(logits[:, :m], labels).double().mean()) for m in range(1, 10)]
    assert worst == sorted(worst, reverse=True)
    assert (worst_correct(logits, labels).double() <= mean_correct(logits, labels)).all()


def test_a_submission_is_a_fresh_draw_and_always_the_same() -> None:
    clip = clips(2)
    model = Defended(Linear(weights()), load_defense("temporal_shuffle"))
    logits = submissions(model, clip, 4)
    assert torch.equal(submissions(model, clip, 6)[:, :4], logits)
    assert torch.allclose(submissions(model, clip.select([1]), 4)[0], logits[1])
    assert len({float(v) for v in logits[0, :, 0]}) == 4
    assert torch.equal(resubmit(clip, 0).video, clip.video)
    assert not set(resubmit(clip, 0).ids) & set(clip.ids)


def test_the_clean_clips_own_errors_stand_beside() -> None:
    """A defence that errs 3 % of the time, attacked by nobody: worst-of-20 near 54 %, and nothing lost."""
    clip, labels = many(1000), torch.ones(1000, dtype=torch.long)
    found = measure_resubmission(Coin(0.97), [(clip, clip, labels)], draws=20)
    assert (found.draws, found.clips) == (20, 1000)
    assert abs(found.clean.worst.estimate - 0.97**20) < 0.08
    assert found.clean.worst.low < 0.97**20 < found.clean.worst.high
    assert found.adversarial == found.clean
    assert (found.lost.mean.estimate, found.lost.worst.estimate, found.lost.majority.estimate) == (0, 0, 0)


def test_what_is_lost_is_clean_minus_adversarial() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    clean = torch.stack([torch.stack([right] * 3)] * 4)
    attacked = clean.clone()
    attacked[0, :] = wrong
    attacked[1, :2] = wrong
    attacked[2, 0] = wrong
    found = compared(clean, attacked, labels)
    assert found.lost.mean.estimate == pytest.approx((3 + 2 + 1) / 12)
    assert found.lost.mean.low < 0.5 < found.lost.mean.high
    assert found.lost.worst.estimate == pytest.approx(3 / 4)
    assert found.lost.majority.estimate == pytest.approx(2 / 4)
    assert found.clean.worst.estimate == 1


def test_batches_are_put_together() -> None:
    clip, labels = clips(4), torch.tensor([0, 1, 0, 1])
    other = clip.with_signal("video", 1 - clip.video)
    model = Defended(Smooth(), load_defense("temporal_shuffle"))
    halves = [(clip.select(part), other.select(part), labels[part]) for part in ([0, 1], [2, 3])]
    assert measure_resubmission(model, halves, 3) == measure_resubmission(model, [(clip, other, labels)], 3)


@dataclass(frozen=True)
class Secretive(Purifier):
    """Draws, but says that it does not."""

    registered_name: ClassVar[str] = "secretive"

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip.with_signal("video", 0 * clip.video + ClipRandom(seeds).uniform(clip.video[:, :1, :1, :1, :1])),)


def test_a_defence_that_does_not_draw_has_one_submission_and_is_checked() -> None:
    clip, labels = clips(3), torch.tensor([0, 1, 0])
    found = measure_resubmission(Defended(Smooth(), load_defense("bit_depth")), [(clip, clip, labels)], 20)
    assert found.draws == 1
    half = Linear(weights().abs(), bias=-0.5 * float(weights().abs().sum()))
    many_clips = [(clips(16), clips(16), torch.zeros(16, dtype=torch.long))]
    with pytest.raises(RobustVideoError, match="in two ways"):
        measure_resubmission(Defended(half, Secretive()), many_clips)
