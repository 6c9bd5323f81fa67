"""Saliency maps against closed forms."""

from __future__ import annotations

import torch
from toys import SHAPE, Able, Linear, Stairs, alternating, clips, weights

from robustvideo.evaluation.saliency import frame_shares, overlay, saliency_maps


def test_of_a_linear_model_it_is_the_weights() -> None:
    weight, clip = weights(), clips(3)
    maps = saliency_maps(Linear(weight), clip, alternating(3))
    expected = weight.abs().amax(0) / weight.abs().max()
    assert torch.allclose(maps, expected.expand(3, -1, -1, -1), atol=1e-12)
    mass = weight.abs().amax(0).sum((1, 2))
    assert torch.allclose(frame_shares(maps), (mass / mass.sum()).expand(3, -1), atol=1e-12)


def test_a_sure_model_has_a_saliency_too() -> None:
    clip = clips(1, dtype=torch.float32)
    model = Linear(weights(dtype=torch.float32), bias=-500.0)
    assert float(model(clip).detach().softmax(1)[0, 0]) == 1.0
    assert float(saliency_maps(model, clip, torch.zeros(1, dtype=torch.long)).max()) == 1.0


def test_without_a_gradient_it_is_zero_and_shares_are_equal() -> None:
    maps = saliency_maps(Stairs(weights()), clips(2), alternating(2))
    assert not maps.any()
    assert torch.allclose(frame_shares(maps), torch.full((2, SHAPE[1]), 1 / SHAPE[1], dtype=torch.float64))


def test_clips_stay_apart_and_nothing_is_left_behind() -> None:
    model, clip, labels = Able().double().train(), clips(3), torch.tensor([0, 1, 2])
    together = saliency_maps(model, clip, labels)
    for i in range(3):
        assert torch.allclose(saliency_maps(model, clip.select([i]), labels[i : i + 1])[0], together[i], atol=1e-9)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not clip.video.requires_grad


def test_the_overlay_is_yellow_where_it_is_salient() -> None:
    video, maps = torch.full((1, 3, 1, 1, 2), 0.5), torch.tensor([[[[1.0, 0.0]]]])
    drawn = overlay(video, maps, strength=0.5)
    assert drawn[0, :, 0, 0].T.tolist() == [[0.75, 0.75, 0.25], [0.5, 0.5, 0.5]]
