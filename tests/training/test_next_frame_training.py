"""Training of models of the next frame."""

from __future__ import annotations

import copy

import pytest
import torch
from driving import a_step, network

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.training import load_training


def test_a_few_steps_of_training_beat_the_copy() -> None:
    torch.manual_seed(0)
    model = load_model("next_frame?hidden=8&layers=1&kernel=3").train()
    weights = copy.deepcopy(model.state_dict())
    path = torch.arange(6.0)[:, None]
    column = torch.arange(12.0)[None]
    bar = torch.exp(-((column - 2 - path) ** 2))  # moves one pixel per frame
    clip = Clip(bar[None, None, :, None].expand(1, 3, 6, 12, 12).contiguous())
    method = load_training("next_frame")
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        (loss,) = method.losses(a_step(model, clip=clip, labels=torch.zeros(1, dtype=torch.long)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.value < 0.3 * loss.metrics["copy_mse"]
    assert any(not torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="next frame"):
        list(load_training("next_frame").losses(a_step(network())))
