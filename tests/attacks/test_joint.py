"""Joint attacks: limits in which they are one of their parts, and a mixture that only they can break."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import Linear, LinearLogits, alternating, clips, mixture, problem_for, weights

from robustvideo.attacks import JTLA, JTLGA, PGD, TLAM, TLAR, TLGAR, load_attack
from robustvideo.attacks.joint import JointLoss
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.router import RouterLoss
from robustvideo.attacks.tla import WholeLoss
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models.moe import MixtureOfExperts
from robustvideo.threat import Linf

EPS = 8 / 255
LINF = Linf(EPS, stored=False)
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("routing", ["hard", "soft", "straight_through"])
@pytest.mark.parametrize("joint", [JTLA, JTLGA])
def test_without_the_router_s_loss_it_is_the_attack_on_the_whole(joint: type[JTLA], routing: str) -> None:
    model, clip = mixture(3), clips(4)
    options = {"routing": routing, "early_stop": False, "steps": 5}
    a = TLAM(LINF, **options)(model, clip, LABELS)
    b = joint(LINF, gamma2=0, **options)(model, clip, LABELS)
    assert torch.equal(a.clip.video, b.clip.video)
    assert torch.equal(a.loss_trace, b.loss_trace)


@pytest.mark.parametrize(("joint", "router"), [(JTLA, TLAR), (JTLGA, TLGAR)])
def test_without_the_whole_s_loss_it_is_the_attack_on_the_router(joint: type[JTLA], router: type[TLAR]) -> None:
    model, clip = mixture(3), clips(4)
    for options in ({"keep": "last"}, {"early_stop": False}, {"early_stop": True}):
        a, b = router(LINF, **options)(model, clip, LABELS), joint(LINF, whole=0, **options)(model, clip, LABELS)
        assert torch.equal(a.clip.video, b.clip.video)


def test_the_objective_is_equation_10() -> None:
    model, clip = mixture(3), clips(4)
    moved = Clip(clip.video + 0.02 * torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(0)).double())
    problem = problem_for(model, clip, LABELS, LINF)
    term = LipschitzTerm(0.2)
    parts = WholeLoss(term), RouterLoss(term, gamma1=0.6)
    values = []
    for loss in (*parts, JointLoss(*parts, gamma2=0.4, weight=1.5)):
        known = replace(problem, reference=loss.reference(problem))
        values.append(loss(known, moved)[0])
    assert torch.allclose(values[2], 1.5 * values[0] + 0.4 * values[1])


def achilles(slack: float) -> tuple[MixtureOfExperts, Clip]:
    """Expert 0 is right whatever it sees, expert 1 wrong; the router prefers the first by ``slack`` of its reach."""
    clip = clips(1)
    shape = (2, *clip.video.shape[1:])
    nothing = torch.zeros(shape, dtype=torch.float64)
    experts = [LinearLogits(nothing, torch.tensor(answer, dtype=torch.float64)) for answer in ([1, -1], [-1, 1])]
    router = LinearLogits(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    with torch.no_grad():
        reach = EPS * float((router.weight[0] - router.weight[1]).abs().sum())
        gap = float(router(clip) @ torch.tensor([1.0, -1.0], dtype=torch.float64))
        router.bias[0] += slack * reach - gap
    return MixtureOfExperts(experts, router, gate="renormalised"), clip


@pytest.mark.parametrize(("slack", "broken"), [(0.98, True), (1.02, False)])
def test_the_weak_expert_is_found_where_the_whole_has_no_gradient(slack: float, broken: bool) -> None:
    model, clip = achilles(slack)
    labels = torch.zeros(1, dtype=torch.long)
    long = {"lam": 0, "steps": 10, "step_size": EPS}
    assert not PGD(LINF, steps=20)(model, clip, labels).success.any()
    assert not TLAM(LINF, **long)(model, clip, labels).success.any()
    for joint in (JTLA, JTLGA):
        assert joint(LINF, **long)(model, clip, labels).success.tolist() == [broken]


@pytest.mark.parametrize("spec", ["j_tla", "j_tlga", "j_tlga(routing=soft)"])
def test_what_cannot_be_attacked_is_said(spec: str) -> None:
    clip, labels = clips(2), alternating(2)
    with pytest.raises(InputError, match="no mixture of experts"):
        load_attack(spec)(Linear(weights()), clip, labels)
    with pytest.raises(InputError, match="has one expert"):
        load_attack(spec)(mixture(1), clip, labels)
    for option in ("gamma2=-1", "whole=-1"):
        with pytest.raises(InputError, match="A weight is"):
            load_attack(f"j_tlga({option})")


def test_a_target_is_reached_and_the_router_s_terms_keep_their_sign() -> None:
    model, clip = mixture(3), clips(4)
    parts = WholeLoss(LipschitzTerm(0.0)), RouterLoss(LipschitzTerm(0.0), gamma1=1.0)
    loss = JointLoss(*parts)
    moved = Clip(clip.video + 0.01)
    values = []
    for targeted in (False, True):
        problem = problem_for(model, clip, LABELS, LINF, targeted=targeted)
        values.append(loss(replace(problem, reference=loss.reference(problem)), moved)[0])
    router = parts[1]
    problem = problem_for(model, clip, LABELS, LINF)
    own = router(replace(problem, reference=router.reference(problem)), moved)[0]
    assert torch.allclose(values[0] + values[1], 2 * own)
