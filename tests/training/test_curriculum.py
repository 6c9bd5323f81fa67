"""Curriculum adversarial training: the staircase, and the budget that it gives an attack."""

from __future__ import annotations

import pytest
from driving import a_stage, a_step, furthest, network, on_grid, only_loss

from robustvideo.errors import InputError
from robustvideo.training import load_training
from robustvideo.training.curriculum import staircase


@pytest.mark.parametrize(("epochs", "every"), [(2, 1), (7, 1), (10, 3), (11, 5), (30, 10), (31, 10)])
def test_the_staircase_goes_from_nothing_to_all_and_back(epochs: int, every: int) -> None:
    up = [staircase(epoch, epochs, every, "up") for epoch in range(epochs)]
    assert up[0] == 0
    assert up[-1] == 1
    assert up == sorted(up)
    assert len(set(up)) == (epochs - 1) // every + 1
    down = [staircase(epoch, epochs, every, "down") for epoch in range(epochs)]
    assert all(abs(a + b - 1) < 1e-12 for a, b in zip(up, down, strict=True))


def test_the_staircase_by_hand() -> None:
    assert [staircase(epoch, 6, 2, "up") for epoch in range(6)] == [0, 0, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (5, 5), (4, 10)])
def test_a_training_of_one_stair_is_under_attack(epochs: int, every: int) -> None:
    assert {staircase(epoch, epochs, every, d) for epoch in range(epochs) for d in ("up", "down")} == {1.0}


@pytest.mark.parametrize(("direction", "levels"), [("up", [0, 4, 8]), ("down", [8, 4, 0])])
def test_the_budget_of_the_epoch_bounds_the_attack_and_is_used_up(direction: str, levels: list[int]) -> None:
    method = load_training(
        f"cat(attack=pgd(eps=8/255, steps=2, step_size=8/255, early_stop=false), direction={direction})"
    )
    for epoch, level in enumerate(levels):
        model = network()
        step = a_step(model, epoch=epoch, epochs=3)
        loss, (clip,) = only_loss(method, step)
        assert round(furthest(clip, step.clip), 3) == level
        assert on_grid(clip)
        assert method.before_epoch(a_stage(model, epoch=epoch, epochs=3)) == {"eps": pytest.approx(level)}
        assert model.module[0][1].num_batches_tracked == 1, "only the training forward may touch batch statistics"
        loss.value.backward()


def test_other_balls_and_joint_threats_keep_their_proportions() -> None:
    spec = "cat(attack=pgd(eps=3.0, norm=l2, steps=2, early_stop=false))"
    step = a_step(network(), epoch=1, epochs=3)
    _, (clip,) = only_loss(load_training(spec), step)
    norms = (clip.video - step.clip.video).flatten(1).norm(dim=1)
    assert (norms <= 1.5 + 1e-3).all()
    assert (norms > 1).all()


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("cat").spec == "cat"
    method = load_training("cat(direction=down, every=3)")
    assert load_training(method.spec) == method
    for spec, message in (
        ("cat(direction=sideways)", "'up' or 'down'"),
        ("cat(every=0)", "at least one epoch"),
        ("cat(attack=pgd(targeted=true))", "cannot be targeted"),
    ):
        with pytest.raises(InputError, match=message):
            load_training(spec)
