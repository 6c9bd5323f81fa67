"""Adaptive adversarial training: what is drawn, how often, and what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from driving import SHAPE, a_stage, a_step, batch, furthest, network, only_loss
from resuming import check_resumption, tiny_recipe
from torch import Tensor

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.training import load_training
from robustvideo.training.adaptive import AdaptiveAdversarialTraining, drawn, shares

PGD = "pgd(eps=8/255, steps=2, step_size=8/255, early_stop=false)"


def adaptive(arguments: str) -> AdaptiveAdversarialTraining:
    method = load_training(f"aat({arguments})")
    assert isinstance(method, AdaptiveAdversarialTraining)
    return method


class Slope(Model):
    """Two classes; the margin of either is a linear function of the pixels, so the best attack is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, steps=3 * 4 * 8 * 8).view(SHAPE))

    def forward(self, clip: Clip) -> Tensor:
        s = (self.weight * (clip.video - 0.5)).flatten(1).sum(1)
        return torch.stack([-s / 2, s / 2], dim=1)


def test_the_shares_are_the_losses_that_are_known_in_closed_form() -> None:
    """On a linear model a budget raises every margin by ``eps * |w|_1``, where the box allows it."""
    model = Slope()
    clip, _ = batch(6, seed=3)
    clip = Clip(clip.video / 2 + 0.25)
    clip = Clip((clip.video * 255).round() / 255)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    levels = [0, 1, 3]
    method = adaptive(f"budgets=[0, 1/255, 3/255], every=1, attack={PGD}")
    halves = [(clip.select(rows), labels[rows]) for rows in ([0, 1, 2, 3], [4, 5])]  # of different sizes
    stage = a_stage(model, epoch=1, epochs=9, sample=lambda wanted: iter(halves))
    stage.memory["probabilities"] = [1 / 3] * 3
    found = method.before_epoch(stage)
    logits = model(clip).detach()
    margin = logits[:, 1] - logits[:, 0]
    margin = torch.where(labels == 0, margin, -margin)
    norm = float(model.weight.detach().abs().sum())
    losses = [float(F.softplus(margin + level / 255 * norm).mean()) for level in levels]
    for i, loss in enumerate(losses):
        assert found[f"p_{i}"] == pytest.approx(loss / sum(losses), rel=1e-3)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == stage.memory["probabilities"]


def test_shares_are_normalised_and_none_vanishes() -> None:
    assert shares([1.0, 3.0]) == pytest.approx([0.25, 0.75])
    assert min(shares([0.0, 5.0])) > 0
    assert shares([0.0, 0.0]) == [0.5, 0.5]


def test_draws_follow_the_probabilities() -> None:
    probabilities = [0.1, 0.2, 0.3, 0.4]
    counts = torch.bincount(torch.tensor([drawn(probabilities, seed) for seed in range(2000)]), minlength=4)
    expected = torch.tensor(probabilities) * 2000
    assert float(((counts - expected).square() / expected).sum()) < 16.3  # chi-square, 3 degrees, 0.1 %
    assert drawn(probabilities, 7) == drawn(probabilities, 7)


@pytest.mark.parametrize(
    ("arguments", "epochs", "measured"),
    [
        ("every=2", 10, [2, 4, 6, 8]),
        ("every=10", 9, [3, 6]),  # as often as there are budgets
        ("every=10", 2, [1]),  # fewer epochs than budgets
        ("every=1, adaptive=false", 5, []),
    ],
)
def test_when_probabilities_are_measured(
    arguments: str, epochs: int, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = adaptive(f"budgets=[0, 4/255, 8/255], {arguments}")
    seen: list[int] = []
    monkeypatch.setattr(
        AdaptiveAdversarialTraining, "_mean_losses", lambda self, stage: seen.append(stage.epoch) or [1.0, 1.0, 2.0]
    )
    memory: dict[str, list[float]] = {}
    for epoch in range(epochs):
        found = method.before_epoch(a_stage(network(), memory=memory, epoch=epoch, epochs=epochs))
        shares = [0.25, 0.25, 0.5] if epoch >= min(measured, default=epochs) else [1 / 3] * 3
        assert list(found.values()) == pytest.approx(shares)
    assert seen == measured


def test_a_batch_is_attacked_at_the_budget_drawn_by_its_seed() -> None:
    method = adaptive(f"budgets=[0, 2/255, 6/255], attack={PGD}")
    probabilities, used = [0.3, 0.3, 0.4], set()
    for seed in range(12):
        model = network()
        step = a_step(model, seed=seed, memory={"probabilities": probabilities})
        _, (clip,) = only_loss(method, step)
        level = [0, 2, 6][drawn(probabilities, seed)]
        assert round(furthest(clip, step.clip), 3) == level
        used.add(level)
    assert used == {0, 2, 6}


def test_the_step_keeps_its_ratio_to_the_budget() -> None:
    """Half the budget with half the step is what an attack configured for half the budget does."""
    method = adaptive(f"budgets=[4/255], attack={PGD}")
    model = network()
    step = a_step(model, seed=3, memory={"probabilities": [1.0]})
    half = load_attack("pgd(eps=4/255, steps=2, step_size=4/255, early_stop=false, seed=3)")
    expected = half(model, step.clip, step.labels).clip
    _, (clip,) = only_loss(method, step)
    torch.testing.assert_close(clip.video, expected.video)


def test_kinds_of_attack_are_drawn_at_their_own_budgets() -> None:
    method = adaptive(f"attacks=[fgsm(eps=3/255, early_stop=false), {PGD}], every=1")
    model, used = network(), set()
    for seed in range(8):
        step = a_step(model, seed=seed, memory={"probabilities": [0.5, 0.5]})
        _, (clip,) = only_loss(method, step)
        level = [3, 8][drawn([0.5, 0.5], seed)]
        assert round(furthest(clip, step.clip), 3) == level
        used.add(level)
    assert used == {3, 8}
    found = method.before_epoch(a_stage(model, epoch=1, epochs=2))
    assert set(found) == {"p_0", "p_1"}
    assert sum(found.values()) == pytest.approx(1)


def test_measuring_leaves_the_network_alone() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adaptive(f"budgets=[0, 8/255], attack={PGD}").before_epoch(a_stage(model, epoch=1, epochs=2))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("aat").spec == "aat"
    method = adaptive(f"attacks=[fgsm, {PGD}], every=3, adaptive=false")
    assert load_training(method.spec) == method
    for arguments, message in (
        ("budgets=[]", "nothing to draw from"),
        ("budgets=[-1/255, 0]", "at least 0"),
        ("every=0", "at least 1"),
        ("attacks=[fgsm(targeted=true)]", "cannot be targeted"),
    ):
        with pytest.raises(InputError, match=message):
            adaptive(arguments)


def test_a_broken_run_goes_on_with_the_same_probabilities_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "aat(budgets=[0, 4/255], every=1, probe_clips=6, attack=fgsm(eps=4/255, early_stop=false))"
    lines = check_resumption(tiny_recipe(spec, accumulation=2), tmp_path, monkeypatch)
    assert lines[0]["p_0"] == lines[0]["p_1"] == 0.5
    assert lines[1]["p_1"] > lines[1]["p_0"] > 0
