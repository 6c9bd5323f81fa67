"""Fast adversarial training: its step, its guard and GradAlign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import SHAPE, Seen, a_stage, a_step, batch, furthest, network, on_grid, only_loss
from resuming import check_resumption, tiny_recipe
from torch import Tensor, nn
from torch.nn import functional as F

from robustvideo.attacks import FGSM
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.training import load_training, train
from robustvideo.training.adversary import random_start
from robustvideo.training.fast import FastAdversarialTraining, alignment


def test_the_step_is_that_of_the_definition() -> None:
    """``delta0`` uniform, ``clip(delta0 + alpha sign(grad at the box-clamped point))``, then box and grid."""
    eps = 8 / 255
    for spec, size in (("fast_at", 1.25 * eps), ("fast_at(step_size=3/255)", 3 / 255)):
        model, twin = network(), network().eval()
        step = a_step(model, seed=5)
        start = random_start(FGSM(seed=5).problem(twin, step.clip, step.labels))[0]
        assert 0.9 * eps < float(start.abs().max()) <= eps
        point = (step.clip.video + start).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(twin(Clip(point)), step.labels), point)
        expected = step.clip.video + (start + size * gradient.sign()).clamp(-eps, eps)
        _, (clip,) = only_loss(load_training(spec), step)
        off = (clip.video - expected.clamp(0, 1)).abs() * 255
        assert float((off > 0.5 + 1e-3).float().mean()) < 0.01, "rounding to the grid, and a few tiny gradients"
        assert furthest(clip, step.clip) < 8 + 1e-3
        assert on_grid(clip)
        assert model.module[0][1].num_batches_tracked == 1


def test_starts_are_fresh_and_repeatable() -> None:
    clips = [only_loss(load_training("fast_at"), a_step(network(), seed=seed))[1][0].video for seed in (1, 2, 1)]
    assert torch.equal(clips[0], clips[2])
    assert not torch.equal(clips[0], clips[1])


def scripted(monkeypatch: pytest.MonkeyPatch, pgd: list[float], fgsm: list[float]) -> None:
    """The guard sees these accuracies, epoch by epoch."""

    def accuracy(self: Any, stage: Any, attack: Any) -> float:
        return (fgsm if isinstance(attack, FGSM) else pgd)[stage.epoch]

    monkeypatch.setattr(FastAdversarialTraining, "_accuracy", accuracy)


def guarded(spec: str, epochs: int) -> tuple[Model, dict[str, Any], list[dict[str, float]]]:
    """A network whose bias is the number of the epoch, watched by the guard."""
    model, memory, found = network(), {}, []
    for epoch in range(epochs):
        with torch.no_grad():
            model.module[1].bias.fill_(epoch)
        found.append(dict(load_training(spec).before_epoch(a_stage(model, memory=memory, epoch=epoch))))
    return model, memory, found


@pytest.mark.parametrize("reaction", ["restore", "shrink", "stop"])
def test_the_guard_restores_the_best_weights_and_reacts(reaction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.4, 0.42, 0.41, 0.05], [0.5, 0.52, 0.51, 0.9])
    model, memory, found = guarded(f"fast_at(on_collapse={reaction})", 4)
    assert [line["collapsed"] for line in found] == [0, 0, 0, 1]
    assert model.module[1].bias.tolist() == [1, 1, 1]
    assert found[3] == {"probe_pgd_accuracy": 0.05, "probe_fgsm_accuracy": 0.9, "collapsed": 1}
    step = a_step(model, memory=memory, seed=2)
    losses = list(load_training(f"fast_at(on_collapse={reaction})").losses(step))
    if reaction == "stop":
        assert losses == []
        return
    size = "5/255" if reaction == "shrink" else "10/255"
    other = a_step(network(), seed=2)
    other.network.load_state_dict(memory["best_weights"])
    list(load_training(f"fast_at(step_size={size})").losses(other))
    assert isinstance(step.forward, Seen)
    assert isinstance(other.forward, Seen)
    torch.testing.assert_close(step.forward.clips[0].video, other.forward.clips[0].video)


@pytest.mark.parametrize(
    ("pgd", "fgsm"),
    [([0.4, 0.21], [0.5, 0.9]), ([0.4, 0.05], [0.5, 0.1]), ([0.0, 0.0], [0.0, 0.5])],
    ids=["a smaller fall", "both fall", "nothing to lose"],
)
def test_the_guard_keeps_quiet(pgd: list[float], fgsm: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, pgd, fgsm)
    model, _, found = guarded("fast_at", 2)
    assert [line["collapsed"] for line in found] == [0, 0]
    assert model.module[1].bias.tolist() == [1, 1, 1]


def test_the_guard_measures_both_accuracies() -> None:
    model = network()
    clip, labels = batch(6, seed=3)
    found = load_training("fast_at(eps=8/255)").before_epoch(a_stage(model))
    right = model.eval()(clip).argmax(1) == labels
    fooled = FGSM(eps=8 / 255)(model, clip, labels).success
    assert found["probe_fgsm_accuracy"] == pytest.approx(float((right & ~fooled).float().mean()))
    assert found["probe_pgd_accuracy"] <= found["probe_fgsm_accuracy"]
    assert load_training("fast_at(probe_clips=0)").before_epoch(a_stage(model)) == {}


class Sloped(Model):
    """Logits linear in the pixels: gradients point the same way everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 4 * 8 * 8, 2, generator=torch.Generator().manual_seed(0)) / 100)

    def forward(self, clip: Clip) -> Tensor:
        return clip.video.flatten(1) @ self.weight


def aligned(model: Model) -> Tensor:
    clip, labels = batch(4)
    problem = FGSM(eps=8 / 255).problem(model, clip, labels % 2)
    return alignment(model, problem, random_start(problem))


def test_gradients_of_a_linear_model_are_aligned() -> None:
    torch.testing.assert_close(aligned(Sloped()), torch.tensor(1.0))


def test_the_alignment_of_a_curved_model_by_hand_and_by_finite_differences() -> None:
    model = network().double()
    clip, labels = batch(4)
    clip = clip.to(dtype=torch.float64)
    problem = FGSM(eps=8 / 255).problem(model, clip, labels)
    start = random_start(problem)
    gradients = []
    for video in (clip.video, clip.video + start[0]):
        video = video.clone().requires_grad_()
        model.eval()
        gradients.append(torch.autograd.grad(F.cross_entropy(model(Clip(video)), labels), video)[0].flatten(1))
    value = alignment(model, problem, start)
    torch.testing.assert_close(value, F.cosine_similarity(*gradients, eps=0).mean())
    assert 0 < float(value.detach()) < 1
    assert model.training
    assert model.module[0][1].num_batches_tracked == 0
    weight = model.module[0][0].weight
    (found,) = torch.autograd.grad(value, weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-4 * direction
    up = alignment(model, problem, start).detach()
    with torch.no_grad():
        weight -= 2e-4 * direction
    down = alignment(model, problem, start).detach()
    torch.testing.assert_close((found * direction).sum(), (up - down) / 2e-4, rtol=1e-4, atol=1e-9)


def test_clips_without_a_gradient_are_left_out() -> None:
    """A clip that is all black where the network is a product of the pixels."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, video: Tensor) -> Tensor:
            s = self.weight * (video - 0.2).relu().square().flatten(1).sum(1)
            return torch.stack([-s, s], dim=1)

    model = wrap(Product(), frames=4, size=8)
    clip, labels = batch(3)
    dark = Clip(torch.cat([clip.video, torch.zeros(1, *SHAPE)]))
    both = []
    for some, y in ((clip, labels % 2), (dark, torch.tensor([0, 1, 0, 0]))):
        problem = FGSM(eps=8 / 255).problem(model, some, y)
        both.append(alignment(model, problem, random_start(problem)))
    torch.testing.assert_close(both[0], both[1])
    both[1].backward()
    assert model.module.weight.grad.isfinite()
    black = Clip(torch.zeros(2, *SHAPE))
    problem = FGSM(eps=8 / 255).problem(model, black, torch.tensor([0, 1]))
    assert float(alignment(model, problem, random_start(problem))) == 1


def test_gradalign_is_added_to_the_loss() -> None:
    values = []
    for weight in (0, 0.5):
        loss, _ = only_loss(load_training(f"fast_at(grad_align={weight})"), a_step(network(), seed=1))
        values.append(loss)
    penalty = 0.5 * (1 - values[1].metrics["alignment"])
    torch.testing.assert_close(values[1].value, values[0].value + penalty)
    assert "alignment" not in values[0].metrics


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("fast_at").spec == "fast_at"
    method = load_training("fast_at(eps=4/255, step_size=4/255, grad_align=0.2, on_collapse=shrink)")
    assert load_training(method.spec) == method
    for arguments, message in (
        ("step_size=0", "must be positive"),
        ("grad_align=-1", "at least 0"),
        ("probe_clips=-1", "at least 0"),
        ("on_collapse=pray", "'restore', 'shrink' or 'stop'"),
    ):
        with pytest.raises(InputError, match=message):
            load_training(f"fast_at({arguments})")


def test_a_broken_run_goes_on_with_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch starts with a collapse: what it restores comes from the first."""
    scripted(monkeypatch, [0.4, 0.1], [0.5, 0.6])
    lines = check_resumption(tiny_recipe("fast_at(eps=4/255, on_collapse=shrink)"), tmp_path, monkeypatch)
    assert [line["collapsed"] for line in lines] == [0, 1]


def test_a_stopped_training_ends_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.4, 0.1], [0.5, 0.6])
    outcome = train(tiny_recipe("fast_at(eps=4/255, on_collapse=stop)", epochs=3), tmp_path, quiet=True)
    assert outcome.weights.exists()
