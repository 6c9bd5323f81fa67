"""Supports: which values of a clip may change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.support import Border, Everywhere, Frames, Patch

SIGNAL = torch.zeros(5, 3, 6, 20, 30)


def streams(batch: int = 5) -> ClipRandom:
    return ClipRandom(seed_for(i) for i in range(batch))


def test_everywhere_has_no_mask() -> None:
    assert Everywhere().mask(SIGNAL, streams()) is None


class TestFrames:
    def test_by_index(self) -> None:
        mask = Frames((0, -1)).mask(SIGNAL, streams())
        assert mask.shape == (5, 1, 6, 1, 1)
        assert mask[:, 0, :, 0, 0].tolist() == [[1, 0, 0, 0, 0, 1]] * 5

    def test_drawn_per_clip(self) -> None:
        rows = [tuple(r.tolist()) for r in Frames(k=2).mask(SIGNAL, streams())[:, 0, :, 0, 0]]
        assert all(sum(r) == 2 for r in rows)
        assert len(set(rows)) > 1
        alone = Frames(k=2).mask(SIGNAL[:1], ClipRandom([seed_for(3)]))[0, 0, :, 0, 0]
        assert tuple(alone.tolist()) == rows[3]

    def test_every_frame_can_be_drawn(self) -> None:
        many = Frames(k=1).mask(torch.zeros(300, 3, 6, 2, 2), streams(300))
        assert (many.sum((0, 1, 3, 4)) > 20).all()

    @pytest.mark.parametrize("support", [Frames((6,)), Frames((-7,)), Frames(k=0), Frames(k=7), Frames(k=-1)])
    def test_frames_that_are_not_there(self, support: Frames) -> None:
        with pytest.raises(InputError):
            support.mask(SIGNAL, streams())


class TestPatch:
    @settings(max_examples=60)
    @given(st.floats(0.005, 1.0), st.integers(0, 1000))
    def test_is_one_rectangle_of_the_asked_size_in_every_frame(self, ratio: float, seed: int) -> None:
        mask = Patch(ratio).mask(SIGNAL, ClipRandom(seed_for(seed, i) for i in range(5)))
        assert mask.shape == (5, 1, 1, 20, 30)
        height, width = max(1, int(20 * ratio**0.5)), max(1, int(30 * ratio**0.5))
        for one in mask[:, 0, 0]:
            rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
            assert (len(rows), len(columns)) == (height, width)
            assert int(rows[-1] - rows[0]) == height - 1
            assert int(columns[-1] - columns[0]) == width - 1
            assert int(one.sum()) == height * width

    @pytest.mark.parametrize("k", range(1, 21))
    def test_a_ratio_that_is_a_whole_square_gives_the_whole_side(self, k: int) -> None:
        mask = Patch((k / 20) ** 2, (0, 0)).mask(torch.zeros(1, 3, 2, 20, 20), streams(1))
        assert int(mask[0, 0, 0].any(1).sum()) == k

    def test_places_differ_between_clips_and_reach_the_edges(self) -> None:
        mask = Patch(0.25).mask(torch.zeros(400, 1, 1, 8, 8), streams(400))[:, 0, 0]
        assert mask[:, 0].any()
        assert mask[:, -1].any()
        assert mask[:, :, -1].any()
        assert len({tuple(m.flatten().tolist()) for m in mask}) == 25

    def test_corner(self) -> None:
        mask = Patch(0.25, (3, 5)).mask(SIGNAL, streams())
        assert mask[:, 0, 0, 3:13, 5:20].all()
        assert mask.sum() == 5 * 10 * 15
        with pytest.raises(InputError, match="leaves"):
            Patch(0.25, (11, 0)).mask(SIGNAL, streams())

    @pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1, float("nan")])
    def test_ratio(self, ratio: float) -> None:
        with pytest.raises(InputError):
            Patch(ratio)


class TestBorder:
    @settings(max_examples=100)
    @given(st.integers(3, 60), st.integers(3, 60), st.floats(0.02, 0.99))
    def test_is_the_thickest_that_the_ratio_allows(self, height: int, width: int, ratio: float) -> None:
        def area(b: int) -> int:
            return 2 * b * (width + height) - 4 * b * b

        share = ratio * height * width + 1e-6  # equal but for rounding counts as equal
        allowed = [b for b in range(1, min(height, width) // 2 + 1) if area(b) <= share]
        signal = torch.zeros(2, 3, 2, height, width)
        if not allowed:
            with pytest.raises(InputError, match="thinner"):
                Border(ratio).mask(signal, streams(2))
            return
        mask = Border(ratio).mask(signal, streams(2))
        assert mask.shape == (2, 1, 1, height, width)
        assert int(mask[0].sum()) == area(allowed[-1])
        assert mask[0, 0, 0, 0].all()
        assert mask[0, 0, 0, :, -1].all()

    @pytest.mark.parametrize("b", [1, 2, 3, 5, 7])
    @pytest.mark.parametrize("size", [(32, 32), (112, 112), (224, 224), (20, 30)])
    def test_a_ratio_that_is_exactly_a_thickness_gives_it(self, size: tuple[int, int], b: int) -> None:
        height, width = size
        ratio = (2 * b * (height + width) - 4 * b * b) / (height * width)
        mask = Border(ratio).mask(torch.zeros(1, 3, 1, height, width), streams(1))
        assert int(mask[0, 0, 0, :, width // 2].sum()) == 2 * b

    @pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, float("nan")])
    def test_ratio(self, ratio: float) -> None:
        with pytest.raises(InputError):
            Border(ratio)


@pytest.mark.parametrize("support", [Frames((1,)), Frames(k=2), Patch(0.3), Border(0.3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_have_a_row_per_clip_and_the_signal_s_type(support, dtype: torch.dtype) -> None:
    mask = support.mask(SIGNAL.to(dtype), streams())
    assert mask.dtype is dtype
    assert len(mask) == 5
    assert mask.expand_as(SIGNAL).shape == SIGNAL.shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
