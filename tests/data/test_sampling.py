from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robustvideo.data.sampling import Sampling, Timeline
from robustvideo.errors import InputError


def steady(count: int, fps: float = 10.0) -> Timeline:
    return Timeline(tuple(i / fps for i in range(count)), count / fps)


def test_uniform_takes_the_middle_of_equal_stretches() -> None:
    assert Sampling(frames=4).choose(steady(40)).frames == (5, 15, 25, 35)
    assert Sampling(frames=3).choose(steady(3)).frames == (0, 1, 2)


def test_a_window_is_centred_unless_its_start_is_given() -> None:
    assert Sampling(frames=4, stride=3).choose(steady(30)).frames == (10, 13, 16, 19)
    assert Sampling(frames=4, stride=1).choose(steady(30)).frames == (13, 14, 15, 16)
    assert Sampling(frames=4, stride=3, start=2).choose(steady(30)).frames == (2, 5, 8, 11)


def test_views_reach_from_the_first_frame_to_the_last() -> None:
    sampling = Sampling(frames=4, stride=2, views=3)
    views = [sampling.choose(steady(27), view).frames for view in range(3)]
    assert views == [(0, 2, 4, 6), (10, 12, 14, 16), (20, 22, 24, 26)]


def test_padding_loops_or_repeats_the_last_frame() -> None:
    assert Sampling(frames=5, stride=1, pad="loop").choose(steady(3)).frames == (0, 1, 2, 0, 1)
    assert Sampling(frames=5, stride=1, pad="last").choose(steady(3)).frames == (0, 1, 2, 2, 2)
    assert Sampling(frames=4, pad="loop").choose(steady(2)).frames == (0, 1, 0, 1)


def test_too_few_frames_are_told_before_choosing() -> None:
    sampling = Sampling(frames=4, stride=3)
    assert sampling.needed == 10
    with pytest.raises(ValueError, match="9 positions"):
        sampling.choose(steady(9))
    assert sampling.choose(steady(10)).frames == (0, 3, 6, 9)


def test_fps_takes_the_frame_that_is_on_display() -> None:
    uneven = Timeline((0.0, 0.1, 0.9, 1.0), 1.2)
    sampling = Sampling(frames=6, stride=1, fps=5)
    # ticks at 0, 0.2, ..., 1.0
    assert sampling.available(uneven) == 6
    assert sampling.choose(uneven).frames == (0, 1, 1, 1, 1, 3)


def test_fps_of_the_video_itself_changes_nothing() -> None:
    for count in (1, 7, 121):
        timeline = Timeline(tuple(i * 1001 / 30000 for i in range(count)), count * 1001 / 30000)
        sampling = Sampling(frames=count, stride=1, fps=30000 / 1001)
        assert sampling.choose(timeline).frames == tuple(range(count))


def test_the_window_ends_where_the_next_frame_would_be_due() -> None:
    assert Sampling(frames=4, stride=3).choose(steady(30)).window == pytest.approx((1.0, 2.2))
    assert Sampling(frames=4, stride=3).choose(steady(10)).window == pytest.approx((0.0, 1.2))
    assert Sampling(frames=4).choose(steady(40)).window == pytest.approx((0.0, 4.0))
    assert Sampling(frames=4, stride=2, fps=5).choose(steady(40)).window == pytest.approx((1.2, 2.8))


@pytest.mark.parametrize(
    "options",
    [{"frames": 0}, {"stride": 0}, {"views": 0}, {"fps": 0.0}, {"fps": float("inf")}, {"start": 3}, {"views": 2}],
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Sampling(**options)


@given(
    available=st.integers(1, 500),
    frames=st.integers(1, 64),
    stride=st.none() | st.integers(1, 20),
    views=st.integers(1, 5),
    pad=st.sampled_from(["none", "loop", "last"]),
    fps=st.none() | st.floats(0.5, 60),
)
def test_properties_of_every_choice(
    available: int, frames: int, stride: int | None, views: int, pad: str, fps: float | None
) -> None:
    views = 1 if stride is None else views
    sampling = Sampling(frames=frames, stride=stride, views=views, pad=pad, fps=fps)
    timeline = steady(available)
    positions = sampling.available(timeline)
    assume(positions >= sampling.needed)
    choices = [sampling.choose(timeline, view) for view in range(views)]
    for choice in choices:
        assert len(choice.frames) == frames
        assert all(0 <= index < available for index in choice.frames)
        assert choice.window[0] < choice.window[1]
        if positions >= sampling.span:
            assert list(choice.frames) == sorted(choice.frames)
            assert choice.window[0] == pytest.approx(timeline.times[choice.frames[0]], abs=0.1 + 1e-6) or stride is None
        if stride is not None and fps is None and positions >= sampling.span:
            assert {b - a for a, b in zip(choice.frames, choice.frames[1:], strict=False)} <= {stride}
    if fps is None and stride is not None and positions >= sampling.span:
        first, last = choices[0].frames[0], choices[-1].frames[-1]
        if views > 1:
            assert (first, last) == (0, available - 1)
        else:
            assert abs(first - (available - 1 - last)) <= 1
    if stride is None and fps is None and positions >= frames:
        assert len(set(choices[0].frames)) == frames
