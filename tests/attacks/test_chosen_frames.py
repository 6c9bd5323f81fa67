"""Problems about a few frames: the same answers as those of the whole clips, at the cost of the few."""

from __future__ import annotations

import pytest
import torch
from toys import Able, Smooth, Watched, alternating, clips, problem_for

from robustvideo.attacks import PGD
from robustvideo.attacks.chosen_frames import Backdrop, frames_of, with_frames
from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.threat import Linf

FRAMES = torch.tensor([[0], [3], [2], [3]])
PAIRS = torch.tensor([[0, 2], [1, 3], [0, 1], [2, 3]])


def a_backdrop(model: Model, clip: Clip) -> Backdrop:
    return Backdrop.of(problem_for(model, clip, alternating(len(clip)), Linf(8 / 255)))


def test_frames_are_taken_out_and_put_back() -> None:
    video = clips(4).video
    for frames in (FRAMES, PAIRS):
        part = frames_of(video, frames)
        assert torch.equal(part[1, :, 0], video[1, :, frames[1, 0]])
        assert torch.equal(with_frames(video, frames, part), video)
        other = with_frames(video, frames, torch.zeros_like(part))
        touched = (other != video).flatten(3).any(3).any(1)
        assert [row.nonzero()[:, 0].tolist() for row in touched] == frames.tolist()


@pytest.mark.parametrize("model", [Able().double().eval(), Smooth()], ids=["framewise", "not framewise"])
@pytest.mark.parametrize("frames", [FRAMES, PAIRS], ids=["one", "two"])
def test_a_narrowed_model_says_what_the_whole_one_says(model: Model, frames: torch.Tensor) -> None:
    clip = clips(4)
    backdrop = a_backdrop(model, clip)
    narrowed = backdrop.narrowed(frames)
    new = torch.rand(frames_of(clip.video, frames).shape, dtype=torch.float64, requires_grad=True)
    whole = with_frames(clip.video, frames, new)
    few = narrowed.model(Clip(new))
    assert torch.allclose(few, model(Clip(whole)), atol=1e-12)
    (gradient,) = torch.autograd.grad(few.square().sum(), new)
    (expected,) = torch.autograd.grad(model(Clip(whole)).square().sum(), new)
    assert torch.allclose(gradient, expected, atol=1e-12)
    some = narrowed.select(torch.tensor([3, 1]))
    assert torch.allclose(some.model(Clip(new[[3, 1]])), few[[3, 1]], atol=1e-12)


def test_a_clip_may_come_several_times() -> None:
    model, clip = Able().double().eval(), clips(2)
    rows, frames = torch.tensor([1, 0, 1]), torch.tensor([[0], [1], [3]])
    narrowed = a_backdrop(model, clip).narrowed(frames, rows)
    assert narrowed.labels.tolist() == [1, 0, 1]
    assert torch.allclose(narrowed.model(narrowed.clip), model(clip)[rows], atol=1e-12)


@pytest.mark.parametrize("reason", ["sound", "another length", "another size", "an ordinary model"])
def test_features_are_only_reused_where_they_make_up_the_answer(reason: str) -> None:
    clip = clips(2, samples=48) if reason == "sound" else clips(2)
    model: Model = Able().double().eval()
    model.frames = 8 if reason == "another length" else None
    model.size = (12, 12) if reason == "another size" else None
    if reason == "an ordinary model":
        model = Smooth()
    backdrop = a_backdrop(model, clip)
    assert backdrop.features is None
    assert backdrop.forwards == 0
    narrowed = backdrop.narrowed(FRAMES[:2])
    assert torch.allclose(narrowed.model(narrowed.clip), model(clip), atol=1e-12)


def test_masks_are_narrowed_too() -> None:
    clip = clips(4)
    problem = problem_for(Smooth(), clip, alternating(4), Linf(8 / 255))
    by_frame = torch.arange(16.0).view(4, 1, 4, 1, 1)
    for mask, expected in ((by_frame, [0, 7, 10, 15]), (torch.ones(4, 1, 1, 6, 8), [1, 1, 1, 1])):
        (narrowed,) = Backdrop.of(type(problem)(**{**vars(problem), "masks": (mask,)})).narrowed(FRAMES).masks
        assert narrowed is not None
        assert narrowed[:, 0, 0, 0, 0].tolist() == expected


def test_only_the_chosen_frames_are_encoded_again() -> None:
    class Counting(Able):
        frames_encoded = 0

        def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
            Counting.frames_encoded += len(frames)
            return super().encode_frames(frames)

    clip = clips(2, shape=(3, 10, 6, 8))
    backdrop = a_backdrop(Counting().double().eval(), clip)
    assert Counting.frames_encoded == 20
    narrowed = backdrop.narrowed(torch.tensor([[4], [9]]))
    for _ in range(5):
        narrowed.model(narrowed.clip)
    assert Counting.frames_encoded == 20 + 5 * 2
    assert backdrop.forwards == 1


def test_the_verdict_is_the_whole_model_s() -> None:
    clip = clips(4)
    model = Watched(Smooth())
    backdrop = a_backdrop(model, clip)
    narrowed = backdrop.narrowed(FRAMES)
    result = PGD(steps=2, early_stop=False).solve(narrowed)
    whole = backdrop.widened(result, FRAMES)
    assert torch.allclose(whole.logits, model(whole.clip).detach())
    assert whole.forward_passes.tolist() == (result.forward_passes + 1).tolist()
    assert torch.equal(frames_of(whole.clip.video, FRAMES), result.clip.video)


def test_a_model_that_draws_from_the_names_of_clips_hears_them() -> None:
    """An expectation over a model's randomness gives every copy of a clip a name of its own."""
    clip = clips(2)
    model = Watched(Smooth())
    narrowed = a_backdrop(model, clip).narrowed(FRAMES[:2])
    copies = narrowed.select(torch.tensor([0, 0, 1]))
    copies.model(Clip(copies.clip.video, ids=("0/a", "0/b", "1/a")))
    assert model.tally.calls[-1] == ("0/a", "0/b", "1/a")
