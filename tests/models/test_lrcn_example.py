"""The example of a user's own model reads somebody else's weights rightly: it knows every UCF clip here."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.model import classify
from robustvideo.models import load_model

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (DATA / "ucf.csv").is_file(), reason="the material beside the checkout is missing"),
]


def whole_video(path: Path) -> Tensor:
    """All frames, (1, 3, T, H, W) in [0, 1], with nothing of this package involved."""
    with av.open(str(path)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return torch.stack(frames).permute(3, 0, 1, 2)[None] / 255


def square(video: Tensor) -> Tensor:
    side = min(video.shape[3:])
    top, left = ((n - side) // 2 for n in video.shape[3:])
    return video[..., top : top + side, left : left + side]


def nearest(video: Tensor) -> Tensor:
    return F.interpolate(video, (video.shape[2], 128, 128))


def as_it_is(video: Tensor) -> Tensor:
    return video


@pytest.mark.parametrize("shaped", [as_it_is, square, nearest])
def test_every_clip_is_recognised(shaped: Callable[[Tensor], Tensor]) -> None:
    """Stretched or cropped to a square, resized with antialiasing or without."""
    model = load_model(f"file:{ROOT / 'examples' / 'lrcn_ucf.py'}:build")
    with (DATA / "ucf.csv").open() as file:
        truth = {row["path"]: row["label"] for row in csv.DictReader(file)}
    logits = {path: classify(model, Clip(shaped(whole_video(DATA / path)))) for path in truth}
    assert {path: model.labels[int(values.argmax())] for path, values in logits.items()} == truth
    assert len(truth) == 8
    assert min(float(values.softmax(1).max()) for values in logits.values()) > 0.9
