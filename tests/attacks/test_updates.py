"""Update rules against their definitions, and the degenerate cases in which one attack is another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Smooth, alternating, clips, problem_for, short

from robustvideo.attacks import FGSM, IFGSM, MIFGSM, NIFGSM
from robustvideo.attacks.attack import Attack
from robustvideo.attacks.updates import AdamStep, MomentumStep, NesterovStep, Position, State, SteepestStep, UpdateRule
from robustvideo.clip import Clip
from robustvideo.threat import L2, L21, FlowField, Linf, NormBall, Part, ThreatModel

THREATS: list[ThreatModel] = [Linf(8 / 255), L2(1.0), L21(0.1), FlowField(1.0)]


def ask(rule: UpdateRule, part: Part, variable: Tensor, state: State, eps: Tensor) -> Tensor:
    """Where the rule wants its next gradient."""
    labels = torch.zeros(len(variable), dtype=torch.long)
    problem = problem_for(Smooth(), Clip(torch.full_like(variable, 0.5)), labels, part)
    return rule.query(replace(problem, eps=(eps,)), (variable,), (state,))[0]


def move(rule: UpdateRule, part: Part, variable: Tensor, gradient: Tensor, state: State, eps: Tensor, step: int = 0):
    here = Position(
        part=part,
        signal=torch.full_like(variable, 0.5),
        eps=eps,
        mask=None,
        variable=variable,
        gradient=gradient,
        value=torch.zeros_like(eps),
        step=step,
        steps=10,
    )
    return rule.step(here, state)


def same(a: Attack, b: Attack) -> None:
    clip, labels = clips(5), torch.arange(5) % 3
    model = ConvNet().double()
    one, other = a(model, clip, labels), b(model, clip, labels)
    assert torch.equal(one.clip.video, other.clip.video)
    assert torch.equal(one.success, other.success)
    assert torch.equal(one.loss_trace.isnan(), other.loss_trace.isnan())
    torch.testing.assert_close(one.logits, other.logits)  # a verdict on part of a batch rounds differently
    assert not torch.equal(one.clip.video, clip.video)


@pytest.mark.parametrize("kind", [IFGSM, MIFGSM, NIFGSM])
@pytest.mark.parametrize("threat", THREATS, ids=short)
def test_one_step_is_fgsm(kind: type, threat: ThreatModel) -> None:
    same(kind(threat, steps=1), FGSM(threat))


@pytest.mark.parametrize("kind", [IFGSM, MIFGSM, NIFGSM])
@pytest.mark.parametrize("threat", THREATS, ids=short)
def test_one_step_that_overshoots_is_kept_by_fgsm_alone(kind: type, threat: ThreatModel) -> None:
    clip, labels, model = clips(5), torch.arange(5) % 3, ConvNet().double()
    best = kind(threat, steps=1, early_stop=False)(model, clip, labels)
    last = FGSM(threat, early_stop=False)(model, clip, labels)
    differs = (best.clip.video != last.clip.video).flatten(1).any(1)
    assert torch.equal(best.clip.video[differs], clip.video[differs])
    assert (best.margin >= last.margin).all()
    assert (last.clip.video != clip.video).flatten(1).any(1).all()


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("kind", [MIFGSM, NIFGSM])
@pytest.mark.parametrize("threat", [Linf(8 / 255), FlowField(1.0)], ids=short)
def test_without_decay_momentum_is_ifgsm_bit_for_bit(kind: type, threat: ThreatModel, early_stop: bool) -> None:
    same(kind(threat, decay=0.0, early_stop=early_stop), IFGSM(threat, early_stop=early_stop))


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_nesterov_looks_ahead_by_alpha_times_decay_on_average(decay: float) -> None:
    rule = NesterovStep(0.1, decay)
    part = Linf(8 / 255)
    eps = torch.tensor([8 / 255, 2 / 255], dtype=torch.float64)
    start = torch.zeros(2, 3, 4, 6, 8, dtype=torch.float64)
    gradient = 1e-7 * torch.randn(start.shape, dtype=torch.float64)
    assert torch.equal(ask(rule, part, start, rule.init(start), eps), start)
    moved, state = move(rule, part, start, gradient, rule.init(start), eps)
    ahead = ask(rule, part, moved, state, eps) - moved
    assert torch.allclose(ahead.abs().flatten(1).mean(1), 0.1 * eps * decay)
    assert torch.equal(ahead.sign(), gradient.sign())


@pytest.mark.parametrize("part", [L2(1.0), L21(0.1)], ids=short)
def test_nesterov_looks_ahead_by_about_a_step_in_every_norm(part: NormBall) -> None:
    """A look-ahead far outside the ball would take its gradient at a clip that no one attacks."""
    rule = NesterovStep(0.1, 1.0)
    eps = torch.full((2,), part.eps, dtype=torch.float64)
    start = torch.zeros(2, 3, 4, 20, 20, dtype=torch.float64)
    gradient = torch.randn(start.shape, dtype=torch.float64)
    moved, state = move(rule, part, start, gradient, rule.init(start), eps)
    ahead = ask(rule, part, moved, state, eps) - moved
    per_frame = ahead.square().mean((1, 3, 4)).sqrt().sum(1)
    distance = ahead.flatten(1).norm(dim=1) if isinstance(part, L2) else per_frame
    assert (distance <= 0.3 * eps).all(), (distance / eps).tolist()
    assert (distance >= 0.03 * eps).all(), (distance / eps).tolist()


def test_momentum_is_the_decayed_sum_of_normalised_gradients_per_clip() -> None:
    rule = MomentumStep(0.1, 0.9)
    part = Linf(8 / 255)
    eps = torch.full((3,), 8 / 255, dtype=torch.float64)
    variable = torch.zeros(3, 3, 4, 6, 8, dtype=torch.float64)
    state = rule.init(variable)
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    expected = torch.zeros_like(variable)
    for _ in range(4):
        gradient = torch.randn(variable.shape, dtype=torch.float64) * scale
        expected = 0.9 * expected + gradient / torch.stack([g.abs().mean() for g in gradient]).view(-1, 1, 1, 1, 1)
        before = variable
        variable, state = move(rule, part, variable, gradient, state, eps)
        assert torch.allclose(state["momentum"], expected)
        assert torch.allclose(variable - before, 0.1 * 8 / 255 * expected.sign())


@pytest.mark.parametrize("rule", [SteepestStep(0.3), MomentumStep(0.3), NesterovStep(0.3), AdamStep(0.3)], ids=short)
@pytest.mark.parametrize("part", THREATS, ids=short)
def test_a_zero_gradient_does_not_move(rule: UpdateRule, part: ThreatModel) -> None:
    single = part.parts[0]
    variable = torch.rand(2, 3, 4, 6, 8, dtype=torch.float64)
    eps = torch.full((2,), 0.1, dtype=torch.float64)
    moved, state = move(rule, single, variable, torch.zeros_like(variable), rule.init(variable), eps)
    assert torch.equal(moved, variable)
    assert torch.equal(ask(rule, single, moved, state, eps), variable)


def test_the_step_is_a_share_of_each_clip_s_budget() -> None:
    eps = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    variable = torch.zeros(3, 3, 4, 6, 8, dtype=torch.float64)
    gradient = torch.randn(variable.shape, dtype=torch.float64)
    for part in (Linf(0.1), L2(0.1)):
        moved, _ = move(SteepestStep(0.25), part, variable, gradient, {}, eps)
        size = moved.flatten(1).abs().amax(1) if isinstance(part, Linf) else moved.flatten(1).norm(dim=1)
        assert torch.allclose(size, 0.25 * eps)


def test_step_size_is_in_the_unit_of_the_budget() -> None:
    clip, labels = clips(2), alternating(2)
    attack = IFGSM(Linf(8 / 255, stored=False), steps=1, step_size=2 / 255, early_stop=False)
    change: Tensor = attack(Smooth(), clip, labels).clip.video - clip.video
    assert torch.allclose(change.abs(), torch.full_like(change, 2 / 255))


def test_adam_ascends_as_torch_s_does() -> None:
    gradients = torch.randn(6, 2, 3, 4, 6, 8, dtype=torch.float64)
    reference = torch.zeros(2, 3, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([reference], lr=0.01, maximize=True)
    rule, variable = AdamStep(0.01), torch.zeros_like(reference).detach()
    state, eps = rule.init(variable), torch.full((2,), 0.1, dtype=torch.float64)
    for step, gradient in enumerate(gradients):
        reference.grad = gradient.clone()
        optimiser.step()
        variable, state = move(rule, Linf(0.1), variable, gradient, state, eps, step)
        assert torch.allclose(variable, reference.detach(), rtol=1e-9, atol=1e-15)
