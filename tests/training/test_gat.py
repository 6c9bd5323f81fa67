"""Generative adversarial training: the order of its updates, and where the cross-entropy goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fronts import PGD, Says, a_generative, behind, homes, play, started
from resuming import check_resumption, tiny_recipe

from robustvideo.training import load_training, train

GAT = f"gat(adversary=at(attack={PGD}), width=2)"


def test_the_updates_of_a_batch_and_whom_they_change() -> None:
    method = load_training(GAT)
    updates = play(method, started(method, behind()))
    assert [loss.parts for loss, _ in updates] == [("discriminator",), ("generator",), ("generator",), ("network",)]
    changed = [homes(names) for _, names in updates]
    assert changed == [{"discriminator"}, {"network.generator"}, {"network.generator"}, {"network.undefended"}]


@pytest.mark.parametrize("into", [True, False])
def test_the_generator_s_loss_has_the_cross_entropy_of_equation_14(into: bool) -> None:
    method, model = a_generative(f"{GAT[:-1]}, ce_into_generator={str(into).lower()})"), behind()
    step = started(method, model)
    step.companions["discriminator"] = Says(0.0)
    adversarial = method.adversary.adversarial(step)
    losses = list(method.losses(step))
    purified = model.purify(adversarial)
    restoration = 0.7 * F.mse_loss(purified.video, step.clip.video) + 0.3 * torch.tensor(2.0).log()
    entropy = F.cross_entropy(model.undefended(purified), step.labels)
    torch.testing.assert_close(losses[1].value, restoration + (entropy if into else 0))
    torch.testing.assert_close(losses[3].value, entropy)


def test_all_updates_see_the_same_adversarial_clips() -> None:
    method, model = load_training(GAT), behind()
    shown = []
    model.generator.register_forward_hook(lambda module, inputs, output: shown.append((module.training, inputs[0])))
    list(method.losses(started(method, model)))
    fitted = [video for training, video in shown if training]
    assert len(fitted) == 4, "one for the discriminator, two for the generator, one for the network"
    assert all(torch.equal(video, fitted[0]) for video in fitted)
    assert len(shown) > 4, "the attack goes through the generator, in evaluation mode"


def test_the_network_s_optimizer_is_the_recipe_s() -> None:
    method, model = load_training(GAT), behind()
    parts = method.parts(model, method.companions(model))
    assert list(parts) == ["generator", "discriminator", "network"]
    assert parts["network"].optimizer is None
    together = [id(p) for part in parts.values() for p in part.parameters]
    assert len(together) == len(set(together))


def test_a_run_that_is_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(GAT, model="embedded:frame2d?weights=none&with=ape_gan(width=2)")
    lines = check_resumption(recipe, tmp_path, monkeypatch)
    assert {"mse", "fooling_loss", "discriminator_loss", "robust_accuracy"} <= lines[0].keys()


def test_parts_of_a_batch_and_lower_precision(tmp_path: Path) -> None:
    changes = {"accumulation": 2, "precision": "bf16", "epochs": 1}
    recipe = tiny_recipe(GAT, model="embedded:frame2d?weights=none&with=ape_gan(width=2)", **changes)
    assert train(recipe, tmp_path, quiet=True).weights.exists()
