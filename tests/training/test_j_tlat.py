"""J-TLAT: what each step trains and leaves alone, its losses by hand, and a router that collapses."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from driving import a_stage, a_step, batch, network
from mixing import mixture_network
from resuming import check_resumption, tiny_recipe
from test_parts import recipe
from torch import Tensor, nn

from robustvideo.attacks import TLAE, TLAR, load_attack
from robustvideo.clip import concatenate
from robustvideo.errors import InputError, RobustVideoError
from robustvideo.model import at_rest
from robustvideo.models.moe import MixtureOfExperts, load_balance
from robustvideo.randomness import seed_for
from robustvideo.threat import Linf
from robustvideo.training import load_training
from robustvideo.training.j_tlat import JTLAT
from robustvideo.training.regularisers import Lipschitz
from robustvideo.training.updates import Updates

EIGHT = Linf(8 / 255)


def state(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("epoch", "still", "trained"), [(0, "experts", "router"), (1, "router", "experts")])
def test_a_step_leaves_the_other_part_bit_for_bit(epoch: int, still: str, trained: str, optimizer: str) -> None:
    """Also its batch statistics, and after updates of the whole have filled both optimizers' momentum."""
    model, method = mixture_network(), JTLAT()
    updates = Updates(
        Accelerator(cpu=True),
        recipe(optimizer=optimizer, lr=0.05, weight_decay=0.1),
        method.parts(model, method.companions(model)),
    )
    for each in (2, epoch, epoch, epoch):
        before = state(model.get_submodule(still)), state(model.get_submodule(trained))
        (loss,) = method.losses(a_step(model, epoch=each))
        updates.backward(loss)
        updates.apply(loss)
        changed = moved(model.get_submodule(still), before[0])
        assert bool(changed) is (each == 2), changed
        assert moved(model.get_submodule(trained), before[1])


def test_epochs_take_turns_and_batches_do_all_three() -> None:
    model = mixture_network()
    parts = [[loss.parts for loss in JTLAT().losses(a_step(model, epoch=epoch))] for epoch in range(4)]
    assert parts == [[("router",)], [("experts",)], [None], [("router",)]]
    assert [loss.parts for loss in JTLAT(schedule="batch").losses(a_step(model, epoch=5))] == [
        ("router",),
        ("experts",),
        None,
    ]


def test_the_router_s_loss_by_hand() -> None:
    model = mixture_network()
    step = a_step(model, seed=3)
    untrained = deepcopy(model)
    with at_rest(untrained), torch.no_grad():
        chosen = untrained.router(step.clip).argmax(1)
    attack = TLAR(EIGHT, steps=5, keep="last", seed=seed_for(3, "router"))
    adversarial = attack(untrained, step.clip, step.labels).clip
    (loss,) = JTLAT(balance=0.2).losses(step)
    clean, perturbed = untrained.router(concatenate([step.clip, adversarial])).chunk(2)
    ratio = (clean - perturbed).square().mean(1) / (step.clip.video - adversarial.video).square().flatten(1).mean(1)
    expected = (F.cross_entropy(perturbed, chosen, reduction="none") + 0.0001 * ratio).mean()
    torch.testing.assert_close(loss.value, expected + 0.2 * load_balance(clean))


def test_the_experts_loss_of_two_is_the_sum_by_hand() -> None:
    model = mixture_network(2)
    step = a_step(model, seed=3, epoch=1)
    method, untrained = JTLAT(), deepcopy(model)
    guided = replace(method.guide, seed=seed_for(3, "guide"))(untrained, step.clip, step.labels).clip
    with at_rest(untrained), torch.no_grad():
        weights = untrained.router(guided).softmax(1)
    total = torch.zeros(())
    for i in range(2):
        attack = TLAE(EIGHT, steps=5, keep="last", experts=(i,), seed=seed_for(3, "expert", i))
        adversarial = attack(deepcopy(untrained), step.clip, step.labels).clip
        clean, perturbed = untrained.experts[i](concatenate([step.clip, adversarial])).chunk(2)
        moved_by = (step.clip.video - adversarial.video).square().flatten(1).mean(1)
        terms = F.cross_entropy(perturbed, step.labels, reduction="none")
        terms = terms + 0.0001 * (clean - perturbed).square().mean(1) / moved_by
        total = total + (weights[:, i] * terms).sum()
    (loss,) = method.losses(step)
    torch.testing.assert_close(loss.value, total / 5)
    assert not any(g is not None for g in torch.autograd.grad(loss.value, model.router.parameters(), allow_unused=True))


def test_two_weak_experts_and_the_one_that_guidance_reached_is_among_them() -> None:
    model = mixture_network(4)
    clip, labels = batch(16)
    step = a_step(model, clip=clip, labels=labels)
    method = JTLAT(guide=load_attack("tlga_r(eps=64/255, steps=10, keep=last)"))
    chosen, weights = method._weak_experts(step, model)
    assert (chosen.sum(1) == 2).all()
    assert torch.allclose(weights.sum(1), torch.ones(16))
    assert (weights[~chosen] == 0).all()
    assert not weights.requires_grad
    with at_rest(model), torch.no_grad():
        weakest = model.router(clip).argmin(1)
        guided = method.guide.with_seed(seed_for(step.seed, "guide"))(model, clip, labels).clip
        reached = model.router(guided).argmax(1) == weakest
    assert reached.sum() >= 4
    assert chosen[reached].gather(1, weakest[reached][:, None]).all()


def test_a_constant_router_costs_nothing_but_the_balance() -> None:
    model = mixture_network()
    with torch.no_grad():
        last = model.router.module[2]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
    (without,) = JTLAT(balance=0).losses(a_step(model))
    (with_balance,) = JTLAT(balance=0.1).losses(a_step(model))
    assert float(without.value.detach()) == pytest.approx(0, abs=1e-6)
    assert float(with_balance.value.detach()) == pytest.approx(0.3, abs=1e-5)


def test_the_balance_reaches_the_router_with_clean_clips_detached() -> None:
    def slope(detach: bool, balance: float) -> Tensor:
        model = mixture_network()
        (loss,) = JTLAT(balance=balance, detach_clean=detach, regulariser=Lipschitz(0.0)).losses(a_step(model))
        (gradient,) = torch.autograd.grad(loss.value, model.router.module[2].weight)
        return gradient

    torch.testing.assert_close(slope(True, 10.0) - slope(True, 0.0), slope(False, 10.0) - slope(False, 0.0))
    assert not torch.allclose(slope(True, 10.0), slope(True, 0.0))


def route_all_to_the_first(model: MixtureOfExperts) -> None:
    with torch.no_grad():
        model.router.module[2].bias.copy_(torch.tensor([40.0, 0.0, 0.0]))


@pytest.mark.parametrize(("schedule", "epoch", "stops"), [("epoch", 2, False), ("epoch", 3, True), ("batch", 1, True)])
def test_a_collapsed_router_stops_the_training(schedule: str, epoch: int, stops: bool) -> None:
    model = mixture_network()
    route_all_to_the_first(model)
    method = load_training(f"j_tlat(schedule={schedule})")
    if stops:
        with pytest.raises(RobustVideoError, match="one expert gets 100% of the clips"):
            method.before_epoch(a_stage(model, epoch=epoch))
        method = load_training(f"j_tlat(schedule={schedule}, collapse=1)")
    assert method.before_epoch(a_stage(model, epoch=epoch)) == {"routing_entropy": 0.0}
    assert model.training


def test_the_entropy_of_the_routes_is_logged() -> None:
    model = mixture_network()
    clips = [clip for clip, _ in a_stage(model).sample(6)]
    with at_rest(model), torch.no_grad():
        shares = torch.cat([model.router(c).argmax(1) for c in clips]).bincount(minlength=3) / 6
    expected = -(shares[shares > 0] * shares[shares > 0].log()).sum()
    found = JTLAT().before_epoch(a_stage(model))["routing_entropy"]
    assert found == pytest.approx(float(expected))


def test_it_goes_on_where_it_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = (
        "j_tlat(schedule=batch, collapse=1, router=pgd_r(steps=1, early_stop=false), guide=tlga_r(steps=1, keep=last), "
        "experts=pgd_e(steps=1, early_stop=false), whole=pgd(steps=1, early_stop=false), regulariser=js)"
    )
    model = "video_moe?experts=3&frames=4&size=16"
    logged = check_resumption(tiny_recipe(training, model=model, lr=0.01), tmp_path, monkeypatch)
    assert {"route_kept", "weak_expert_accuracy", "robust_accuracy", "routing_entropy", "balance"} <= set(logged[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("router=pgd(targeted=true)", "cannot be targeted"),
        ("experts=pgd", "is an attack on experts"),
        ("weak=0", "weak of at least 1"),
        ("collapse=0", "collapse in"),
        ("balance=-1", "balance of at least 0"),
    ],
)
def test_what_makes_no_sense_is_said(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_training(f"j_tlat({options})")


def test_only_mixtures_of_several_experts_are_trained() -> None:
    with pytest.raises(InputError, match="for mixtures of experts"):
        JTLAT().companions(network())
    single = MixtureOfExperts([network()], network())
    with pytest.raises(InputError, match="two experts or more"):
        JTLAT().companions(single)


def test_a_spec_says_it_all() -> None:
    assert load_training("j_tlat").spec == "j_tlat"
    method = load_training("j_tlat(schedule=batch, experts=pgd_e(steps=2), regulariser=cos(weight=2))")
    assert load_training(method.spec) == method


def test_forward_and_seed_are_those_of_the_step() -> None:
    model = mixture_network()
    values = [float(next(JTLAT().losses(a_step(deepcopy(model), seed=s))).value.detach()) for s in (1, 2, 1)]
    assert values[0] == values[2]
    assert values[0] != values[1]
