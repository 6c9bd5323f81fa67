"""Free adversarial training: the perturbation's own ascent, and what becomes of it between batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from driving import Seen, a_step, batch, network
from resuming import check_resumption, tiny_recipe
from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.training import load_training, train
from robustvideo.training.method import Method, Step
from robustvideo.training.updates import Updates


def clips_of(method: Method, step: Step) -> list[Tensor]:
    """The videos of every replay, with backward passes but without updates."""
    for loss in method.losses(step):
        loss.value.backward(inputs=[*step.network.parameters(), *loss.leaves])
    assert isinstance(step.forward, Seen)
    return [clip.video.detach() for clip in step.forward.clips]


def fgsm(model: Any, video: Tensor, labels: Tensor, size: float) -> Tensor:
    """One step of the sign of the gradient in training mode."""
    video = video.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.module(video), labels), video)
    return size * gradient.sign()


def test_every_replay_moves_the_perturbation_by_the_gradient_of_the_same_pass() -> None:
    model, step = network(), a_step(network())
    eps = 3 / 255
    first, second, third = clips_of(load_training("free_at(eps=3/255, replays=3)"), step)
    assert torch.equal(first, step.clip.video)
    moved = (first + fgsm(model, first, step.labels, eps)).clamp(0, 1)
    torch.testing.assert_close(second, moved)
    delta = (second - first + fgsm(model, second, step.labels, eps)).clamp(-eps, eps)
    torch.testing.assert_close(third, (first + delta).clamp(0, 1))


def test_the_perturbation_goes_on_with_the_next_batch_in_its_ball_and_box() -> None:
    model, memory = network(), {}
    method = load_training("free_at(eps=4/255, replays=2)")
    first = a_step(model, memory=memory)
    clips_of(method, first)
    (left,) = memory["perturbations"][0]
    assert float(left.abs().max()) > 0
    clip, labels = batch(seed=9)
    second = a_step(model, memory=memory, clip=clip, labels=labels)
    start = clips_of(method, second)[0]
    torch.testing.assert_close(start, (clip.video + left).clamp(0, 1))
    assert len(memory["perturbations"]) == 1


def test_parts_of_a_batch_keep_their_own_perturbations() -> None:
    """In step with each other, as the trainer runs them."""
    method, memory = load_training("free_at(eps=4/255, replays=2)"), {}
    kept: list[list[Tensor]] = []
    for _ in range(2):
        model = network()
        steps = [a_step(model, memory=memory, clip=batch(2, seed)[0], labels=batch(2)[1]) for seed in (5, 6)]
        running = [method.losses(step) for step in steps]
        while None not in (losses := [next(generator, None) for generator in running]):
            for loss in losses:
                assert loss is not None
                loss.value.backward(inputs=list(loss.leaves))
        starts = [step.forward.clips[0].video.detach() - step.clip.video for step in steps]  # type: ignore[attr-defined]
        for start, known in zip(starts, kept, strict=False):
            torch.testing.assert_close(start, known[0])
        kept = [[variable.clone() for variable in part] for part in memory["perturbations"]]
        assert len(kept) == 2
    assert not torch.equal(kept[0][0], kept[1][0])


def test_the_labels_other_threats_and_repeats() -> None:
    step = a_step(network())
    replays = clips_of(load_training("free_at(threat=l2(eps=0.7), replays=4)"), step)
    norms = [(video - step.clip.video).flatten(1).norm(dim=1) for video in replays]
    assert float(norms[0].max()) == 0
    assert all(((n > 0.3) & (n < 0.7 + 1e-4)).all() for n in norms[1:])
    region = a_step(network())
    mask = "free_at(threat=linf(eps=8/255, support=patch(ratio=0.2)), replays=2)"
    changed = clips_of(load_training(mask), region)[1] != region.clip.video
    assert 0 < changed.float().mean() < 0.3


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("free_at").spec == "free_at"
    method = load_training("free_at(eps=2/255, replays=8)")
    assert load_training(method.spec) == method
    with pytest.raises(InputError, match="at least once"):
        load_training("free_at(replays=0)")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_broken_run_goes_on_with_its_perturbations(
    accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("free_at(eps=4/255, replays=2)", accumulation=accumulation)
    check_resumption(recipe, tmp_path, monkeypatch)


def test_every_replay_is_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates, plain = [], Updates.apply

    def counted(self: Updates, loss: Any) -> None:
        updates.append(loss)
        plain(self, loss)

    monkeypatch.setattr(Updates, "apply", counted)
    train(tiny_recipe("free_at(eps=4/255, replays=3)", epochs=1), tmp_path, quiet=True)
    assert len(updates) == 3 * 2
