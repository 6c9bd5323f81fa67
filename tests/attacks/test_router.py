"""Attacks on a router: closed forms on linear routers, the sign of the guidance, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import Linear, alternating, clips, mixture, problem_for, weights

from robustvideo.attacks import PGDR, TLAR, TLGAR, Attack, load_attack
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.router import RouterLoss
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models.moe import MixtureOfExperts
from robustvideo.threat import Linf

EPS = 8 / 255
LINF = Linf(EPS, stored=False)
LABELS = torch.tensor([0, 1, 2, 0])


def optimum(model: MixtureOfExperts, clip: Clip, towards: Tensor, away: Tensor) -> Tensor:
    """``clean + eps * sign(W_towards - W_away)``, clip by clip."""
    weight = model.router.weight.detach()
    return clip.video + EPS * (weight[towards] - weight[away]).sign()


def routes(model: MixtureOfExperts, clip: Clip) -> tuple[Tensor, Tensor]:
    """The clean choice and the expert of lowest logit."""
    logits = model.router(clip)
    return logits.argmax(1), logits.argmin(1)


@pytest.mark.parametrize("attack", [PGDR(LINF, keep="last"), TLAR(LINF, lam=0, step_size=EPS, keep="last")])
def test_away_from_one_of_two_experts_is_straight_to_the_other(attack: Attack) -> None:
    model, clip = mixture(2), clips(4)
    chosen, _ = routes(model, clip)
    result = attack(model, clip, LABELS)
    assert torch.allclose(result.clip.video, optimum(model, clip, 1 - chosen, chosen), atol=1e-12)


def test_guidance_pulls_to_the_weakest_of_three_and_not_away_from_it() -> None:
    """With lambda 0 and gamma1 1 the objective is ``R_yhat - R_y``, whatever the middle expert says."""
    model, clip = mixture(3), clips(4)
    chosen, weakest = routes(model, clip)
    result = TLGAR(LINF, lam=0, step_size=EPS, steps=20, keep="last")(model, clip, LABELS)
    assert torch.allclose(result.clip.video, optimum(model, clip, weakest, chosen), atol=1e-12)
    before, after = (F.cross_entropy(model.router(c), weakest, reduction="none") for c in (clip, result.clip))
    assert (after < before).all()


def test_gradient_of_the_guided_objective_is_the_difference_of_two_logits() -> None:
    model, clip = mixture(4), clips(4)
    loss = RouterLoss(LipschitzTerm(0.0), gamma1=1.0)
    problem = problem_for(model, clip, LABELS, LINF)
    problem = replace(problem, reference=loss.reference(problem))
    router = (50 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    value = loss.value(router, problem, clip)
    chosen, weakest = routes(model, clip)
    rows = torch.arange(4)
    assert torch.allclose(value, router[rows, weakest] - router[rows, chosen])
    (gradient,) = torch.autograd.grad(value.sum(), router)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[rows, weakest], expected[rows, chosen] = 1.0, -1.0
    assert torch.allclose(gradient, expected, atol=1e-12)


@pytest.mark.parametrize("space", ["logits", "probs"])
@pytest.mark.parametrize("gamma1", [0.0, 0.7])
def test_the_objective_is_equation_8_and_9(gamma1: float, space: str) -> None:
    model, clip = mixture(3), clips(4)
    delta = 0.02 * torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = Clip(clip.video + delta)
    loss = RouterLoss(LipschitzTerm(0.3, space=space), gamma1)  # type: ignore[arg-type]
    problem = problem_for(model, clip, LABELS, LINF)
    problem = replace(problem, reference=loss.reference(problem))
    found, logits = loss(problem, moved)
    before, after = model.router(clip), model.router(moved)
    chosen, weakest = routes(model, clip)
    pair = (before, after) if space == "logits" else (before.softmax(1), after.softmax(1))
    ratio = (pair[0] - pair[1]).square().mean(1) / delta.square().flatten(1).mean(1)
    expected = F.cross_entropy(after, chosen, reduction="none") + 0.3 * ratio
    expected = expected - gamma1 * F.cross_entropy(after, weakest, reduction="none")
    assert torch.allclose(found, expected)
    assert torch.allclose(logits, model(moved)), "the margin is the whole model's"


@pytest.mark.parametrize("gamma1", [0.0, 1.0])
def test_the_experts_parameters_are_not_in_the_graph_of_the_router_s_loss(gamma1: float) -> None:
    model, clip = mixture(3), clips(4)
    loss = RouterLoss(LipschitzTerm(0.01), gamma1=gamma1)
    problem = replace(problem_for(model, clip, LABELS, LINF), gradient_model=model)
    problem = replace(problem, reference=loss.reference(problem))
    moved = Clip(clip.video + 0.01, ids=clip.ids)
    value, _ = loss(problem, moved)
    experts = list(model.experts.parameters())
    of_experts = torch.autograd.grad(value.sum(), experts, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in of_experts)
    assert all((gradient != 0).any() for gradient in torch.autograd.grad(value.sum(), list(model.router.parameters())))


@pytest.mark.parametrize("spec", ["pgd_r", "tla_r", "tlga_r", "tlga_r(space=logits, gamma1=2)"])
def test_where_a_climb_ends_does_not_depend_on_the_experts(spec: str) -> None:
    model, clip = mixture(3), clips(4)
    attack = replace(load_attack(spec), threat=LINF, keep="last")  # type: ignore[call-arg]
    first = attack(model, clip, LABELS).clip.video
    with torch.no_grad():
        for expert in model.experts:
            expert.weight.copy_(torch.randn_like(expert.weight))
    assert torch.equal(attack(model, clip, LABELS).clip.video, first)


def test_success_is_the_whole_model_s_not_the_router_s() -> None:
    """All experts agree: every route changes, no answer does."""
    model, clip = mixture(2), clips(4)
    labels = model.experts[0](clip).argmax(1)
    with torch.no_grad():
        for expert in model.experts:
            expert.weight.zero_()
            expert.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
        gap = model.router(clip).diff(dim=1)[:, 0]
        model.router.bias[0] += float(gap.mean())
    labels = torch.zeros(4, dtype=torch.long)
    result = PGDR(Linf(16 / 255), keep="last")(model, clip, labels)
    assert not result.success.any()
    assert (model.router(result.clip).argmax(1) != model.router(clip).argmax(1)).all()
    assert PGDR(Linf(16 / 255), keep="last")(model, clip, labels + 1).success.all()


def test_a_stronger_router_attack_leads_more_clips_to_the_weakest_expert() -> None:
    model, clip = mixture(4, scale=0.05), clips(16)
    labels = torch.zeros(16, dtype=torch.long)
    _, weakest = routes(model, clip)
    options = {"threat": Linf(24 / 255), "lam": 0, "step_size": 24 / 255, "keep": "last"}
    reached = [
        int((model.router(kind(**options)(model, clip, labels).clip).argmax(1) == weakest).sum())
        for kind in (TLAR, TLGAR)
    ]
    assert reached[1] > reached[0]


@pytest.mark.parametrize("spec", ["pgd_r", "tla_r", "tlga_r"])
def test_what_cannot_be_attacked_is_said(spec: str) -> None:
    clip, labels = clips(2), alternating(2)
    with pytest.raises(InputError, match="no mixture of experts"):
        load_attack(spec)(Linear(weights()), clip, labels)
    with pytest.raises(InputError, match="has one expert"):
        load_attack(spec)(mixture(1), clip, labels)
    with pytest.raises(InputError, match="no targets"):
        load_attack(f"{spec}(targeted=true)")
