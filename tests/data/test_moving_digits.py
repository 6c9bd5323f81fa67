"""Bouncing digits: repeatable, inside the picture, and predictable from the frames before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustvideo.data import load_data
from robustvideo.data.moving_digits import LABELS, reflected, strokes
from robustvideo.errors import InputError


def test_clips_are_functions_of_split_and_index_alone() -> None:
    one, other = (load_data("embedded:moving_digits?split=val&clips=5") for _ in range(2))
    assert torch.equal(one.clip(3).video, other.clip(3).video)
    assert not torch.equal(one.clip(3).video, one.clip(4).video)
    assert not torch.equal(one.clip(3).video, load_data("embedded:moving_digits?split=test").clip(3).video)
    assert load_data(one.spec).spec == one.spec


@pytest.mark.parametrize(
    ("options", "shape"), [("", (1, 3, 16, 48, 48)), ("?frames=7&size=32&digits=1", (1, 3, 7, 32, 32))]
)
def test_clips_are_grey_on_the_grid_and_of_one_label(options: str, shape: tuple[int, ...]) -> None:
    data = load_data(f"embedded:moving_digits{options}")
    clip = data.clip(0)
    assert clip.video.shape == shape
    assert clip.video.dtype is torch.float32
    clip.check_range()
    assert torch.equal((clip.video * 255).round() / 255, clip.video)
    assert torch.equal(clip.video[:, 0], clip.video[:, 2])
    assert data.labels == LABELS
    assert {sample.label for sample in data.samples} == {0}
    assert float(clip.video.amax()) == 1.0


def test_digits_move_but_not_far_and_stay_whole() -> None:
    data = load_data("embedded:moving_digits?clips=40&digits=1")
    for index in range(40):
        video = data.clip(index).video[0, 0]
        mass = video.sum((1, 2))
        assert mass.min() > 0.9 * mass.max(), "no part of a digit leaves the picture"
        places = torch.arange(48.0)
        centres = torch.stack([(video * places).sum((1, 2)), (video * places[:, None]).sum((1, 2))]) / mass
        moved = centres.diff(dim=1).abs()
        assert moved.amax() <= 0.06 * 48 + 0.2
        assert moved.mean() > 0.2


def test_all_ten_digits_come() -> None:
    data = load_data("embedded:moving_digits?clips=60&digits=1&frames=2")
    ink = {round(float(data.clip(i).video[0, 0, 0].sum())) for i in range(60)}
    assert len(ink) > 20


def test_a_path_is_folded_at_both_ends() -> None:
    path = np.array([[0.0, 3.0], [4.0, 8.0], [6.0, -1.0], [11.0, 12.0]])
    assert reflected(path, np.array([5.0, 4.0])).tolist() == [[0.0, 3.0], [4.0, 0.0], [4.0, 1.0], [1.0, 4.0]]


def test_a_stroke_is_as_bright_as_it_is_near() -> None:
    line = np.array([[0.0, 0.0], [4.0, 0.0]], np.float32)
    drawn = strokes(line, np.array([[2.0, 3.5], [2.0, 4.5]], np.float32), 10, 0.5)
    assert drawn[0, 3, 2:6].tolist() == [1.0] * 4
    assert drawn[0, 5].tolist() == [0.0] * 10
    assert np.array_equal(drawn[1, 1:], drawn[0, :-1])


def test_mistakes_are_named() -> None:
    for options, message in (("split=vall", "'val' or 'test'"), ("frames=1", "at least 2"), ("digits=0", "digits")):
        with pytest.raises(InputError, match=message):
            load_data(f"embedded:moving_digits?{options}")
