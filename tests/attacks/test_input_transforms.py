"""Input transforms: what is in step, what is counted, and what the gradient sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import Able, clips, problem_for

from robustvideo.attacks.averaged import Copies, repeat
from robustvideo.attacks.input_transforms import (
    MIX,
    Draws,
    InputTransform,
    blur_frames,
    blur_sound,
    masked,
    masks,
    rolled,
    step_of,
)
from robustvideo.clip import Clip
from robustvideo.threat import AudioVisual

FRAMES, WINDOW = 8, 6


def case(
    copies: int, batch: int = 2, step: int = 0, samples: int = FRAMES * WINDOW, span: int = 1
) -> tuple[Clip, Copies]:
    """White frames and loud sound, so that what is masked shows; every clip in ``copies`` rows."""
    clip = clips(batch, shape=(3, FRAMES, 8, 8), samples=samples)
    model = Able().double()
    model.span = span  # type: ignore[assignment]
    problem = repeat(problem_for(model, clip, torch.zeros(batch).long(), AudioVisual()), copies)
    return problem.clip, Copies(problem, tuple(range(copies)) * batch, step)


def sounding(clip: Clip) -> Tensor:
    assert clip.audio is not None
    return clip.audio


def silent_steps(clip: Clip) -> tuple[Tensor, Tensor]:
    """(N, T) which frames are black, and which windows are silent."""
    windows = sounding(clip)[:, 0, : FRAMES * WINDOW].unflatten(1, (FRAMES, WINDOW))
    return (clip.video == 0).all(4).all(3).all(1), (windows == 0).all(2)


@pytest.mark.parametrize("options", [{}, {"compose": True}, {"synchronous": False}, {"where": "audio"}])
def test_copy_0_is_the_clip_itself_and_draws_are_a_row_s_own(options: dict[str, Any]) -> None:
    transform = InputTransform(**options)
    clip, copies = case(4)
    changed = transform(clip, copies)
    assert torch.equal(changed.video[::4], clip.video[::4])
    assert torch.equal(sounding(changed)[::4], sounding(clip)[::4])
    assert (sounding(changed)[1:4] != sounding(clip)[1:4]).flatten(1).any(1).all()
    assert (changed.video != clip.video).any() == (options.get("where") != "audio")
    assert torch.equal(transform(clip, copies).video, changed.video)
    alone, of_alone = case(4, batch=1)
    torch.testing.assert_close(transform(alone, of_alone).video, changed.video[:4], rtol=1e-12, atol=1e-14)
    _, later = case(4, step=1)
    assert not torch.equal(sounding(transform(clip, later)), sounding(changed))


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.01, 1), (0.2, 2), (0.5, 4)])
def test_masks_in_step_empty_the_same_steps(ratio: float, count: int) -> None:
    clip, copies = case(6)
    frames, windows = silent_steps(InputTransform(("mask",), ratio)(clip, copies))
    assert torch.equal(frames, windows)
    assert frames.sum(1).tolist() == ([0] + [count] * 5) * 2


def test_masks_out_of_step_differ_and_a_single_modality_leaves_the_other() -> None:
    clip, copies = case(6)
    frames, windows = silent_steps(InputTransform(("mask",), 0.4, synchronous=False)(clip, copies))
    assert not torch.equal(frames, windows)
    assert torch.equal(frames.sum(1), windows.sum(1))
    frames, windows = silent_steps(InputTransform(("mask",), 0.4, where="video")(clip, copies))
    assert frames.any()
    assert not windows.any()


def test_a_step_of_several_frames_is_masked_and_rolled_as_one() -> None:
    clip, copies = case(6, span=2)
    frames, windows = silent_steps(InputTransform(("mask",), 0.5)(clip, copies))
    assert torch.equal(frames, windows)
    assert frames.sum(1).tolist() == ([0] + [4] * 5) * 2
    assert torch.equal(frames[:, ::2], frames[:, 1::2])
    video = rolled(clip.video, torch.full((len(clip),), 3), FRAMES // 2)
    assert torch.equal(video, clip.video.roll(6, 2))


def test_half_precision_around_it_changes_nothing() -> None:
    clip, copies = case(4)
    single = Clip(clip.video.float(), sounding(clip).float(), 8000, clip.ids)
    transform = InputTransform(compose=True)
    expected = transform(single, copies)
    with torch.autocast("cpu", torch.bfloat16):
        changed = transform(single, copies)
    assert torch.equal(changed.video, expected.video)
    assert torch.equal(sounding(changed), sounding(expected))


def test_the_last_window_has_the_rest() -> None:
    sound = torch.ones(1, 2, FRAMES * WINDOW + 5)
    assert step_of(sound, FRAMES)[0, -(WINDOW + 5) :].tolist() == [FRAMES - 1] * (WINDOW + 5)
    keep = torch.ones(1, FRAMES)
    keep[0, -1] = 0
    assert masked(sound, keep).sum() == 2 * (FRAMES - 1) * WINDOW
    assert masked(torch.ones(1, 1, 3), keep[:, :4]).tolist() == [[[1, 1, 1]]]


def test_masks_are_nested_and_even() -> None:
    order = torch.rand(4000, FRAMES, generator=torch.Generator().manual_seed(0))
    kept = [masks(order, ratio) for ratio in (0, 0.125, 0.25, 0.5, 0.99)]
    for larger, smaller in zip(kept[1:], kept, strict=False):
        assert (larger <= smaller).all()
    mean = kept[2].mean(0)
    sigma = (0.25 * 0.75 / 4000) ** 0.5
    assert ((mean - 0.75).abs() < 4 * sigma).all()


def test_the_gradient_of_masked_steps_is_0_and_of_scaled_ones_the_factor() -> None:
    for family in ("mask", "scale"):
        clip, copies = case(3)
        video = clip.video.clone().requires_grad_()
        changed = InputTransform((family,), 0.3)(Clip(video, clip.audio, 8000, clip.ids), copies)
        (gradient,) = torch.autograd.grad(changed.video.sum(), video)
        ratio = (changed.video / clip.video).detach()
        torch.testing.assert_close(gradient, ratio)
        if family == "scale":
            assert (ratio[1] - ratio[1].mean()).abs().max() < 1e-12
            assert 0.5 <= ratio[1].mean() < 1
            heard = sounding(changed) / sounding(clip)  # in step: the same factor
            torch.testing.assert_close(heard[1].nanmean(), ratio[1].mean())


def test_rolling_moves_whole_steps() -> None:
    clip, _ = case(1)
    sound = sounding(clip)
    offset = torch.tensor([3, 5])
    video = rolled(clip.video, offset, FRAMES)
    assert torch.equal(video[0], clip.video[0].roll(3, 1))
    assert torch.equal(video[1], clip.video[1].roll(5, 1))
    heard = rolled(sound, offset, FRAMES)
    assert torch.equal(heard[1], sound[1].roll(5 * WINDOW, 1))


def test_mix_up_adds_the_clip_itself_rolled_alike() -> None:
    clip, copies = case(3)
    changed = InputTransform(("mix",))(clip, copies)
    added = (changed.video - clip.video)[1] / MIX
    offsets = [k for k in range(1, FRAMES) if torch.allclose(added, clip.video[1].roll(k, 1))]
    assert len(offsets) == 1
    heard = (sounding(changed) - sounding(clip))[1] / MIX
    assert torch.allclose(heard, sounding(clip)[1].roll(offsets[0] * WINDOW, 1))


def test_blurring_keeps_the_mean_of_even_pictures_and_takes_out_detail() -> None:
    draws = Draws.of(case(2)[1].random("draws"), 4, FRAMES, torch.zeros(1, dtype=torch.float64))
    even = torch.full((4, 3, FRAMES, 9, 7), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blur_frames(even, draws), even)
    noise = torch.rand(4, 3, FRAMES, 9, 7, dtype=torch.float64)
    assert (blur_frames(noise, draws).var((1, 2, 3, 4)) < noise.var((1, 2, 3, 4))).all()
    point = torch.zeros(4, 1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    spot = blur_frames(point, draws)[:, 0, 0]
    torch.testing.assert_close(spot, spot.transpose(1, 2))
    torch.testing.assert_close(spot.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    assert (spot[:, 4, 7:] == 0).all()
    sound = torch.randn(4, 2, 200, dtype=torch.float64)
    smooth = blur_sound(sound, draws)
    assert (smooth.diff(dim=2).abs().mean((1, 2)) < sound.diff(dim=2).abs().mean((1, 2))).all()
    torch.testing.assert_close(smooth[:, 0], blur_sound(sound[:, :1], draws)[:, 0])


def test_masking_comes_last_in_a_composition() -> None:
    clip, copies = case(4)
    frames, windows = silent_steps(InputTransform(("mask", "mix", "blur", "scale"), 0.4, compose=True)(clip, copies))
    assert frames.sum(1).tolist() == [0, 3, 3, 3] * 2
    assert torch.equal(frames, windows)
