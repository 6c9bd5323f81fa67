"""The temporal step: closed forms of equations 5 and 6, and both readings of the index."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import Linear as LinearModel
from toys import clips, problem_for, weights

from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.attacks.temporal_momentum import TemporalStep, along_frames, damping, frame_norms
from robustvideo.attacks.updates import Position
from robustvideo.threat import L2, FlowField, Linf, Part

EPS = 8 / 255


def position(gradient: Tensor, part: Part | None = None, eps: Tensor | None = None) -> Position:
    part = part or Linf(EPS, stored=False)
    signal = torch.full((len(gradient), 3, *gradient.shape[2:]), 0.5, dtype=torch.float64)
    return Position(
        part=part,
        signal=signal,
        eps=torch.full((len(gradient),), part.eps, dtype=torch.float64) if eps is None else eps,
        mask=None,
        variable=torch.zeros_like(gradient),
        gradient=gradient,
        value=torch.zeros(len(gradient)),
        step=0,
        steps=10,
    )


def gradient_of(norms: list[list[float]]) -> Tensor:
    """(B, 3, T, 2, 2) gradients whose frames have the given norms."""
    wanted = torch.tensor(norms, dtype=torch.float64)
    random = torch.randn(*wanted.shape, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = random / random.flatten(2).norm(dim=2)[..., None, None, None]
    return (unit * wanted[..., None, None, None]).transpose(1, 2)


def sizes(rule: TemporalStep, gradient: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
    """(B, T) length of the step in every frame."""
    moved, _ = rule.step(position(gradient), rule.init(gradient) if state is None else state)
    return moved.abs().amax((1, 3, 4))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("norm", [0.01, 1.0, 40.0])
def test_equal_frames_have_the_closed_form(norm: float, beta: float) -> None:
    frames = 6
    found = sizes(TemporalStep(0.25, beta), gradient_of([[norm] * frames]))[0]
    for t in range(1, frames + 1):
        v = norm * (1 - beta**t) / (1 - beta)
        assert found[t - 1] == pytest.approx(0.25 * EPS / (1 + math.log(1 + math.sqrt(v))))


@pytest.mark.parametrize(("v", "share"), [(0.01, 0.91), (0.1, 0.78), (1, 0.59), (10, 0.41), (100, 0.29)])
def test_the_share_of_the_step_that_is_left(v: float, share: float) -> None:
    assert damping(torch.tensor(v)).item() == pytest.approx(share, abs=0.005)


def test_no_step_is_longer_than_the_plain_one_and_larger_gradients_take_shorter_ones() -> None:
    found = sizes(TemporalStep(0.25, 0.0), gradient_of([[0.0, 1e-3, 0.1, 1.0, 7.0, 1e4]]))[0]
    assert found[0] == 0, "a frame without gradient does not move"
    assert (found[1:] <= 0.25 * EPS).all()
    assert (found[2:] < found[1:-1]).all()
    assert (found[1:] > 0).all()


def test_the_direction_is_the_sign_and_the_scale_of_the_loss_changes_only_the_length() -> None:
    gradient = gradient_of([[1.0, 2.0, 0.5]])
    rule = TemporalStep(0.25)
    once, thrice = (rule.step(position(c * gradient), {})[0] for c in (1, 3))
    assert torch.equal(once.sign(), gradient.sign())
    assert torch.equal(thrice.sign(), gradient.sign())
    assert (thrice.abs() < once.abs()).all()


def test_along_frames_the_second_inherits_and_per_step_it_does_not() -> None:
    gradient, beta = gradient_of([[1.0, 0.0, 0.0, 0.0]]), 0.9
    assert torch.allclose(
        along_frames(frame_norms(gradient), beta)[0], torch.tensor([beta**t for t in range(4)], dtype=torch.float64)
    )
    per_step = TemporalStep(0.25, beta, "steps")
    _, state = per_step.step(position(gradient), per_step.init(gradient))
    assert torch.allclose(state["accumulated"][0], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    _, state = per_step.step(position(gradient_of([[2.0, 3.0, 0.0, 0.0]])), state)
    assert torch.allclose(state["accumulated"][0], torch.tensor([2 + beta, 3.0, 0, 0], dtype=torch.float64))
    assert TemporalStep(0.25, beta).init(gradient) == {}


def test_the_recursion_is_the_explicit_loop() -> None:
    norms = torch.rand(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v, expected = torch.zeros(3, dtype=torch.float64), []
    for t in range(9):
        v = 0.7 * v + norms[:, t]
        expected.append(v)
    assert torch.allclose(along_frames(norms, 0.7), torch.stack(expected, 1))


@pytest.mark.parametrize("momentum", ["frames", "steps"])
def test_budgets_and_clips_stay_apart(momentum: str) -> None:
    gradient = gradient_of([[1.0, 2.0], [5.0, 0.1], [0.3, 0.3]])
    eps = torch.tensor([EPS, EPS / 2, 0.0], dtype=torch.float64)
    rule = TemporalStep(0.25, momentum=momentum)  # type: ignore[arg-type]
    together, _ = rule.step(position(gradient, eps=eps), rule.init(gradient))
    for i in range(3):
        alone, _ = rule.step(position(gradient[i : i + 1], eps=eps[i : i + 1]), rule.init(gradient[i : i + 1]))
        assert torch.equal(alone[0], together[i])
    assert (together[2] == 0).all()


def test_other_parts_step_along_their_own_steepest_direction() -> None:
    gradient = gradient_of([[1.0, 2.0]])
    rule = TemporalStep(0.25, 0.0)
    part = L2(1.0, stored=False)
    moved, _ = rule.step(position(gradient, part), {})
    expected = 0.25 * gradient / gradient.norm() * damping(frame_norms(gradient))[:, None, :, None, None]
    assert torch.allclose(moved, expected)
    flow, _ = rule.step(position(gradient[:, :2].contiguous(), FlowField(1.0)), {})
    assert flow.shape == (1, 2, 2, 2, 2)


def test_sound_counts_as_one_frame() -> None:
    gradient = torch.tensor([[[3.0, -4.0]]], dtype=torch.float64)
    part = Linf(0.01, modality="audio", stored=False)
    here = position(gradient, part)
    moved, _ = TemporalStep(0.5).step(here, {})
    size = 0.5 * 0.01 / (1 + math.log(1 + math.sqrt(5)))
    assert torch.allclose(moved, size * gradient.sign())


def test_the_gradient_norm_is_that_of_the_clip_alone() -> None:
    """Of a mean over the batch it would shrink with the batch, and the steps would grow."""
    model, clip, labels = LinearModel(weights()), clips(4), torch.zeros(4, dtype=torch.long)
    problem = problem_for(model, clip, labels, Linf(EPS))
    together = plain(problem, CrossEntropy(), (torch.zeros_like(clip.video),)).gradients[0]
    index = torch.tensor([2])
    alone = plain(problem.select(index), CrossEntropy(), (torch.zeros_like(clip.video[index]),)).gradients[0]
    assert torch.allclose(frame_norms(together)[index], frame_norms(alone), rtol=1e-12)
