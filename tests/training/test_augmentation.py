"""Random views: one draw per clip, the same for all its frames, whatever the batch."""

from __future__ import annotations

import torch

from robustvideo.clip import Clip
from robustvideo.training.augmentation import Augmentation


def clips(count: int = 12) -> Clip:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(count, 3, 4, 10, 12, generator=generator)
    return Clip(video, ids=tuple(f"clip{i}" for i in range(count)))


def test_nothing_asked_changes_nothing() -> None:
    clip = clips()
    assert Augmentation()(clip, seed=1) is clip


def test_a_flip_mirrors_whole_clips_about_half_of_the_time() -> None:
    clip = clips(64)
    seen = Augmentation(flip=True)(clip, seed=3).video
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(seen, clip.video, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(seen, clip.video, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 <= sum(mirrored) <= 48


def test_a_draw_depends_on_seed_and_clip_alone() -> None:
    augment, clip = Augmentation(flip=True, crop=0.6), clips()
    whole = augment(clip, seed=5).video
    alone = augment(clip.select(torch.tensor([7])), seed=5).video
    assert torch.equal(whole[7:8], alone)
    assert not torch.equal(whole, augment(clip, seed=6).video)


def test_a_crop_is_one_window_for_all_frames_and_stays_in_range() -> None:
    frame = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    still = Clip(frame.expand(2, 3, 5, 20, 20).clone(), ids=("a", "b"))
    seen = Augmentation(crop=0.5)(still, seed=0).video
    assert seen.shape == still.video.shape
    assert torch.equal(seen, seen[:, :, :1].expand_as(seen))
    assert not torch.equal(seen, still.video)
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
