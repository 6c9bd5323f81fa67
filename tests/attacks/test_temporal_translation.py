"""Temporal translation against shifts made and undone by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import ConvNet, Linear, TwoClass, Watched, alternating, clips, problem_for, short, weights

from robustvideo.attacks import IFGSM, MIFGSM, load_attack
from robustvideo.attacks.attack import AttackResult, Problem
from robustvideo.attacks.averaged import Copies, repeat
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy, Margin
from robustvideo.attacks.temporal_translation import (
    FrameMomentumStep,
    TemporalTranslation,
    Translation,
    kernel_weights,
    over_frame_mean,
    roll_frames,
)
from robustvideo.attacks.updates import Position, over_mean
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import FlowField, Joint, Linf

SHIFTS = ["adjacent", "remote", "random"]
KERNELS = ["uniform", "linear", "gaussian"]


class Flat3D(Model):
    """A random 3-D convolution whose head sees every place in time: shifts change everything."""

    def __init__(self, frames: int):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.conv = nn.Conv3d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * frames, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5)
        self.double()

    def forward(self, clip: Clip) -> Tensor:
        return self.head(torch.tanh(self.conv(clip.video)).mean((3, 4)).flatten(1))


class MeanFrame(Model):
    """Blind to cyclic shifts: a 2-D network of the mean over frames of a per-frame feature."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
        self.double()

    def forward(self, clip: Clip) -> Tensor:
        frames = clip.video.transpose(1, 2).flatten(0, 1)
        features = torch.tanh(self.conv(frames)).mean((2, 3)).view(len(clip), clip.frames, -1)
        return self.head(features.mean(1))


class FirstFrame(TwoClass):
    """Reads frame 0 alone."""

    def value(self, clip: Clip) -> Tensor:
        return clip.video[:, :, 0].flatten(1).sum(1)


def gradient(attack: TemporalTranslation, problem: Problem, step: int = 0) -> Tensor:
    start = tuple(p.zeros(problem.clip.signal(p.modality)) for p in problem.threat.parts)
    return attack.estimator()(problem, Margin(), start, step).gradients[0]


def same(one: AttackResult, other: AttackResult) -> None:
    assert torch.equal(one.clip.video, other.clip.video)
    assert one.first_success_step.tolist() == other.first_success_step.tolist()


@pytest.mark.parametrize("shifts", SHIFTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_on_a_model_blind_to_shifts_it_is_the_plain_gradient(shifts: str, kernel: str) -> None:
    problem = problem_for(MeanFrame(), clips(3), torch.tensor([0, 1, 2]), Linf(8 / 255))
    found = gradient(TemporalTranslation(reach=5, shifts=shifts, kernel=kernel), problem)  # type: ignore[arg-type]
    expected = plain(problem, Margin(), (torch.zeros_like(problem.clip.video),)).gradients[0]
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("frames", [4, 7])
@pytest.mark.parametrize("shifts", SHIFTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_the_sum_of_gradients_taken_shifted_and_shifted_back(shifts: str, kernel: str, frames: int) -> None:
    """By hand: one clip, one shift at a time, the gradient at the rolled clip, rolled back by the same number."""
    clip, labels = clips(3, shape=(3, frames, 5, 6)), torch.tensor([0, 1, 2])
    model = Flat3D(frames)
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    attack = TemporalTranslation(reach=3, shifts=shifts, kernel=kernel, copies_per_pass=2)  # type: ignore[arg-type]
    estimate = attack.estimator()(problem, CrossEntropy(), (torch.zeros_like(clip.video),), 4)
    rows = repeat(problem, 7)
    moves = Translation(3, shifts).drawn(Copies(rows, tuple(range(7)) * 3, 4), frames).view(3, 7)  # type: ignore[arg-type]
    for i in range(3):
        total = torch.zeros_like(clip.video[:1])
        for move, weight in zip(moves[i].tolist(), kernel_weights(kernel, 3), strict=True):  # type: ignore[arg-type]
            shifted = torch.empty_like(total)
            for t in range(frames):
                shifted[:, :, (t + move) % frames] = clip.video[i : i + 1, :, t]
            shifted.requires_grad_()
            loss = F.cross_entropy(model(Clip(shifted)), labels[i : i + 1])
            (g,) = torch.autograd.grad(loss, shifted)
            for t in range(frames):
                total[:, :, t] += weight * g[:, :, (t + move) % frames]
        assert torch.allclose(estimate.gradients[0][i : i + 1], total, rtol=1e-9, atol=1e-13)
    assert torch.allclose(estimate.logits, model(clip), rtol=1e-12)


def test_the_three_kinds_of_shift() -> None:
    problem = problem_for(MeanFrame(), clips(2, shape=(3, 8, 4, 4)), torch.tensor([0, 1]), Linf(8 / 255))
    numbers = tuple(range(7))
    rows = repeat(problem, 7)

    def drawn(shifts: str, step: int = 0, frames: int = 8) -> list[list[int]]:
        return Translation(3, shifts).drawn(Copies(rows, numbers * 2, step), frames).view(2, 7).tolist()  # type: ignore[arg-type]

    assert drawn("adjacent") == [[-3, -2, -1, 0, 1, 2, 3]] * 2
    assert drawn("remote") == [[-6, -5, -4, 0, 4, 5, 6]] * 2
    assert drawn("remote", frames=4) == [[0, -3, -2, 0, 2, 3, 0]] * 2
    draws = [drawn("random", step) for step in range(40)]
    assert all(row[3] == 0 for both in draws for row in both)
    assert all(-7 <= s <= 0 for both in draws for row in both for s in row[:3])
    assert all(0 <= s <= 7 for both in draws for row in both for s in row[4:])
    assert {s for both in draws for row in both for s in row[4:]} == set(range(8))
    assert draws[0] == drawn("random", 0) != draws[1]
    assert draws[0][0] != draws[0][1], "each clip draws its own shifts"


def test_a_gradient_on_one_frame_lands_where_the_shift_took_it_from() -> None:
    """``roll(x, s)[0] = x[-s mod T]``: a model of frame 0 puts weight w_k on frame -s_k mod T."""
    clip = clips(1, shape=(3, 16, 2, 2))
    problem = problem_for(FirstFrame(), clip, torch.zeros(1, dtype=torch.long), Linf(8 / 255))
    for shifts in ("adjacent", "remote"):
        found = gradient(TemporalTranslation(reach=3, shifts=shifts, kernel="linear"), problem)[0, 0, :, 0, 0]  # type: ignore[arg-type]
        expected = torch.zeros(16, dtype=torch.float64)
        for k in range(-3, 4):
            shift = k if shifts == "adjacent" else (k > 0) * (k + 7) + (k < 0) * (k - 7)
            expected[-shift % 16] += (1 - abs(k) / 4) / 4
        assert torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("eps", [2 / 255, 16 / 255])
def test_without_reach_it_is_ifgsm_and_with_momentum_mifgsm(eps: float, early_stop: bool) -> None:
    model, clip, labels = ConvNet().double(), clips(6), torch.arange(6) % 3
    still = TemporalTranslation(eps=eps, reach=0, early_stop=early_stop)(model, clip, labels)
    same(still, IFGSM(eps=eps, early_stop=early_stop)(model, clip, labels))
    heavy = TemporalTranslation(eps=eps, reach=0, momentum=1, normalise="clip", early_stop=early_stop)
    same(heavy(model, clip, labels), MIFGSM(eps=eps, early_stop=early_stop)(model, clip, labels))


def test_one_step_with_momentum_is_one_step_without() -> None:
    model, clip, labels = ConvNet().double(), clips(3), torch.tensor([0, 1, 2])
    plainly = TemporalTranslation(steps=1, early_stop=False)(model, clip, labels)
    for normalise in ("frame", "clip"):
        attack = TemporalTranslation(steps=1, momentum=1, normalise=normalise, early_stop=False)  # type: ignore[arg-type]
        same(plainly, attack(model, clip, labels))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reach", [0, 1, 7])
def test_kernels_sum_to_one_and_are_symmetric_and_peaked(kernel: str, reach: int) -> None:
    found = kernel_weights(kernel, reach)  # type: ignore[arg-type]
    assert len(found) == 2 * reach + 1
    assert sum(found) == pytest.approx(1, abs=1e-15)
    assert found == found[::-1]
    assert list(found[: reach + 1]) == sorted(found[: reach + 1])
    assert min(found) > 0


def test_kernels_have_the_published_shapes() -> None:
    assert kernel_weights("uniform", 1) == pytest.approx((1 / 3,) * 3)
    assert kernel_weights("linear", 1) == pytest.approx((0.25, 0.5, 0.25))
    gauss = kernel_weights("gaussian", 6)  # standard deviation 2
    assert gauss[6 + 2] / gauss[6] == pytest.approx(2.718281828**-0.5)
    assert gauss[6 + 4] / gauss[6] == pytest.approx(2.718281828**-2)


def test_roll_frames_is_torch_roll_row_by_row() -> None:
    video = torch.rand(6, 3, 5, 2, 3)
    shifts = torch.tensor([0, 1, -1, 4, 12, -103])
    expected = torch.stack([v.roll(int(s), 1) for v, s in zip(video, shifts, strict=True)])
    assert torch.equal(roll_frames(video, shifts), expected)
    strided = video.transpose(3, 4).contiguous().transpose(3, 4)
    assert torch.equal(roll_frames(strided, shifts), expected)
    sound = torch.rand(6, 2, 7)
    assert torch.equal(
        roll_frames(sound, shifts), torch.stack([v.roll(int(s), 1) for v, s in zip(sound, shifts, strict=True)])
    )
    assert torch.equal(roll_frames(roll_frames(video, shifts), -shifts), video)


def test_sound_stays_unless_it_is_asked_to_move() -> None:
    clip = clips(2, samples=40)  # ten samples per frame
    rows = repeat(problem_for(MeanFrame(), clip, alternating(2), Linf(8 / 255)), 3)
    copies = Copies(rows, (0, 1, 2) * 2, 0)
    still = Translation(1)(rows.clip, copies)
    assert torch.equal(still.signal("audio"), rows.clip.signal("audio"))
    assert torch.equal(still.video[0], rows.clip.video[0].roll(-1, 1))
    moved = Translation(1, roll_sound=True)(rows.clip, copies)
    assert torch.equal(moved.video, still.video)
    assert torch.equal(moved.signal("audio")[0], clip.signal("audio")[0].roll(-10, 1))
    assert torch.equal(moved.signal("audio")[1], clip.signal("audio")[0])
    assert torch.equal(moved.signal("audio")[5], clip.signal("audio")[1].roll(10, 1))


def position(gradient: Tensor) -> Position:
    signal = torch.full_like(gradient, 0.5)
    budgets = torch.full((len(gradient),), 0.1)
    return Position(Linf(0.1), signal, budgets, None, torch.zeros_like(gradient), gradient, torch.zeros(1), 0, 2)


def test_momentum_gives_every_frame_the_same_weight() -> None:
    """A frame whose gradient is a thousandth of the others' is forgotten by the clip's norm, not by the frame's."""
    rule = FrameMomentumStep(0.5)
    first, second = torch.ones(2, 3, 4, 2, 2), -0.5 * torch.ones(2, 3, 4, 2, 2)
    first[:, :, 1] *= 1e-3
    _, state = rule.step(position(first), rule.init(first))
    assert torch.allclose(state["momentum"], torch.ones_like(first))
    _, state = rule.step(position(second), state)
    assert torch.allclose(state["momentum"], torch.zeros_like(first), atol=1e-6)
    zero = torch.zeros(1, 3, 4, 2, 2)
    zero[:, :, 0] = 2
    assert over_frame_mean(zero).isfinite().all()
    assert not over_frame_mean(zero)[:, :, 1:].any()
    assert torch.equal(over_frame_mean(first[..., 0, 0]), over_mean(first[..., 0, 0]))


@pytest.mark.parametrize("copies_per_pass", [1, 4, 15])
def test_shifts_per_pass_do_not_change_the_result(copies_per_pass: int) -> None:
    model, clip, labels = ConvNet().double(), clips(3), torch.tensor([0, 1, 2])
    attack = TemporalTranslation(shifts="random", momentum=1, early_stop=False)
    same(attack(model, clip, labels), replace(attack, copies_per_pass=copies_per_pass)(model, clip, labels))


def test_passes_are_counted() -> None:
    model = Watched(ConvNet().double())
    clip, labels = clips(3), torch.tensor([0, 1, 2])
    result = TemporalTranslation(reach=2, steps=4, early_stop=False)(model, clip, labels)
    assert result.backward_passes.tolist() == [5 * 4] * 3
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]
    assert (result.forward_passes >= 5 * 4 + 1).all()


@pytest.mark.parametrize("shifts", SHIFTS)
@pytest.mark.parametrize(
    "threat",
    [FlowField(1.0), Joint((Linf(8 / 255), Linf(0.01, modality="audio")))],
    ids=short,
)
def test_other_threat_models_and_sound(threat: FlowField | Joint, shifts: str) -> None:
    clip, labels = clips(3, samples=50), alternating(3)
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    attack = TemporalTranslation(threat, shifts=shifts, momentum=1, early_stop=False, steps=3)  # type: ignore[arg-type]
    result = attack(model, clip, labels)
    together = result.clip.video
    alone = attack(model, clip.select([2]), labels[2:]).clip.video
    assert torch.equal(alone[0], together[2])
    assert not torch.equal(together, clip.video)


def test_specs_and_refusals() -> None:
    attack = load_attack("temporal_translation(eps=16/255, shifts=remote, kernel=linear, momentum=1)")
    assert attack == TemporalTranslation(eps=16 / 255, shifts="remote", kernel="linear", momentum=1.0)
    for options, message in (
        ({"shifts": "far"}, "Unknown value of shifts="),
        ({"kernel": "gauss"}, "did you mean 'gaussian'"),
        ({"normalise": "batch"}, "Unknown value of normalise="),
        ({"reach": -1}, "reach=-1"),
        ({"momentum": -0.5}, "momentum=-0.5"),
        ({"copies_per_pass": 0}, "At least one copy"),
        ({"restarts": 2}, "every restart would be the same"),
    ):
        with pytest.raises(InputError, match=message):
            TemporalTranslation(**options)  # type: ignore[arg-type]
