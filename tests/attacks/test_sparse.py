"""Attacks on few frames: which frames they take, what they reach there, and the penalty's closed form."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from toys import SHAPE, Linear, Smooth, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.sparse import OneFrame, ProximalStep, Sparse, SparseScore
from robustvideo.clip import Clip
from robustvideo.distances import frame_rms, frames_touched
from robustvideo.errors import InputError
from robustvideo.threat import Joint, Linf

VALUES = 3 * 6 * 8
"""Values per frame of the toy clips."""


def with_frame_norms(norms: tuple[float, ...], seed: int = 1) -> Tensor:
    """Weights whose frames have given Euclidean norms."""
    w = weights(seed=seed)
    return w * (torch.tensor(norms, dtype=w.dtype) / w.square().sum((0, 2, 3)).sqrt())[:, None, None]


def placed_at(model: Linear, clip: Clip, value: float) -> None:
    """Shift the model so that the (single) clip has this margin."""
    model.bias.data = model.bias.data + value - model.value(clip).detach()[0]


def touched(clean: Clip, changed: Clip) -> list[list[bool]]:
    return (clean.video != changed.video).flatten(3).any(3).any(1).tolist()


@pytest.mark.parametrize("attack", [OneFrame, partial(Sparse, lam=0.0)], ids=["one_frame", "sparse"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, False, False, False]),
        ({"k": 2}, [True, True, False, False]),
        ({"select": "saliency"}, [False, False, True, False]),
        ({"select": "saliency", "k": 3}, [True, False, True, True]),
        ({"frames": (1, -1)}, [False, True, False, True]),
        ({"k": None}, [True, True, True, True]),
    ],
    ids=str,
)
@pytest.mark.parametrize("on_grid", [True, False], ids=["on_grid", "off_grid"])
def test_only_the_chosen_frames_change(attack, options, expected, on_grid: bool) -> None:
    clip, labels = clips(3), alternating(3)
    if not on_grid:
        clip = Clip(clip.video + 0.3 / 255)
    model = Linear(with_frame_norms((2.0, 1.0, 8.0, 4.0)))
    result = attack(eps=8 / 255, early_stop=False, steps=20, **options)(model, clip, labels)
    assert touched(clip, result.clip) == [expected] * 3


def test_random_frames_are_each_clip_s_own_whatever_its_batch() -> None:
    clip, labels = clips(16), alternating(16)
    attack = OneFrame(select="random", early_stop=False)
    together = attack(Linear(weights()), clip, labels)
    chosen = touched(clip, together.clip)
    assert all(sum(row) == 1 for row in chosen)
    assert len({tuple(row) for row in chosen}) == 4
    alone = attack(Linear(weights()), clip.select([5]), labels[5:6])
    assert torch.equal(alone.clip.video[0], together.clip.video[5])
    assert touched(clip, attack.with_seed(3)(Linear(weights()), clip, labels).clip) != chosen


@pytest.mark.parametrize("frame", range(4))
def test_one_frame_reaches_that_frame_s_optimum(frame: int) -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = OneFrame(eps=8 / 255, frames=(frame,), early_stop=False)(model, clip, labels)
    gain = result.margin.double() - model.value(clip).detach() * signs(labels, labels)
    assert torch.allclose(gain, 8 / 255 * model.weight.detach()[:, frame].abs().sum().expand(3), rtol=1e-5)


@pytest.mark.parametrize("select", ["first", "saliency"])
def test_passes_are_counted(select: str) -> None:
    clip, labels = clips(4), alternating(4)
    for attack in (OneFrame(select=select, steps=5), Sparse(select=select, steps=5)):
        model = Watched(Smooth())
        result = attack(model, clip, labels)
        assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


@pytest.mark.parametrize("targeted", [False, True])
def test_without_penalty_it_is_adam_on_the_probability(targeted: bool) -> None:
    clip, labels = clips(2), torch.tensor([1, 0])
    model = Smooth()
    attack = Sparse(k=None, lam=0.0, steps=15, early_stop=False, targeted=targeted)
    threat = Linf(1.0, stored=False)
    result = Ascent(attack.objective(), plain, attack.update(), attack.steps, early_stop=False)(
        problem_for(model, clip, labels, threat, targeted=targeted)
    )
    change = torch.zeros_like(clip.video, requires_grad=True)
    adam = torch.optim.Adam([change], lr=0.001)
    losses = []
    for _ in range(15):
        own = model(Clip(clip.video + change)).softmax(1).gather(1, labels[:, None])[:, 0]
        loss = -own.log() if targeted else -(1 - own).log()
        losses.append(-loss.detach())
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    assert torch.allclose(result.loss_trace.double(), torch.stack(losses, 1), atol=1e-6)
    assert torch.allclose(result.clip.video, (clip.video + change).detach(), atol=1e-9)


def test_the_score_keeps_its_gradient_where_the_probability_rounds_to_one() -> None:
    clip, labels = clips(1, dtype=torch.float32), torch.zeros(1, dtype=torch.long)
    model = Linear(weights(dtype=torch.float32))
    placed_at(model, clip, -150.0)
    estimate = plain(problem_for(model, clip, labels, Linf(1.0)), SparseScore(1.0), (torch.zeros_like(clip.video),))
    assert estimate.objective[0] == pytest.approx(-150, rel=1e-4)
    assert torch.allclose(estimate.gradients[0][0], model.weight.detach(), rtol=1e-3)


def test_the_penalty_pulls_a_frame_straight_towards_zero() -> None:
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    change = torch.zeros(1, *SHAPE, dtype=torch.float64)
    change[:, :, 2] = 0.05 * torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Linear(torch.zeros(SHAPE, dtype=torch.float64))
    (pull,) = plain(problem_for(model, clip, labels, Linf(1.0)), SparseScore(3.0), (change,)).gradients
    expected = -3.0 * change / (frame_rms(change).sum() * VALUES)
    assert torch.allclose(pull, expected, atol=1e-12)


@pytest.mark.parametrize("lam", [20.0, 50.0, 100.0])
def test_proximal_survivors_are_the_frames_above_the_threshold(lam: float) -> None:
    """Far from the boundary the score's slope is 1: frame t moves at all exactly if ``sqrt(n) ||w_t|| > lam``."""
    norms = (1.0, 2.0, 4.0, 8.0)
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    model = Linear(with_frame_norms(norms))
    placed_at(model, clip, -60.0)
    result = Sparse(Linf(8 / 255, stored=False), k=None, lam=lam, prox=True, steps=60, early_stop=False)(
        model, clip, labels
    )
    assert touched(clip, result.clip) == [[math.sqrt(VALUES) * n > lam for n in norms]]


def test_proximal_steps_end_at_the_closed_form() -> None:
    """Only the strongest frame is left, and the margin s* where ``sigmoid(-s*) sqrt(n) ||w|| = lam``."""
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    model = Linear(with_frame_norms((5.0, 5.5, 7.0, 3.0)))
    placed_at(model, clip, -1.0)
    strongest = math.sqrt(VALUES) * 7.0
    lam = strongest / (1 + math.exp(0.7))
    attack = Sparse(k=None, lam=lam, prox=True, step_size=0.0005)
    rule, objective = attack.update(), attack.objective()
    assert isinstance(rule, ProximalStep)
    problem = problem_for(model, clip, labels, Linf(1.0, stored=False))
    result = Ascent(objective, plain, rule, steps=600, early_stop=False)(problem)
    assert touched(clip, result.clip) == [[False, False, True, False]]
    assert float(result.margin[0]) == pytest.approx(0.7, abs=0.05)
    change = (result.clip.video - clip.video)[0, :, 2].flatten()
    weight = model.weight.detach()[:, 2].flatten()
    assert torch.cosine_similarity(change, weight, dim=0) > 1 - 1e-6


def test_a_large_penalty_leaves_fewer_frames_after_rounding() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Linear(with_frame_norms((0.1, 0.2, 0.4, 8.0)))
    model.bias.data = -model.value(clip).detach().max() - 60.0
    frames = [
        frames_touched(
            Sparse(k=None, lam=lam, early_stop=False, steps=40)(model, clip, labels).clip.video, clip.video
        ).tolist()
        for lam in (0.0, 30.0)
    ]
    assert frames == [[4, 4], [1, 1]]


def test_no_step_where_there_is_no_gradient() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    flat = Linear(torch.zeros(SHAPE, dtype=torch.float64), bias=-1.0)
    for prox in (False, True):
        result = Sparse(k=None, prox=prox, steps=3)(flat, clip, labels)
        assert torch.equal(result.clip.video, clip.video)
        assert result.margin.isfinite().all()


def test_what_cannot_be_is_refused() -> None:
    for attack in (OneFrame, Sparse):
        with pytest.raises(InputError, match="did you mean 'saliency'"):
            attack(select="salient")
        with pytest.raises(InputError, match="at least one frame"):
            attack(k=0)
        with pytest.raises(InputError, match="Cannot choose k=5"):
            attack(k=5)(Linear(weights()), clips(1), alternating(1))
        with pytest.raises(InputError, match="do not all exist"):
            attack(frames=(4,))(Linear(weights()), clips(1), alternating(1))
        with pytest.raises(InputError, match="on the video"):
            attack(Joint((Linf(0.1), Linf(0.1, modality="audio"))))
    with pytest.raises(InputError, match="not negative"):
        Sparse(lam=-1.0)
    with pytest.raises(InputError, match="prox"):
        Sparse(norm="flow", eps=1.0, prox=True)
