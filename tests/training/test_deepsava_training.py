"""DeepSAVA's trainings: what is injected, and what a batch is attacked with."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from driving import a_stage, a_step, batch, furthest, network, on_grid, only_loss
from resuming import check_resumption, tiny_recipe

from robustvideo.attacks import PGD
from robustvideo.errors import InputError
from robustvideo.threat import Linf, warp
from robustvideo.training import load_training
from robustvideo.training.adversarial import AdversarialTraining
from robustvideo.training.deepsava import CombinedTraining, InjectionTraining

INJECT = "deepsava_inject(attack=pgd(eps=8/255, steps=2, early_stop=false), clips=6, share=0.4)"


def test_clips_are_made_once_and_join_every_batch_with_their_labels() -> None:
    method, model, memory = load_training(INJECT), network(), {}
    first = method.before_epoch(a_stage(model, memory=memory))
    made = memory["video"].clone()
    assert made.dtype is torch.uint8
    clean, labels = batch(6, seed=3)
    change = (made.float() - clean.video * 255).round().abs()
    assert change.amax((1, 2, 3, 4)).tolist() == [8.0] * 6
    assert memory["labels"].tolist() == labels.tolist()
    again = method.before_epoch(a_stage(model, memory=memory, epoch=1))
    assert torch.equal(memory["video"], made)
    assert again == first
    assert 0 <= first["injected_fooled"] <= 1
    step = a_step(model, memory=memory)
    loss, (joined,) = only_loss(method, step)
    assert len(joined) == 5 + 2
    assert torch.equal(joined.video[:5], step.clip.video)
    for row in joined.video[5:]:
        assert any(torch.equal((row * 255).round().to(torch.uint8), other) for other in made)
    assert on_grid(joined)
    loss.value.backward()
    assert model.module[0][1].num_batches_tracked == 1, "only the training forward may touch batch statistics"


def test_the_control_sees_as_many_clips_unattacked() -> None:
    treated, control = (load_training(INJECT[:-1] + f", control={flag})") for flag in ("false", "true"))
    sizes = []
    for method in (treated, control):
        model, memory = network(), {}
        method.before_epoch(a_stage(model, memory=memory))
        _, (joined,) = only_loss(method, a_step(model, memory=memory))
        sizes.append(len(joined))
    assert sizes[0] == sizes[1]
    assert torch.equal(memory["video"].float() / 255, batch(6, seed=3)[0].video)


def test_another_model_can_be_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    import robustvideo.training.deepsava as module

    other = network(seed=5).eval()
    asked: list[str] = []

    def load(spec: str, *, device: object) -> object:
        asked.append(spec)
        return other

    monkeypatch.setattr(module, "load_model", load)
    method = InjectionTraining(PGD(Linf(8 / 255), steps=2, early_stop=False), clips=6, against="trained:x")
    memory: dict[str, torch.Tensor] = {}
    method.before_epoch(a_stage(network(), memory=memory, seed=4))
    assert asked == ["trained:x"]
    clean, labels = batch(6, seed=3)
    expected = method.attack.with_seed(4)(other, clean.select([0, 1, 2]), labels[:3])
    assert torch.equal(memory["video"][:3].float() / 255, expected.clip.video)


def test_injection_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe("deepsava_inject(attack=fgsm(eps=8/255), clips=4, share=0.25)")
    epochs = check_resumption(recipe, tmp_path, monkeypatch)
    assert all("injected_fooled" in line for line in epochs)


def test_learned_without_warp_is_plain_adversarial_training_bit_for_bit() -> None:
    method = CombinedTraining(warp=0.0, eps=8 / 255, steps=3, step_size=2 / 255)
    plain = AdversarialTraining(PGD(Linf(8 / 255), steps=3, step_size=2 / 255, early_stop=False))
    clips = [m.adversarial(a_step(network(), seed=3)).video for m in (method, plain)]
    assert torch.equal(*clips)


@pytest.mark.parametrize("mode", ["learned", "published"])
def test_both_modes_move_and_add_and_keep_to_the_grid(mode: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    method = load_training(f"deepsava_at(mode={mode}, steps=3, eps=8/255)")
    step = a_step(model)
    loss, (clip,) = only_loss(method, step)
    assert on_grid(clip)
    assert furthest(clip, step.clip) > 9, "random pixels change by more than the noise when they are moved"
    assert model.module[0][1].num_batches_tracked == 1
    assert torch.equal(model.state_dict()["module.0.0.weight"], before["module.0.0.weight"])
    loss.value.backward()


def test_published_without_warp_and_steps_beyond_is_bounded_by_eps() -> None:
    method = CombinedTraining(mode="published", warp=0.0, eps=8 / 255, steps=20, step_size=2 / 255)
    step = a_step(network())
    assert furthest(method.adversarial(step), step.clip) <= 8.5


def test_published_warps_the_running_clip_over_and_over() -> None:
    """With next to no noise only the repeated warp is left."""
    method = CombinedTraining(mode="published", warp=0.7, eps=1 / 255, steps=2, step_size=1e-9)
    step = a_step(network(), seed=9)
    from robustvideo.randomness import ClipRandom, seed_for

    random = ClipRandom(seed_for("combined", 9, name) for name in step.clip.ids)
    video = step.clip.video
    flow = 0.7 * (2 * random.uniform(torch.zeros(len(video), 2, *video.shape[2:])) - 1)
    twice = warp(warp(video, flow), flow)
    assert ((method.adversarial(step).video - twice).abs() * 255).max() <= 1.5 + 1e-3


def test_published_ascends_the_loss() -> None:
    model = network()
    step = a_step(model)
    loss = torch.nn.functional.cross_entropy
    drawn, climbed = (
        CombinedTraining(mode="published", steps=4, eps=8 / 255, step_size=size).adversarial(step)
        for size in (1e-9, 4 / 255)
    )
    model.eval()
    assert loss(model(climbed), step.labels) > loss(model(drawn), step.labels)


@pytest.mark.parametrize("mode", ["learned", "published"])
def test_a_mask_chooses_the_frames_of_both(mode: str) -> None:
    method = load_training(f"deepsava_at(mode={mode}, steps=2, k=1, eps=8/255)")
    seen = set()
    for seed in range(4):
        step = a_step(network(), seed=seed)
        touched = (method.adversarial(step).video != step.clip.video).flatten(3).any(3).any(1)
        assert touched.sum(1).tolist() == [1] * 5
        seen.add(tuple(touched.int().argmax(1).tolist()))
    assert len(seen) > 1


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    for spec in (INJECT, "deepsava_at(warp=0.5, k=2)", "deepsava_inject(attack=deepsava(select=first))"):
        assert load_training(load_training(spec).spec) == load_training(spec)
    for spec, message in (
        ("deepsava_at(mode=leaned)", "learned"),
        ("deepsava_at(warp=-1)", "not negative"),
        ("deepsava_at(eps=0)", "positive"),
        ("deepsava_inject(clips=0)", "at least 1"),
        ("deepsava_inject(attack=pgd(targeted=true))", "cannot be targeted"),
    ):
        with pytest.raises(InputError, match=message):
            load_training(spec)
