"""`Clip`: what it refuses, what it keeps, and how batches are cut and joined."""

from __future__ import annotations

import pytest
import torch
from toys import clips

from robustvideo.clip import Clip, concatenate, per_clip
from robustvideo.errors import InputError

VIDEO = torch.zeros(2, 3, 4, 5, 6)


@pytest.mark.parametrize("video", [torch.zeros(3, 4, 5, 6), torch.zeros(2, 3, 4, 5, 6, dtype=torch.uint8)])
def test_video_is_five_dimensional_and_floating(video: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(B, C, T, H, W\)"):
        Clip(video)


@pytest.mark.parametrize(
    ("audio", "rate"),
    [
        (torch.zeros(2, 10), 8000),
        (torch.zeros(3, 1, 10), 8000),
        (torch.zeros(2, 1, 10), None),
        (torch.zeros(2, 1, 10), 0),
        (torch.zeros(2, 1, 10, dtype=torch.int16), 8000),
    ],
)
def test_audio_fits_the_video(audio: torch.Tensor, rate: int | None) -> None:
    with pytest.raises(InputError):
        Clip(VIDEO, audio, rate)


def test_ids() -> None:
    assert Clip(VIDEO).ids == ("0", "1")
    assert Clip(VIDEO, ids=("a", "b")).ids == ("a", "b")
    with pytest.raises(InputError, match="ids"):
        Clip(VIDEO, ids=("a",))


def test_select_keeps_everything_of_a_clip_together() -> None:
    clip = clips(4, samples=10)
    chosen = clip.select([3, 1, 1])
    assert chosen.ids == ("3", "1", "1")
    assert torch.equal(chosen.video, clip.video[[3, 1, 1]])
    assert torch.equal(chosen.signal("audio"), clip.signal("audio")[[3, 1, 1]])
    assert chosen.sample_rate == clip.sample_rate
    assert len(clip.select([])) == 0
    assert clip.select(torch.tensor([2])).ids == ("2",)


def test_select_by_mask_selects_by_mask_or_refuses() -> None:
    """A mask read as integers would silently give the wrong clips."""
    clip = clips(3)
    try:
        chosen = clip.select(torch.tensor([False, True, True]))
    except InputError:
        return
    assert chosen.ids == ("1", "2")


def test_signals() -> None:
    clip = clips(2, samples=10)
    louder = clip.with_signal("audio", clip.signal("audio") * 0.5)
    assert torch.equal(louder.video, clip.video)
    assert torch.equal(louder.signal("audio"), clip.signal("audio") * 0.5)
    assert clip.with_signal("video", clip.video * 0).video.sum() == 0
    with pytest.raises(InputError, match="sound"):
        clips(2).signal("audio")


@pytest.mark.parametrize("value", [-1e-6, 1.0001, 255.0, float("nan"), float("inf"), float("-inf")])
def test_range_of_video(value: float) -> None:
    video = VIDEO.clone()
    Clip(video).check_range()
    video[1, 2, 3, 4, 5] = value
    with pytest.raises(InputError, match="255"):
        Clip(video).check_range()


@pytest.mark.parametrize(("value", "fits"), [(-1.0, True), (1.0, True), (-1.01, False), (12000.0, False)])
def test_range_of_audio(value: float, fits: bool) -> None:
    audio = torch.zeros(2, 1, 10)
    audio[1, 0, 3] = value
    clip = Clip(VIDEO, audio, 8000)
    if fits:
        clip.check_range()
    else:
        with pytest.raises(InputError, match="32768"):
            clip.check_range()


def test_detach_and_to() -> None:
    clip = Clip(VIDEO.clone().requires_grad_(), torch.zeros(2, 1, 10), 8000)
    assert not clip.detach().video.requires_grad
    assert clip.video.requires_grad
    double = clip.to(dtype=torch.float64)
    assert double.video.dtype is double.signal("audio").dtype is torch.float64
    assert double.ids == clip.ids


def test_concatenate_undoes_select() -> None:
    clip = clips(4, samples=10)
    again = concatenate([clip.select([0, 1]), clip.select([2]), clip.select([3])])
    assert torch.equal(again.video, clip.video)
    assert torch.equal(again.signal("audio"), clip.signal("audio"))
    assert again.ids == clip.ids
    assert again.sample_rate == clip.sample_rate


def test_concatenate_refuses_what_does_not_fit() -> None:
    sound, silent = clips(1, samples=10), clips(1)
    other_rate = Clip(sound.video, sound.audio, 16000)
    for pair in ([], [sound, silent], [sound, other_rate], [silent, clips(1, shape=(3, 5, 6, 8))]):
        with pytest.raises(InputError):
            concatenate(pair)


def test_per_clip_broadcasts_over_the_batch() -> None:
    assert (VIDEO + per_clip(torch.tensor([1.0, 2.0]), VIDEO)).mean((1, 2, 3, 4)).tolist() == [1.0, 2.0]
