"""Adversarial training: what is trained on, and what the attack leaves behind."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.training import load_training
from robustvideo.training.method import Step


def network() -> Model:
    layers = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return wrap(nn.Sequential(layers, nn.Linear(4, 3)), frames=4, size=8)


def batch() -> tuple[Clip, torch.Tensor]:
    video = (torch.rand(5, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    return Clip(video), torch.tensor([0, 1, 2, 0, 1])


class Seen:
    """Forwards to a network and remembers the clips."""

    def __init__(self, model: Model):
        self.model = model
        self.clips: list[Clip] = []

    def __call__(self, clip: Clip) -> torch.Tensor:
        assert self.model.training
        self.clips.append(clip)
        return self.model(clip)


def run(spec: str, model: Model, seed: int) -> tuple[Seen, torch.Tensor]:
    forward = Seen(model.train())
    clip, labels = batch()
    (loss,) = load_training(spec).losses(Step(forward, model, clip, labels, progress=0.0, seed=seed))
    return forward, loss.value


def test_it_trains_on_stored_clips_inside_the_ball_with_fresh_starts() -> None:
    model, (clean, _) = network(), batch()
    spec = "at(attack=pgd(eps=4/255, steps=2, early_stop=false))"
    videos = [run(spec, deepcopy(model), seed)[0].clips[0].video for seed in (1, 2, 1)]
    for video in videos:
        assert float((video - clean.video).abs().max()) <= 4 / 255 + 1e-5
        assert torch.equal((video * 255).round() / 255, video)
        assert not video.requires_grad
    assert torch.equal(videos[0], videos[2])
    assert not torch.equal(videos[0], videos[1])


def test_the_attack_leaves_no_trace_and_the_loss_reaches_the_weights() -> None:
    model = network()
    counted = model.module[0][1].num_batches_tracked
    _, loss = run("at", model, seed=0)
    assert int(counted) == 1, "only the training forward may touch the batch statistics"
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.module[1].parameters())


def test_the_clips_are_the_attacks_own() -> None:
    model, (clean, labels) = network(), batch()
    expected = load_attack("fgsm(eps=3/255, early_stop=false, seed=7)")(deepcopy(model), clean, labels).clip
    forward, _ = run("at(attack=fgsm(eps=3/255, early_stop=false))", model, seed=7)
    assert torch.equal(forward.clips[0].video, expected.video)


def test_a_spec_says_it_all() -> None:
    assert load_training("at").spec == "at"
    method = load_training("at(attack=pgd(eps=8/255, steps=3, early_stop=false))")
    assert load_training(method.spec) == method
    with pytest.raises(InputError, match="cannot be targeted"):
        load_training("at(attack=pgd(targeted=true))")
    with pytest.raises(InputError, match="did you mean 'attack'"):
        load_training("at(atack=pgd)")
    with pytest.raises(InputError, match="did you mean 'standard'"):
        load_training("standrad")
