"""Updates: which weights a loss moves, with which optimizer, at which rate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from robustvideo.training.method import Loss, Part
from robustvideo.training.recipe import Recipe, make_recipe
from robustvideo.training.updates import Updates


def recipe(**changes: object) -> Recipe:
    content = {
        "title": "t",
        "model": "embedded:r3d",
        "data": {"train": "embedded:kinetic", "val": "embedded:kinetic?split=val"},
        "epochs": 1,
        "batch_size": 2,
        "lr": 0.5,
        "schedule": "constant",
        **changes,
    }
    return make_recipe(content, "t")


def weight(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def test_only_the_named_parts_move_and_get_gradients() -> None:
    first, second = weight(), weight()
    updates = Updates(Accelerator(cpu=True), recipe(), {"first": Part([first]), "second": Part([second])})
    loss = Loss(first * second, parts=("second",))
    updates.backward(loss)
    assert first.grad is None
    updates.apply(loss)
    assert float(first.detach()) == 1
    assert float(second.detach()) < 1


def test_a_part_may_bring_its_optimizer_and_the_schedule_scales_all() -> None:
    plain, own = weight(), weight()
    parts = {"plain": Part([plain]), "own": Part([own], lambda p: torch.optim.SGD(p, lr=0.1))}
    updates = Updates(Accelerator(cpu=True), recipe(schedule="cosine"), parts)
    updates.schedule(0.5)
    loss = Loss(plain + own)
    updates.backward(loss)
    updates.apply(loss)
    torch.testing.assert_close(1 - own.detach(), torch.tensor(0.1 / 2))
    torch.testing.assert_close(1 - plain.detach(), torch.tensor(0.5 / 2 * 1.9))  # Nesterov: 1 + momentum at first


def test_accumulated_parts_add_up_to_their_mean() -> None:
    parameter = weight()
    updates = Updates(
        Accelerator(cpu=True), recipe(accumulation=2), {"all": Part([parameter], lambda p: torch.optim.SGD(p, lr=1.0))}
    )
    losses = [Loss(parameter * 0.2), Loss(parameter * 0.4)]
    for loss in losses:
        updates.backward(loss)
    updates.apply(losses[0])
    torch.testing.assert_close(parameter.detach(), torch.tensor(1 - 0.3))


def test_a_leaf_keeps_its_gradient_after_the_update() -> None:
    parameter, leaf = weight(), torch.tensor(3.0, requires_grad=True)
    updates = Updates(Accelerator(cpu=True), recipe(), {"all": Part([parameter])})
    loss = Loss(parameter * leaf, leaves=(leaf,))
    updates.backward(loss)
    updates.apply(loss)
    assert float(leaf.grad) == 1  # type: ignore[arg-type]


def test_optimizers_go_on_where_they_were() -> None:
    ends = []
    for interrupted in (False, True):
        parameter = weight()
        updates = Updates(Accelerator(cpu=True), recipe(), {"all": Part([parameter])})
        for _ in range(3):
            loss = Loss((parameter - 4) ** 2)
            updates.backward(loss)
            updates.apply(loss)
            if interrupted:
                states = updates.state_dict()
                updates = Updates(Accelerator(cpu=True), recipe(), {"all": Part([parameter])})
                updates.load_state_dict(states)
        ends.append(float(parameter.detach()))
    assert ends[0] == ends[1]
