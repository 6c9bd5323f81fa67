"""Driving a training method by hand, batch by batch: what the tests of single methods share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.model import Model, wrap
from robustvideo.training.method import Loss, Method, Stage, Step

SHAPE = (3, 4, 8, 8)
CLASSES = 3


def network(seed: int = 0) -> Model:
    """A small smooth network with batch norm, on clips of `SHAPE`."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.Softplus(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return wrap(nn.Sequential(layers, nn.Linear(4, CLASSES)), frames=4, size=8).train()


def batch(clips: int = 5, seed: int = 1) -> tuple[Clip, Tensor]:
    """Clips on the 8-bit grid, and labels."""
    random = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (clips, *SHAPE), generator=random).float() / 255
    return Clip(video), torch.arange(clips) % CLASSES


class Seen:
    """Forwards to a network in training mode and remembers the clips."""

    def __init__(self, model: Model):
        self.model = model
        self.clips: list[Clip] = []

    def __call__(self, clip: Clip) -> Tensor:
        assert self.model.training
        self.clips.append(clip)
        logits: Tensor = self.model(clip)
        return logits


def a_step(model: Model, **changes: Any) -> Step:
    """One batch; ``forward`` is a `Seen`."""
    clip, labels = batch()
    content: dict[str, Any] = {
        "forward": Seen(model),
        "network": model,
        "companions": nn.ModuleDict(),
        "clip": clip,
        "labels": labels,
        "epoch": 0,
        "epochs": 1,
        "progress": 0.0,
        "seed": 0,
        "memory": {},
        **changes,
    }
    return Step(**content)


def a_stage(model: Model, **changes: Any) -> Stage:
    """A place between epochs, with six training clips in two batches."""

    def sample(wanted: int) -> Iterator[tuple[Clip, Tensor]]:
        clip, labels = batch(min(wanted, 6), seed=3)
        for start in range(0, len(clip), 3):
            rows = list(range(start, min(start + 3, len(clip))))
            yield clip.select(rows), labels[rows]

    content: dict[str, Any] = {
        "network": model,
        "companions": nn.ModuleDict(),
        "memory": {},
        "epoch": 0,
        "epochs": 1,
        "seed": 0,
        "sample": sample,
        **changes,
    }
    return Stage(**content)


def only_loss(method: Method, step: Step) -> tuple[Loss, list[Clip]]:
    """The one loss of a batch, and the clips that were trained on."""
    (loss,) = method.losses(step)
    assert isinstance(step.forward, Seen)
    return loss, step.forward.clips


def furthest(clip: Clip, clean: Clip) -> float:
    """Largest change of a pixel, in units of 1/255."""
    return float((clip.video - clean.video).abs().max()) * 255


def on_grid(clip: Clip) -> bool:
    """Whether a file can hold the clips as they are."""
    return torch.equal((clip.video * 255).round() / 255, clip.video)
