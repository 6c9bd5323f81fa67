"""Bit depth, median, video compression: filters whose answer is known on paper."""

from __future__ import annotations

import math

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.data.codec import reencode
from robustvideo.errors import InputError
from robustvideo.purification.bit_depth import BitDepth
from robustvideo.purification.median import Median
from robustvideo.purification.video_compression import VideoCompression


def levels() -> Clip:
    """Every one of the 256 levels."""
    return Clip((torch.arange(256).float() / 255).view(1, 1, 1, 16, 16).expand(1, 3, 2, 16, 16).contiguous())


def test_eight_bits_are_left_bit_for_bit() -> None:
    assert torch.equal(BitDepth(bits=8).purify(levels(), [0])[0].video, levels().video)


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_bit_depth_rounds_once_and_for_all(bits: int) -> None:
    once = BitDepth(bits=bits).purify(levels(), [0])[0]
    assert torch.equal(BitDepth(bits=bits).purify(once, [0])[0].video, once.video)
    assert len(once.video.unique()) == 2**bits
    assert (once.video - levels().video).abs().max() <= 0.5 / (2**bits - 1) + 1e-6


def test_a_median_takes_an_impulse_away() -> None:
    video = torch.full((1, 3, 5, 9, 9), 0.25)
    video[0, 1, 2, 4, 4] = 1.0
    video[0, 0, 0, 0, 0] = 0.0  # in a corner, where the edge is repeated
    for median in (Median(), Median(size=5), Median(temporal=True)):
        out = median.purify(Clip(video), [0])[0].video
        assert out[0, 1, 2, 4, 4] == 0.25


def test_a_median_in_time_compares_frames_and_one_in_space_pixels() -> None:
    flash = torch.full((1, 1, 5, 4, 4), 0.2)
    flash[:, :, 2] = 0.9  # one bright frame
    assert torch.equal(Median().purify(Clip(flash), [0])[0].video, flash)
    assert (Median(temporal=True).purify(Clip(flash), [0])[0].video == 0.2).all()


def test_the_gradient_of_a_median_goes_to_the_chosen_pixel() -> None:
    video = torch.rand(1, 1, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    video.requires_grad_()
    middle = Median().purify(Clip(video), [0])[0].video[0, 0, 0, 1, 1]
    (gradient,) = torch.autograd.grad(middle, video)
    assert gradient.sum() == 1
    assert video.detach()[gradient == 1] == video.detach().median()


def test_video_compression_is_h264_and_loses_more_at_higher_factors() -> None:
    random = torch.Generator().manual_seed(0)
    clip = Clip(torch.rand(1, 3, 5, 33, 35, generator=random).cumsum(4) / 35)
    errors = []
    for crf in (10, 28, 40):
        out = VideoCompression(crf=crf).purify(clip, [0])[0].video
        assert torch.equal(out, reencode(clip, f"h264:{crf}").video)
        errors.append(-10 * math.log10(float((out - clip.video).square().mean())))
    assert errors == sorted(errors, reverse=True)


def test_a_constant_clip_survives_compression() -> None:
    clip = Clip(torch.full((1, 3, 7, 15, 17), 100 / 255))
    assert (VideoCompression().purify(clip, [0])[0].video - clip.video).abs().max() <= 2 / 255 + 1e-6


def test_nonsense_is_refused() -> None:
    for nonsense in (lambda: BitDepth(bits=9), lambda: Median(size=4), lambda: VideoCompression(crf=52)):
        with pytest.raises(InputError):
            nonsense()
