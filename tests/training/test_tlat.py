"""TLAT: its loss by hand, one pass for both views, and any model."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from driving import Seen, a_step, furthest, network, on_grid, only_loss

from robustvideo.attacks import load_attack
from robustvideo.clip import concatenate
from robustvideo.errors import InputError
from robustvideo.training import load_training


@pytest.mark.parametrize("detach", [False, True])
def test_the_loss_of_a_batch_by_hand(detach: bool) -> None:
    model = network()
    step = a_step(model)
    method = load_training(f"tlat(regulariser=lipschitz(weight=0.3), detach_clean={str(detach).lower()})")
    loss, (both,) = only_loss(method, step)
    assert model.module[0][1].num_batches_tracked == 1, "clean and attacked clips pass together"
    clean, adversarial = both.select(range(5)), both.select(range(5, 10))
    assert torch.equal(clean.video, step.clip.video)
    assert 0 < furthest(adversarial, clean) <= 8 + 1e-3
    assert on_grid(adversarial)
    a, b = model(concatenate([clean, adversarial])).chunk(2)
    ratio = (a - b).square().mean(1) / (clean.video - adversarial.video).square().flatten(1).mean(1)
    if detach:
        ratio = (a.detach() - b).square().mean(1) / (clean.video - adversarial.video).square().flatten(1).mean(1)
    expected = F.cross_entropy(b, step.labels) + 0.3 * ratio.mean()
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.metrics["regulariser"], ratio.mean())
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    found = torch.autograd.grad(loss.value, list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_clips_are_the_attack_s_own() -> None:
    model = network()
    untrained, step = deepcopy(model), a_step(model, seed=9)
    _, (both,) = only_loss(load_training("tlat(attack=pgd(eps=3/255, steps=2, early_stop=false))"), step)
    attack = load_attack("pgd(eps=3/255, steps=2, early_stop=false, seed=9)")
    assert torch.equal(both.video[5:], attack(untrained, step.clip, step.labels).clip.video)


@pytest.mark.parametrize("name", ["lipschitz", "kl", "js", "cos", "noise", "gradient"])
def test_every_regulariser_trains(name: str) -> None:
    model = network()
    step = a_step(model)
    method = load_training(f"tlat(attack=tla_m(steps=1, early_stop=false), regulariser={name}(weight=0.5))")
    assert load_training(method.spec) == method
    (loss,) = method.losses(step)
    assert isinstance(step.forward, Seen)
    without = F.cross_entropy(model(step.forward.clips[0])[5:], step.labels)
    torch.testing.assert_close(loss.value, without + 0.5 * loss.metrics["regulariser"])
    assert all((g != 0).any() for g in torch.autograd.grad(loss.value, [model.module[1].weight]))


def test_targets_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be targeted"):
        load_training("tlat(attack=pgd(targeted=true))")
