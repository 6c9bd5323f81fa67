"""Temporal shift: which channels come from which frame."""

from __future__ import annotations

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.tsm import temporal_shift


def test_an_eighth_comes_from_the_frame_after_and_an_eighth_from_the_one_before() -> None:
    clips, frames, channels = 2, 3, 16
    x = torch.arange(clips * frames * channels, dtype=torch.float64).view(clips, frames, channels, 1, 1)
    shifted = temporal_shift(x.flatten(0, 1), frames).view_as(x)
    for b in range(clips):
        for t in range(frames):
            for c in range(channels):
                source = t + 1 if c < 2 else t - 1 if c < 4 else t
                expected = x[b, source, c] if 0 <= source < frames else torch.zeros(1, 1, dtype=torch.float64)
                assert torch.equal(shifted[b, t, c], expected)


@pytest.mark.parametrize(("name", "blocks"), [("tsm_r18", 8), ("tsm_r50", 16)])
def test_every_block_is_shifted_and_clips_stay_apart(name: str, blocks: int) -> None:
    model = load_model(f"{name}?frames=4&size=32", num_classes=5).double()
    assert sum(type(m).__name__ == "Shifted" for m in model.modules()) == blocks
    clip = Clip(torch.rand(3, 3, 4, 32, 32, dtype=torch.float64))
    together = model(clip)
    assert together.shape == (3, 5)
    for i in range(3):
        assert torch.allclose(model(clip.select([i]))[0], together[i], atol=1e-10)


def test_the_order_of_the_frames_matters() -> None:
    model = load_model("tsm_r18?frames=4&size=32", num_classes=5).double()
    video = torch.rand(1, 3, 4, 32, 32, dtype=torch.float64)
    assert not torch.allclose(model(Clip(video)), model(Clip(video.flip(2))), atol=1e-6)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(InputError, match="frames="):
        load_model("tsm_r18?frames=1")
