"""The audio-visual trainings: adversarial training, the curriculum, and mix-up where the modalities meet."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from av_tiny import av_batch, av_network, av_step
from driving import Seen, network, only_loss
from resuming import check_resumption, tiny_recipe

from robustvideo.attacks import IFGSM, PGD
from robustvideo.attacks.segments import SegmentTMA
from robustvideo.errors import InputError
from robustvideo.threat import AudioVisual
from robustvideo.training import load_training
from robustvideo.training.av_curriculum import AudioVisualCurriculum, ratio
from robustvideo.training.mixup import draw, mixed


def a_curriculum(spec: str) -> AudioVisualCurriculum:
    method = load_training(spec)
    assert isinstance(method, AudioVisualCurriculum)
    return method


def test_adversarial_training_attacks_picture_and_sound() -> None:
    step = av_step(av_network())
    expected = PGD(AudioVisual(), steps=10, early_stop=False)(step.network, step.clip, step.labels)
    loss, (seen,) = only_loss(load_training("av_at"), step)
    assert torch.equal(seen.video, expected.clip.video)
    assert seen.audio is not None
    assert (seen.audio - step.clip.signal("audio")).abs().max() > 0.011
    assert loss.value.requires_grad


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_cycle_goes_from_low_to_high(schedule: str) -> None:
    assert ratio(schedule, 0.0, 0.05, 0.2) == 0.05  # type: ignore[arg-type]
    assert ratio(schedule, 1.0, 0.05, 0.2) == pytest.approx(0.2, abs=1e-15)  # type: ignore[arg-type]
    assert ratio(schedule, 0.5, 0.05, 0.2) == pytest.approx(0.125)  # type: ignore[arg-type]
    assert ratio("cosine", 0.25, 0.0, 1.0) == pytest.approx((1 - math.sqrt(0.5)) / 2)


def test_cycles_begin_anew_and_steps_rise() -> None:
    method = a_curriculum("av_curriculum(schedule=linear, cycles=5)")
    found = [method.crafting(p) for p in (0.0, 0.1, 0.199, 0.2, 0.3, 0.99)]
    assert [round(c.ratio, 3) for c in found] == [0.05, 0.125, 0.199, 0.05, 0.125, 0.193]
    assert [c.dropout for c in found] == [c.ratio for c in found]
    assert [c.steps for c in found] == [2, 6, 10, 2, 6, 10]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("av_curriculum(schedule=full)", (1.0, 0.0, 10)),
        ("av_curriculum(schedule=constant)", (0.2, 0.2, 10)),
        ("av_curriculum(schedule=constant, high=0.3)", (0.3, 0.3, 10)),
        ("av_curriculum(schedule=constant, on_model=false)", (0.2, 0.0, 10)),
        ("av_curriculum(schedule=constant, high=0.4, on_data=false)", (1.0, 0.4, 10)),
    ],
)
def test_the_schedules_of_appendix_b(spec: str, expected: tuple[float, float, int]) -> None:
    for progress in (0.0, 0.37):
        crafting = a_curriculum(spec).crafting(progress)
        assert (crafting.ratio, crafting.dropout, crafting.steps) == expected


def test_without_its_parts_it_is_adversarial_training() -> None:
    """All steps sampled, a segment each, nothing dropped, no terms: I-FGSM, and the same gradient."""
    plain = load_training("av_at(attack=ifgsm(threat=audio_visual(), steps=3, early_stop=false))")
    attack = "tma_segments(lam1=0, lam2=0, copies=1, decay=0, steps=3, segments=4, early_stop=false)"
    reduced = load_training(f"av_curriculum(schedule=full, attack={attack})")
    gradients = []
    for method in (plain, reduced):
        model = av_network()
        step = av_step(model)
        # a clip far from black, white and full scale: segments meet the box when they are added, not before
        clip = replace(step.clip, video=(step.clip.video * 127).round() / 255 + 64 / 255)
        loss, _ = only_loss(method, replace(step, clip=clip))
        gradients.append(torch.autograd.grad(loss.value, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_update_drops_nothing() -> None:
    """With dropout in the crafting alone, the loss is that of the plain network on the crafted clips."""
    model = av_network()
    loss, (seen,) = only_loss(load_training("av_curriculum(schedule=constant, high=0.4)"), av_step(model))
    torch.testing.assert_close(loss.value, F.cross_entropy(model(seen), av_batch()[1]))


def test_crafting_costs_the_share_it_promises() -> None:
    model = av_network()
    clip, labels = av_batch()
    result = SegmentTMA(copies=1, ratio=0.5, early_stop=False)(model, clip, labels)
    full = IFGSM(AudioVisual(), early_stop=False)(model, clip, labels)
    assert result.backward_passes[0] * 2 == full.backward_passes[0]


def test_mixing_by_hand() -> None:
    model = av_network(fusion="concat")
    step = av_step(model, seed=5)
    (loss,) = load_training("mixup").losses(step)
    share, partner = draw(6, 1.0, 5)
    features = model.features(step.clip)  # type: ignore[operator]
    logits = model(step.clip)
    fused = share[:, None] * logits + (1 - share[:, None]) * logits[partner]  # a linear head: the mix of the logits
    own, other = (F.cross_entropy(fused, y, reduction="none") for y in (step.labels, step.labels[partner]))
    torch.testing.assert_close(loss.value, (share * own + (1 - share) * other).mean())
    assert torch.equal(mixed(features["video"], torch.ones(6), partner), features["video"])


def test_mixing_at_the_input() -> None:
    step = av_step(av_network(), seed=5)
    share, partner = draw(6, 0.4, 5)
    _, (seen,) = only_loss(load_training("mixup(where=input, alpha=0.4)"), step)
    torch.testing.assert_close(seen.video, mixed(step.clip.video, share, partner))
    torch.testing.assert_close(seen.signal("audio"), mixed(step.clip.signal("audio"), share, partner))
    assert isinstance(step.forward, Seen)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("av_curriculum(schedule=stairs)", "schedule"),
        ("av_curriculum(low=0.3, high=0.2)", "low <= high"),
        ("av_curriculum(least_steps=20)", "steps to begin with"),
        ("av_curriculum(attack=pgd(eps=8/255))", "cannot be used here"),
        ("mixup(alpha=0)", "positive"),
        ("mixup(where=middle)", "'fusion' or 'input'"),
        ("av_at(attack=pgd(targeted=true))", "cannot be targeted"),
    ],
)
def test_mistakes_are_named(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_training(spec)


def test_what_has_no_features_cannot_be_mixed() -> None:
    with pytest.raises(InputError, match="shows its features"):
        next(iter(load_training("mixup").losses(av_step(network()))))


def test_a_spec_says_it_all() -> None:
    for spec in ("av_at", "av_curriculum(schedule=linear)", "mixup(alpha=0.5)", "ssdf", "dcfl(weight=0.5)", "crmt_at"):
        method = load_training(spec)
        assert load_training(method.spec) == method


def test_a_broken_curriculum_goes_on_in_its_cycle(tmp_path, monkeypatch) -> None:
    model = "AcV?scale=small&steps=2&span=2"
    data = {"train": "embedded:kinetic?clips=16&audio=true", "val": "embedded:kinetic?split=val&clips=8&audio=true"}
    attack = "tma_segments(copies=1, steps=2, early_stop=false)"
    training = f"av_curriculum(cycles=1, attack={attack}, least_steps=1)"
    lines = check_resumption(tiny_recipe(training, model=model, data=data), tmp_path, monkeypatch)
    assert [round(line["sampled"], 3) for line in lines] == [0.05, 0.125]
