"""Load balancing of any training: the term by hand, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from driving import a_step, batch, network
from mixing import mixture_network

from robustvideo.errors import InputError
from robustvideo.models.moe import load_balance
from robustvideo.training import load_training


def test_the_balance_of_the_training_pass_is_added_with_its_gradient() -> None:
    model = mixture_network()
    step = a_step(model)
    (loss,) = load_training("balanced(weight=0.5)").losses(step)
    balance = load_balance(model.router(step.clip))
    expected = F.cross_entropy(model(step.clip), step.labels) + 0.5 * balance
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.metrics["balance"], balance)
    assert set(loss.metrics) == {"accuracy", "balance"}
    weight = model.router.module[1].weight
    found, wanted = (torch.autograd.grad(value, weight)[0] for value in (loss.value, expected))
    torch.testing.assert_close(found, wanted)


def test_passes_of_an_attack_do_not_count_and_no_hook_stays() -> None:
    model = mixture_network()
    step = a_step(model)
    method = load_training("balanced(method=at(attack=pgd(eps=4/255, steps=3, early_stop=false)), weight=0.5)")
    assert load_training(method.spec) == method
    losses = method.losses(step)
    loss = next(losses)
    clips = step.forward.clips  # type: ignore[attr-defined]
    assert len(clips) == 1
    torch.testing.assert_close(loss.metrics["balance"], load_balance(model.router(clips[0])))
    assert next(losses, None) is None
    assert not model.router._forward_hooks


def test_a_method_that_fails_leaves_no_hook() -> None:
    model = mixture_network()
    losses = load_training("balanced").losses(a_step(model))
    next(losses)
    losses.close()
    assert not model.router._forward_hooks


def test_parts_of_a_batch_that_take_turns_do_not_mix() -> None:
    """As the trainer runs them when it accumulates gradients, for a method of several updates."""
    model = mixture_network()
    method = load_training("balanced(method=j_tlat(schedule=batch), weight=0.5)")
    clip, labels = batch(seed=5)
    parts = [method.losses(a_step(model)), method.losses(a_step(model, clip=clip, labels=labels))]
    counts = []
    while (losses := [next(part, None) for part in parts])[0] is not None:
        for loss in losses:
            assert loss is not None
            loss.value.backward()
        counts.append(["balance" in loss.metrics for loss in losses if loss is not None])
    assert counts == [[True, True], [False, False], [True, True]]


def test_what_it_wraps_keeps_its_parts() -> None:
    model = mixture_network()
    method = load_training("balanced(method=j_tlat(schedule=batch))")
    parts = method.parts(model, method.companions(model))
    assert set(parts) == {"router", "experts"}


def test_only_mixtures_are_balanced() -> None:
    with pytest.raises(InputError, match="for mixtures of experts"):
        load_training("balanced").companions(network())
    with pytest.raises(InputError, match="weight="):
        load_training("balanced(weight=-1)")


def test_it_spreads_clips_over_experts() -> None:
    """A router that sends everything to one expert is brought to use the others."""
    model = mixture_network()
    with torch.no_grad():
        model.router.module[2].bias.copy_(torch.tensor([4.0, 0.0, 0.0]))
    step = a_step(model)
    method = load_training("balanced(weight=1)")
    optimizer = torch.optim.SGD(model.router.parameters(), lr=0.5)
    balances = []
    for _ in range(40):
        (loss,) = method.losses(step)
        balances.append(float(loss.metrics["balance"].detach()))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert balances[0] > 2.5
    assert balances[-1] < 1.5
