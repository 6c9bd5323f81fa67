"""Shuffled frames."""

from __future__ import annotations

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.temporal_shuffle import TemporalShuffle


def numbered(frames: int, batch: int = 1) -> Clip:
    """Frame t is t / frames everywhere."""
    video = (torch.arange(frames, dtype=torch.float64) / frames).view(1, 1, -1, 1, 1)
    return Clip(video.expand(batch, 3, frames, 2, 2))


@pytest.mark.parametrize(("frames", "stretch"), [(16, None), (16, 4), (10, 4), (3, 8)])
def test_every_stretch_keeps_its_frames(frames: int, stretch: int | None) -> None:
    clip = numbered(frames)
    out = TemporalShuffle(frames=stretch).purify(clip, [3])[0].video[0, 0, :, 0, 0]
    size = stretch or frames
    for start in range(0, frames, size):
        part = slice(start, start + size)
        assert torch.equal(out[part].sort().values, clip.video[0, 0, part, 0, 0])
    assert frames < 5 or not torch.equal(out, clip.video[0, 0, :, 0, 0])


def test_the_order_depends_on_the_clip_s_seed_alone() -> None:
    shuffle = TemporalShuffle()
    out = shuffle.purify(numbered(16, 3), [1, 2, 1])[0].video
    assert torch.equal(out[0], out[2])
    assert not torch.equal(out[0], out[1])
    again = shuffle.purify(numbered(16, 1), [2])[0].video
    assert torch.equal(again[0], out[1])


def test_a_gradient_lands_on_the_frame_it_comes_from() -> None:
    shuffle = TemporalShuffle()
    clip = numbered(8)
    video = clip.video.clone().requires_grad_()
    order = shuffle.order(8, 5)
    (gradient,) = torch.autograd.grad(shuffle.purify(Clip(video), [5])[0].video[:, :, 2].sum(), video)
    hit = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten()
    assert hit.tolist() == [int(order[2])]


def test_all_orders_are_about_as_likely() -> None:
    """The source of place 0 over 4000 seeds: each of 4 frames within five standard deviations of 1000."""
    counts = torch.stack([TemporalShuffle().order(4, seed)[0] for seed in range(4000)]).bincount(minlength=4)
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        TemporalShuffle(frames=0)
