"""Momentum integrated gradients: completeness of the path, and which way the update goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks import MIFGSM, load_attack
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.averaged import Averaged
from robustvideo.attacks.gradients import Estimate, plain
from robustvideo.attacks.mig import MIG, LabelScore, PathFromBlack
from robustvideo.attacks.objectives import Margin
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import FlowField, Joint, Linf

BOTH = Joint((Linf(8 / 255), Linf(0.01, modality="audio")))


def integrated(problem: Problem, points: int, objective: object = None, copies_per_pass: int = 7) -> Estimate:
    attack = MIG(points=points, copies_per_pass=copies_per_pass)
    start = tuple(p.zeros(problem.clip.signal(p.modality)) for p in problem.threat.parts)
    return attack.estimator()(problem, objective or attack.objective(), start, 0)  # type: ignore[arg-type]


def signed(estimate: Estimate, problem: Problem) -> Tensor:
    """(B,) sum of ``x * mean gradient`` over all values: what completeness is about."""
    total = torch.zeros(len(problem.clip), dtype=torch.float64)
    for gradient, part in zip(estimate.gradients, problem.threat.parts, strict=True):
        total += (gradient * problem.clip.signal(part.modality).sign()).flatten(1).sum(1)
    return total


def black(clip: Clip) -> Clip:
    dark = clip.with_signal("video", torch.zeros_like(clip.video))
    return dark if clip.audio is None else dark.with_signal("audio", torch.zeros_like(clip.audio))


def test_completeness() -> None:
    """The integrated gradients of f add up to ``f(x) - f(0)``, to O(1 / points)."""
    model = Smooth(audio=(1, 30))
    problem = problem_for(model, clips(3, samples=30), alternating(3), BOTH)
    objective = LabelScore()
    change = objective(problem, problem.clip)[0] - objective(problem, black(problem.clip))[0]
    errors = [(signed(integrated(problem, points), problem) - change).abs().max() for points in (25, 50, 100)]
    assert errors[0] < 0.1 * change.abs().min()
    assert 1.7 < errors[0] / errors[1] < 2.3, "the error halves with twice the points"
    assert 1.7 < errors[1] / errors[2] < 2.3


@pytest.mark.parametrize("points", [1, 3])
def test_completeness_is_exact_for_a_linear_score(points: int) -> None:
    model = Linear(weights(), audio=weights((1, 30), seed=5))
    problem = problem_for(model, clips(3, samples=30), alternating(3), BOTH)
    change = Margin()(problem, problem.clip)[0] - Margin()(problem, black(problem.clip))[0]
    assert torch.allclose(signed(integrated(problem, points, Margin()), problem), change, rtol=1e-12)


def test_one_point_is_the_value_times_the_gradient() -> None:
    problem = problem_for(Smooth(audio=(1, 30)), clips(3, samples=30), alternating(3), BOTH)
    found = integrated(problem, 1)
    start = tuple(p.zeros(problem.clip.signal(p.modality)) for p in problem.threat.parts)
    expected = plain(problem, LabelScore(), start, 0)
    for gradient, other, part in zip(found.gradients, expected.gradients, problem.threat.parts, strict=True):
        assert torch.allclose(gradient, problem.clip.signal(part.modality).abs() * other, rtol=1e-12, atol=0)
    assert torch.equal(found.objective, expected.objective)
    assert torch.equal(found.logits, expected.logits)


def test_the_gradient_is_that_at_the_points_not_through_them() -> None:
    """By hand: detached points, their own gradients, averaged. Weighting point i by i / s would be another answer."""
    clip, labels = clips(2), torch.tensor([0, 2])
    model = ConvNet().double().eval()
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    total = torch.zeros_like(clip.video)
    for i in (1, 2, 3):
        point = (i / 3 * clip.video).requires_grad_()
        score = -model(Clip(point)).softmax(1).gather(1, labels[:, None]).sum()
        total += torch.autograd.grad(score, point)[0] / 3
    found = integrated(problem, 3).gradients[0]
    assert torch.allclose(found, clip.video * total, rtol=1e-4, atol=1e-9)  # but for the slope that LabelScore adds


@pytest.mark.parametrize("targeted", [False, True])
def test_sound_of_both_signs_moves_the_right_way(targeted: bool) -> None:
    """For f linear in the sound; ``x * gradient`` would push every negative sample the wrong way."""
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    clip, labels = clips(3, samples=50), alternating(3)
    attack = MIG(Linf(0.01, modality="audio"), targeted=targeted, early_stop=False)
    result = attack(model, clip, labels)
    assert model.audio is not None
    moved = (result.clip.signal("audio") - clip.signal("audio")).sign()
    way = model.audio.sign() * signs(labels, clip.signal("audio")) * (-1 if targeted else 1)
    assert torch.equal(moved, way.expand_as(moved))
    assert (clip.signal("audio") < 0).any()


def test_black_pixels_and_silence_can_move() -> None:
    clip = clips(2, samples=20)
    video, audio = clip.video.clone(), clip.signal("audio").clone()
    video[:, :, 1], audio[:, :, :5] = 0, 0
    clip = replace(clip, video=video, audio=audio)
    model = Linear(weights().abs(), audio=weights((1, 20), seed=5))
    result = MIG(BOTH, early_stop=False)(model, clip, torch.zeros(2, dtype=torch.long))
    assert (result.clip.video[:, :, 1] > 0).all()
    assert (result.clip.signal("audio")[:, :, :5] != 0).all()


class Confident(Model):
    """Logits of a `Linear`, times a factor, of three classes."""

    def __init__(self, scale: float, dtype: torch.dtype):
        super().__init__()
        self.inner = Linear(weights(dtype=dtype), scale=scale)

    def forward(self, clip: Clip) -> Tensor:
        logits: Tensor = self.inner(clip)
        return torch.cat([logits, logits.mean(1, keepdim=True)], 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 20.0, 1e4])
def test_the_score_is_the_softmax_probability_and_its_gradient_survives(scale: float) -> None:
    model = Confident(scale, torch.float32)
    clip, labels = clips(6, dtype=torch.float32), torch.tensor([0, 1, 2, 0, 1, 2])
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    value, logits = LabelScore()(problem, clip)
    probability = logits.double().softmax(1).gather(1, labels[:, None])[:, 0]
    odds = [z[y] - torch.cat([z[:y], z[y + 1 :]]).logsumexp(0) for z, y in zip(logits.double(), labels, strict=True)]
    assert torch.allclose(value.double(), -probability - 1e-6 * torch.stack(odds), rtol=1e-4, atol=1e-6)
    toward = LabelScore()(replace(problem, targeted=True), clip)[0]
    assert torch.equal(toward, -value)
    gradient = plain(problem, LabelScore(), (torch.zeros_like(clip.video),)).gradients[0]
    assert (gradient[:5].flatten(1).abs().amax(1) > 0).all()
    margin_gradient = plain(problem, Margin(), (torch.zeros_like(clip.video),)).gradients[0]
    for i in (0, 1, 3, 4):
        assert torch.equal(gradient[i].sign(), margin_gradient[i].sign())


@pytest.mark.parametrize("odds", [-3.0, 0.0, 2.0, 15.0, 40.0, -40.0])
def test_the_gradient_of_the_score_is_that_of_the_sigmoid(odds: float) -> None:
    problem = problem_for(Smooth(), clips(1), torch.tensor([0]), Linf(8 / 255))
    logits = torch.tensor([[odds, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(LabelScore().value(logits, problem), logits)
    exact = torch.sigmoid(torch.tensor(-abs(odds), dtype=torch.float64))
    assert found[0, 0].item() == pytest.approx(-(exact * (1 - exact)).item() - 1e-6, rel=1e-5)
    assert found[0, 0].item() == pytest.approx(-found[0, 1].item())


@pytest.mark.parametrize("copies_per_pass", [1, 3, 20])
def test_points_per_pass_do_not_change_the_result(copies_per_pass: int) -> None:
    model, clip, labels = ConvNet().double(), clips(3), torch.tensor([0, 1, 2])
    expected = MIG(steps=3, early_stop=False)(model, clip, labels)
    found = MIG(steps=3, early_stop=False, copies_per_pass=copies_per_pass)(model, clip, labels)
    assert torch.equal(found.clip.video, expected.clip.video)


def test_passes_are_counted() -> None:
    model = Watched(ConvNet().double())
    clip, labels = clips(3), torch.tensor([0, 1, 2])
    result = MIG(steps=4, points=6, early_stop=False)(model, clip, labels)
    assert result.backward_passes.tolist() == [6 * 4] * 3
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


def test_one_linear_step_is_fgsm() -> None:
    """On a linear model every point has the same gradient: the sign of the first step is that of MI-FGSM."""
    model, clip, labels = Linear(weights()), clips(3), alternating(3)
    found = MIG(steps=1, early_stop=False)(model, clip, labels)
    assert torch.equal(found.clip.video, MIFGSM(steps=1, early_stop=False)(model, clip, labels).clip.video)


def test_the_path_passes_through_a_warp() -> None:
    """The weights belong to pixels; whatever made the pixels is differentiated after them."""
    problem = problem_for(Smooth(), clips(2), alternating(2), FlowField(1.0))
    point = (torch.full((2, 2, 4, 6, 8), 0.3, dtype=torch.float64),)
    found = MIG(points=1).estimator()(problem, Margin(), point, 0).gradients[0]
    variable = point[0].clone().requires_grad_()
    warped = problem.threat.perturb(problem.clip, (variable,), (None,))
    (at_pixels,) = torch.autograd.grad(Margin()(problem, Clip(warped.video))[0].sum(), warped.video, retain_graph=True)
    (expected,) = torch.autograd.grad(warped.video, variable, at_pixels * warped.video.detach())
    assert torch.allclose(found, expected, rtol=1e-10)


def test_specs_and_refusals() -> None:
    assert load_attack("mig(points=5, decay=0.5)") == MIG(points=5, decay=0.5)
    estimator = MIG().estimator()
    assert isinstance(estimator, Averaged)
    assert estimator.transform == PathFromBlack(20)
    with pytest.raises(InputError, match="points=0"):
        MIG(points=0)
    with pytest.raises(InputError, match="At least one copy"):
        MIG(copies_per_pass=0)
