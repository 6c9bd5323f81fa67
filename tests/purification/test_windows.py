"""Long videos: windows that add up to the whole without a seam."""

from __future__ import annotations

import pytest
import torch
from alive import Alive
from diffusing import known, rugged
from purifiers import Identity, Jitter, Sudden
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification import load_defense
from robustvideo.purification.videopure import VideoPure
from robustvideo.purification.windows import purify_in_windows, purify_video


def long(frames: int = 23) -> Clip:
    random = torch.Generator().manual_seed(0)
    return Clip((torch.rand(1, 3, frames, 8, 8, generator=random, dtype=torch.float64) * 255).round() / 255)


@pytest.mark.parametrize(("window", "overlap"), [(5, 0), (5, 1), (5, 4), (6, None), (22, 3), (23, 3), (40, 3)])
def test_frame_by_frame_purifiers_do_not_see_the_windows(window: int, overlap: int | None) -> None:
    purifier = load_defense("bit_depth(bits=3)")
    (whole,) = purifier.purify(long(), [0])
    advanced = []
    (found,) = purify_in_windows(
        purifier, long(), [0], window=window, overlap=overlap, advance=lambda units, note: advanced.append(units)
    )
    assert torch.allclose(found.video, whole.video, atol=1e-12)
    assert sum(advanced) == 23


def test_windows_fade_into_each_other() -> None:
    """Windows of 8 that overlap by 4 and run from 0 to 7/8: inside the overlap the step of 4/8 is spread evenly."""
    (found,) = purify_in_windows(Sudden(frames=8), long(20), [0], overlap=4)
    line = found.video[0, 0, :, 0, 0]
    steps = line.diff()
    assert line[:4].tolist() == [0, 1 / 8, 2 / 8, 3 / 8]
    expected = [(4 + i) / 8 * (1 - (i + 1) / 5) + i / 8 * (i + 1) / 5 for i in range(4)]
    assert torch.allclose(line[4:8], torch.tensor(expected, dtype=torch.float64))
    assert steps.abs().max() < 0.5 * 4 / 8, "no frame jumps by as much as a seam would"
    (cut,) = purify_in_windows(Sudden(frames=8), long(24), [0], overlap=0)
    assert cut.video[0, 0, :, 0, 0].diff().abs().max() == 7 / 8


def test_every_window_draws_for_itself_and_always_the_same() -> None:
    grey = Clip(torch.full((1, 1, 12, 16, 16), 0.5))
    draws = [purify_in_windows(Jitter(), grey, [3], window=4, overlap=0)[0].video for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.allclose(draws[0][:, :, :4], draws[0][:, :, 4:8])


def test_a_purified_video_is_what_a_file_holds() -> None:
    video = purify_video(load_defense("wavelet(sigma=0.04)"), long(9), window=4).video
    assert torch.equal(video, (video * 255).round() / 255)
    with pytest.raises(InputError, match="must lie in"):
        purify_video(load_defense("median"), Clip(torch.full((1, 3, 2, 8, 8), 2.0)))


class Known(VideoPure):
    """VideoPure on a network known on paper."""

    def network(self) -> nn.Module:
        return known(rugged)


def test_of_a_purifier_that_votes_the_middle_prediction_is_written() -> None:
    clip = long(9)
    votes = Known(flow=None).purify(clip, [0], known(rugged))
    written = purify_video(Known(flow=None), clip).video
    assert torch.equal(written, (votes[3].video * 255).round() / 255)
    assert not torch.equal(written, (votes[6].video * 255).round() / 255)
    assert Known(flow=None, candidate=0).single().candidate == 0
    assert [VideoPure(substeps=n).single().candidate for n in (1, 2, 3)] == [1, 1, 2]
    assert load_defense("diffpure_ddim(votes=3)").single() == load_defense("diffpure_ddim")


def test_a_long_video_is_held_once_whatever_the_votes() -> None:
    clip = long(64)
    with Alive(clip.video.untyped_storage().nbytes()) as alive:
        purify_video(Known(flow=None), clip)
    assert alive.most <= 3  # the check of its range, then the blend, rounded, and the answer


@pytest.mark.parametrize(("window", "seen"), [(None, [16, 16, 16]), (0, [40]), (20, [20, 20, 20])])
def test_diffusion_takes_16_frames_at_once_unless_told_otherwise(
    window: int | None, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    done: list[int] = []
    monkeypatch.setattr(Identity, "once", lambda self, clip, seeds, network: (lengths.append(clip.frames), (clip,))[1])
    monkeypatch.setattr(Identity, "window", VideoPure().window)
    purify_video(Identity(), long(40), window=window, advance=lambda units, note: done.append(units))
    assert lengths == seen
    assert (sum(done), len(done)) == (40, len(seen))


@pytest.mark.parametrize(("window", "overlap"), [(4, 4), (4, -1)])
def test_windows_that_cannot_be_are_refused(window: int, overlap: int) -> None:
    with pytest.raises(InputError, match="cannot overlap"):
        purify_in_windows(load_defense("median"), long(), [0], window=window, overlap=overlap)
