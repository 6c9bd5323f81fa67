"""A tiny audio-visual network and a batch with sound: what the tests of its trainings share."""

from __future__ import annotations

from typing import Any

import torch
from driving import a_stage, a_step
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.models import load_model
from robustvideo.training.method import Stage, Step

TINY = "visual=resnet_small&audio=vgg_small&size=8&features=6&rate=8000&n_fft=32&hop=16&mels=4&steps=4"
FRAMES, SAMPLES, CLASSES = 4, 4 * 64, 3


def av_network(alteration: str = "", *, fusion: str = "sum", seed: int = 0) -> Model:
    added = f"&with={alteration}" if alteration else ""
    return load_model(f"audio_visual?{TINY}&fusion={fusion}{added}", num_classes=CLASSES, seed=seed).train()


def av_batch(clips: int = 6, seed: int = 1) -> tuple[Clip, Tensor]:
    """Clips on the grid of a file, and labels."""
    random = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (clips, 3, FRAMES, 8, 8), generator=random).float() / 255
    audio = torch.randint(-9000, 9000, (clips, 1, SAMPLES), generator=random).float() / 32768
    ids = tuple(f"{seed}/{i}" for i in range(clips))
    return Clip(video, audio, 8000, ids), torch.arange(clips) % CLASSES


def av_step(model: Model, **changes: Any) -> Step:
    clip, labels = av_batch()
    return a_step(model, clip=clip, labels=labels, **changes)


def av_stage(model: Model, **changes: Any) -> Stage:
    def sample(wanted: int) -> Any:
        clip, labels = av_batch(min(wanted, 6), seed=3)
        for start in range(0, len(clip), 3):
            rows = list(range(start, min(start + 3, len(clip))))
            yield clip.select(rows), labels[rows]

    return a_stage(model, sample=sample, **changes)
