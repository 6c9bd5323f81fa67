"""TRADES: its loss and its adversary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from driving import Seen, a_step, furthest, network, on_grid

from robustvideo.attacks import load_attack
from robustvideo.attacks.objectives import divergence
from robustvideo.errors import InputError
from robustvideo.training import load_training


def test_the_divergence_is_that_of_the_definition() -> None:
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    p, q = a.softmax(1), b.softmax(1)
    torch.testing.assert_close(divergence(a, b), (p * (p / q).log()).sum(1))
    torch.testing.assert_close(divergence(a, a + 3), torch.zeros(6, dtype=torch.float64))
    assert (divergence(a, b) > 0).all()
    certain = divergence(torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]]))
    assert certain.tolist() == [500.0]


def test_the_divergence_has_no_gradient_where_it_is_zero() -> None:
    clean = torch.randn(3, 4, dtype=torch.float64)
    moved = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(clean, moved).sum(), moved)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_loss_of_a_batch_by_hand_and_its_gradient_through_both_predictions() -> None:
    model = network()
    step = a_step(model)
    (loss,) = load_training("trades(beta=2)").losses(step)
    assert isinstance(step.forward, Seen)
    clean_clip, adversarial = step.forward.clips
    assert clean_clip is step.clip
    assert 0 < furthest(adversarial, step.clip) <= 8 + 1e-3
    assert on_grid(adversarial)
    assert model.module[0][1].num_batches_tracked == 2
    clean, perturbed = model(step.clip), model(adversarial)
    apart = F.kl_div(perturbed.log_softmax(1), clean.softmax(1), reduction="batchmean")
    expected = F.cross_entropy(clean, step.labels) + 2 * apart
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.metrics["divergence"], apart)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for found, want in zip(torch.autograd.grad(loss.value, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(found, want)


def test_the_adversary_does_not_know_the_classes() -> None:
    model, seen = network(), []
    for labels in ([0, 1, 2, 0, 1], [2, 2, 0, 1, 0]):
        step = a_step(model, labels=torch.tensor(labels))
        list(load_training("trades").losses(step))
        assert isinstance(step.forward, Seen)
        seen.append(step.forward.clips[1].video)
        model.load_state_dict(network().state_dict())
    assert torch.equal(*seen)


def test_any_attack_may_be_the_adversary() -> None:
    model = network()
    step = a_step(model, seed=4)
    predicted = model.eval()(step.clip).argmax(1)
    expected = load_attack("fgsm(eps=2/255, early_stop=false, seed=4)")(model, step.clip, predicted).clip
    model.train()
    list(load_training("trades(attack=fgsm(eps=2/255, early_stop=false))").losses(step))
    assert isinstance(step.forward, Seen)
    assert torch.equal(step.forward.clips[1].video, expected.video)


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("trades").spec == "trades"
    method = load_training("trades(attack=pgd_kl(eps=4/255, steps=3), beta=1)")
    assert load_training(method.spec) == method
    for spec, message in (("trades(beta=-1)", "at least 0"), ("trades(attack=pgd(targeted=true))", "cannot be targ")):
        with pytest.raises(InputError, match=message):
            load_training(spec)
