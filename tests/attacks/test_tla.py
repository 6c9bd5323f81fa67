"""TLA-M: its ablations, its objective by hand, and the surrogates for sparse routing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import Linear, LinearLogits, Smooth, alternating, clips, mixture, problem_for, signs, weights

from robustvideo.attacks import PGD, TLAM, load_attack
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.tla import WholeLoss, everyone, surrogate_logits
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.threat import L2, Linf

LINF = Linf(8 / 255, stored=False)
LABELS = torch.tensor([0, 1, 2, 0])


def objective_at(model, clip: Clip, delta: Tensor, loss: WholeLoss, *, targeted: bool = False) -> Tensor:  # type: ignore[no-untyped-def]
    problem = problem_for(model, clip, LABELS[: len(clip)], LINF, targeted=targeted)
    problem = replace(problem, reference=loss.reference(problem))
    return loss(problem, clip.with_signal("video", clip.video + delta))[0]


def some_delta(like: Tensor, seed: int = 7) -> Tensor:
    return 0.02 * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("steps", [3, 10])
def test_without_ratio_and_temporal_step_it_is_pgd_bit_for_bit(steps: int, early_stop: bool) -> None:
    model, clip = mixture(3), clips(4)
    options = {"steps": steps, "early_stop": early_stop, "restarts": 2, "seed": 3}
    pgd = PGD(LINF, **options)(model, clip, LABELS)
    same = TLAM(LINF, lam=0, step="uniform", **options)(model, clip, LABELS)
    assert torch.equal(pgd.clip.video, same.clip.video)
    assert torch.equal(pgd.forward_passes, same.forward_passes)
    assert torch.equal(pgd.loss_trace.isnan(), same.loss_trace.isnan())


def test_ablations_are_specs_and_differ() -> None:
    model, clip = mixture(3), clips(4)
    specs = ["", "step=uniform, lam=1, ", "lam=0, ", "lam=0, step=uniform, ", "momentum=steps, "]
    found = [load_attack(f"tla_m({s}keep=last, steps=3)")(model, clip, LABELS) for s in specs]
    videos = [result.clip.video for result in found]
    for i in range(len(specs)):
        for j in range(i):
            assert not torch.equal(videos[i], videos[j]), (specs[i], specs[j])


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "spec",
    ["tla_m(lam=0.0001)", "tla_m(lam=0, step=uniform)", "tla_m(lam=0)", "tla_m(lam=0, momentum=steps, beta=0.5)"],
)
def test_the_linear_optimum_is_reached(spec: str, stored: bool) -> None:
    """By steps that are long enough for damped ones to cross the ball."""
    clip, labels = clips(4), alternating(4)
    model = Linear(weights(), scale=0.05)
    attack = replace(load_attack(spec), threat=Linf(8 / 255, stored=stored), early_stop=False)
    result = replace(attack, steps=20, step_size=8 / 255)(model, clip, labels)  # type: ignore[call-arg]
    optimum = 0.05 * 8 / 255 * float(model.weight.detach().abs().sum())
    gain = result.margin - model.value(clip).detach() * signs(labels, labels)
    assert (gain >= 0.99 * optimum).all(), (gain / optimum).tolist()
    assert (gain <= 1.0001 * optimum).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_the_objective_is_equation_4_and_a_target_flips_the_class_alone(targeted: bool) -> None:
    model, clip = mixture(3), clips(3)
    delta = some_delta(clip.video)
    found = objective_at(model, clip, delta, WholeLoss(LipschitzTerm(0.3)), targeted=targeted)
    clean, moved = model(clip), model(Clip(clip.video + delta))
    ce = F.cross_entropy(moved, LABELS[:3], reduction="none")
    ratio = (moved - clean).square().mean(1) / delta.square().flatten(1).mean(1)
    assert torch.allclose(found, (-ce if targeted else ce) + 0.3 * ratio)


@pytest.mark.parametrize("routing", ["hard", "soft", "straight_through"])
@pytest.mark.parametrize("gate", ["kept", "renormalised"])
def test_values_and_gradients_of_the_surrogates(routing: str, gate: str) -> None:
    """Hard and straight-through have the model's value; soft and straight-through have the soft router gradient."""
    model, clip = mixture(3, gate=gate), clips(4)
    full = model.route(clip, everyone(clip))
    logits = surrogate_logits(full, routing)  # type: ignore[arg-type]
    soft = (full.router_logits.softmax(1)[:, :, None] * full.expert_logits).sum(1)
    expected = soft if routing == "soft" else full.logits
    assert torch.allclose(logits, expected, atol=1e-12)

    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradient(values: Tensor, part: Tensor) -> Tensor:
        return torch.autograd.grad((weight * values).sum(), part, retain_graph=True)[0]

    to_router, soft_to_router = (gradient(values, model.router.weight) for values in (logits, soft))
    to_expert, hard_to_expert = (gradient(values, model.experts[0].weight) for values in (logits, full.logits))
    if routing == "hard":
        assert bool((to_router == 0).all()) is (gate == "renormalised")
    else:
        assert torch.allclose(to_router, soft_to_router)
    if routing != "soft":
        assert torch.allclose(to_expert, hard_to_expert)


def test_soft_is_hard_where_the_router_is_certain() -> None:
    model, clip = mixture(3), clips(4)
    with torch.no_grad():
        model.router.bias += torch.tensor([0.0, 60.0, 0.0], dtype=torch.float64)
    full = model.route(clip, everyone(clip))
    assert torch.allclose(surrogate_logits(full, "soft"), full.logits, atol=1e-6)


@pytest.mark.parametrize("routing", ["hard", "soft"])
def test_gradient_of_the_objective_is_that_of_finite_differences(routing: str) -> None:
    model, clip = mixture(3, top=2), clips(2)
    base = some_delta(clip.video)
    loss = WholeLoss(LipschitzTerm(0.1), routing)  # type: ignore[arg-type]

    def value(corner: Tensor) -> Tensor:
        delta = base.clone()
        delta[:, :, 0, 0, :2] = corner
        return objective_at(model, clip, delta, loss)

    assert torch.autograd.gradcheck(value, base[:, :, 0, 0, :2].clone().requires_grad_())


def test_verdicts_are_the_model_s_own_whatever_the_surrogate() -> None:
    model, clip = mixture(3, gate="renormalised"), clips(4)
    for routing in ("soft", "straight_through"):
        result = load_attack(f"tla_m(routing={routing}, early_stop=false)")(model, clip, LABELS)
        assert torch.allclose(result.logits, model(result.clip))
        assert torch.equal(result.success, model(result.clip).argmax(1) != LABELS)


def test_a_surrogate_moves_a_router_that_the_gate_hides() -> None:
    """All experts ignore the clip: only another route can change the answer, and the hard gradient is zero."""
    model, clip, labels = mixture(2, 2, gate="renormalised"), clips(3), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        for expert, answer in zip(model.experts, ([1.0, -1.0], [-1.0, 1.0]), strict=True):
            expert.weight.zero_()
            expert.bias.copy_(torch.tensor(answer))
        slack = 0.5 * 8 / 255 * float((model.router.weight[0] - model.router.weight[1]).abs().sum())
        gap = model.router(clip).diff(dim=1)[:, 0]
        model.router.bias[0] += float(gap.max()) + slack  # expert 0 is ahead, within reach on one clip at least
    within = model.router(clip).diff(dim=1)[:, 0].neg() < 0.98 * 2 * slack
    assert within.any()
    attack = TLAM(LINF, lam=0, step_size=8 / 255)
    assert not attack(model, clip, labels).success.any()
    for routing in ("soft", "straight_through"):
        assert torch.equal(replace(attack, routing=routing)(model, clip, labels).success, within)


def test_a_plain_video_model_can_be_attacked_but_not_through_a_surrogate() -> None:
    clip, labels = clips(2), alternating(2)
    model = LinearLogits(weights().expand(2, -1, -1, -1, -1).clone())
    assert TLAM(LINF)(model, clip, labels).logits.shape == (2, 2)
    with pytest.raises(InputError, match="no mixture of experts"):
        TLAM(LINF, routing="soft")(model, clip, labels)


def test_the_last_point_is_where_the_climb_ends_not_the_best() -> None:
    model, clip, labels = Smooth(), clips(6), alternating(6)
    threat = Linf(40 / 255, stored=False)
    last = TLAM(threat, keep="last", lam=0, step="uniform", step_size=40 / 255, steps=7)(model, clip, labels)
    best = TLAM(threat, early_stop=False, lam=0, step="uniform", step_size=40 / 255, steps=7)(model, clip, labels)
    assert (best.margin >= last.margin).all()
    assert (best.margin > last.margin).any()
    assert not last.loss_trace.isnan().any()


def test_the_clean_pass_is_counted_once() -> None:
    model, clip = mixture(3), clips(4)
    options = {"early_stop": False, "restarts": 2, "steps": 4}
    with_ratio, without = (TLAM(LINF, lam=lam, **options)(model, clip, LABELS) for lam in (0.1, 0))
    assert with_ratio.backward_passes.tolist() == [8] * 4
    assert (with_ratio.forward_passes >= 8 + 2 + 1).all()
    assert (without.forward_passes >= 8 + 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1}, "lam="),
        ({"beta": 1.0}, "beta="),
        ({"keep": "last", "restarts": 2}, "restarts at 1"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TLAM(LINF, **options)  # type: ignore[arg-type]


def test_other_norms_work_too() -> None:
    model, clip = mixture(3), clips(4)
    result = TLAM(L2(1.0), early_stop=False)(model, clip, LABELS)
    assert ((result.clip.video - clip.video).flatten(1).norm(dim=1) <= 1.00001).all()
