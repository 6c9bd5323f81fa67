"""Attacks on experts: which of them, weighed how, and the equality with PGD where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import Linear, alternating, clips, mixture, problem_for, weights

from robustvideo.attacks import PGD, PGDE, TLAE, TLAM, load_attack
from robustvideo.attacks.experts import ExpertsLoss
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.threat import Linf

LINF = Linf(8 / 255, stored=False)
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("early_stop", [True, False])
def test_with_one_expert_they_are_the_attacks_on_the_whole_bit_for_bit(early_stop: bool) -> None:
    model, clip = mixture(1), clips(4)
    for whole, expert in ((PGD, PGDE), (TLAM, TLAE)):
        a, b = (kind(LINF, early_stop=early_stop, seed=5)(model, clip, LABELS) for kind in (whole, expert))
        assert torch.equal(a.clip.video, b.clip.video)
        assert torch.equal(a.margin, b.margin)
        assert torch.equal(a.first_success_step, b.first_success_step)


def test_active_means_the_expert_that_runs_however_sure_the_router_is() -> None:
    model, clip = mixture(3), clips(4)
    attack = PGDE(LINF, keep="last")
    first = attack(model, clip, LABELS).clip.video
    with torch.no_grad():
        model.router.weight.mul_(0.1)
        model.router.bias.mul_(0.1)
    assert torch.equal(attack(model, clip, LABELS).clip.video, first)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("which", ["active", "all", (2,), (0, 2)])
def test_the_objective_is_the_weighted_sum_by_hand(which: Any, targeted: bool) -> None:
    model, clip = mixture(3, top=2), clips(4)
    delta = 0.02 * torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = Clip(clip.video + delta)
    loss = ExpertsLoss(LipschitzTerm(0.3), which)
    problem = problem_for(model, clip, LABELS, LINF, targeted=targeted)
    problem = replace(problem, reference=loss.reference(problem))
    found, logits = loss(problem, moved)
    if which == "active":
        shares = model.route(clip).weights / model.route(clip).weights.sum(1, keepdim=True)
    else:
        named = range(3) if which == "all" else which
        shares = torch.zeros(4, 3, dtype=torch.float64)
        shares[:, list(named)] = 1 / len(named)
    expected = torch.zeros(4, dtype=torch.float64)
    for i, expert in enumerate(model.experts):
        ce = F.cross_entropy(expert(moved), LABELS, reduction="none")
        ratio = (expert(moved) - expert(clip)).square().mean(1) / delta.square().flatten(1).mean(1)
        expected += shares[:, i] * ((-ce if targeted else ce) + 0.3 * ratio)
    assert torch.allclose(found, expected)
    assert torch.allclose(logits, model(moved)), "the margin is the whole model's"


def test_gradient_through_groups_is_that_of_finite_differences() -> None:
    model, clip = mixture(3, top=2), clips(4)
    base = clip.video + 0.02 * torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(0)).double()
    loss = ExpertsLoss(LipschitzTerm(0.1), "active")
    problem = problem_for(model, clip, LABELS, LINF)
    problem = replace(problem, reference=loss.reference(problem))

    def value(corner: Tensor) -> Tensor:
        video = base.clone()
        video[:, :, 0, 0, :2] = corner
        return loss(problem, Clip(video))[0]

    assert torch.autograd.gradcheck(value, base[:, :, 0, 0, :2].clone().requires_grad_())


def test_an_expert_by_number_is_broken_even_where_the_router_does_not_use_it() -> None:
    model, clip = mixture(3), clips(4)
    with torch.no_grad():
        model.router.bias += torch.tensor([1e3, 0.0, 0.0])
    labels = model.experts[2](clip).argmax(1)
    result = PGDE(Linf(24 / 255), experts=(2,), keep="last")(model, clip, labels)
    assert (model.experts[2](result.clip).argmax(1) != labels).all()
    assert torch.equal(result.success, model.experts[0](result.clip).argmax(1) != labels)


@pytest.mark.parametrize("spec", ["pgd_e", "tla_e"])
def test_what_cannot_be_attacked_is_said(spec: str) -> None:
    clip, labels = clips(2), alternating(2)
    with pytest.raises(InputError, match="no mixture of experts"):
        load_attack(spec)(Linear(weights()), clip, labels)
    with pytest.raises(InputError, match="experts 0 to 2"):
        load_attack(f"{spec}(experts=[0, 3])")(mixture(3), clip, labels)
    for experts in ("[]", "[1, 1]", "[-1]"):
        with pytest.raises(InputError, match="different numbers from 0"):
            load_attack(f"{spec}(experts={experts})")
    assert load_attack(load_attack(f"{spec}(experts=[0, 2])").spec) == load_attack(f"{spec}(experts=[0, 2])")
