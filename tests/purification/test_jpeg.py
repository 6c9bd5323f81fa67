"""JPEG through the codec, and its differentiable version."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.colour import to_rgb, to_ycbcr
from robustvideo.errors import InputError
from robustvideo.purification import load_defense
from robustvideo.purification.jpeg import compressed


def picture(height: int = 48, width: int = 40, frames: int = 2) -> Clip:
    """Smooth colours with edges and a little texture, as photographs have them."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    channels = [0.3 + 0.4 * x, 0.5 + 0.3 * torch.sin(7 * y), 0.4 + 0.2 * torch.cos(5 * (x + y))]
    frame = torch.stack(channels) + 0.1 * (x > 0.5)
    video = torch.stack([frame, frame.roll(3, 2)], 1)[:, :frames]
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    return Clip(((video + 0.02 * noise).clamp(0, 1) * 255).round()[None] / 255)


def purified(spec: str, clip: Clip, seed: int = 0) -> Tensor:
    return load_defense(spec).purify(clip, [seed] * len(clip))[0].video


def test_the_best_quality_without_subsampling_changes_almost_nothing() -> None:
    clip = picture()
    change = (purified("jpeg(quality=100, subsampled=false)", clip) - clip.video).abs() * 255
    assert change.max() <= 4 + 1e-3, "three roundings: of colours, of coefficients, of pixels"
    assert change.mean() < 0.8


@pytest.mark.parametrize("local", ["true", "false"])
def test_the_output_is_on_the_grid_of_8_bits(local: str) -> None:
    video = purified(f"jpeg(quality=30, local={local})", picture())
    assert torch.equal(video, (video * 255).round() / 255)


@pytest.mark.parametrize("subsampled", ["true", "false"])
@pytest.mark.parametrize("quality", [90, 75, 50, 25])
def test_the_differentiable_version_is_close_to_the_codec(quality: int, subsampled: str) -> None:
    clip = picture()
    options = f"(quality={quality}, subsampled={subsampled})"
    real, smooth = (purified(name + options, clip) for name in ("jpeg", "differentiable_jpeg"))
    assert (real - smooth).abs().mean() < 2 / 255
    assert (real - smooth).abs().mean() < (real - clip.video).abs().mean(), "closer to the codec than doing nothing"


def test_worse_qualities_lose_more() -> None:
    clip = picture()
    errors = [float((purified(f"jpeg(quality={q})", clip) - clip.video).square().mean()) for q in (95, 75, 40, 10)]
    assert errors == sorted(errors)


def test_every_frame_has_its_own_quality() -> None:
    clip = picture()
    mixed = compressed(clip.video, torch.tensor([[90, 10]]))
    assert torch.equal(mixed[:, :, 0], compressed(clip.video, torch.tensor([[90, 90]]))[:, :, 0])
    assert torch.equal(mixed[:, :, 1], compressed(clip.video, torch.tensor([[10, 10]]))[:, :, 1])


def test_local_quantisation_takes_every_block_from_one_of_four_versions() -> None:
    clip = picture()
    video = purified("jpeg(local=true)", clip, seed=4)
    versions = [purified(f"jpeg(quality={q})", clip) for q in (20, 40, 60, 80)]
    used = set()
    for y in range(0, 48, 8):
        for x in range(0, 40, 8):
            block = (0, slice(None), 1, slice(y, y + 8), slice(x, x + 8))
            matches = [i for i, version in enumerate(versions) if torch.equal(video[block], version[block])]
            assert matches
            used.update(matches)
    assert used == {0, 1, 2, 3}


def test_grey_clips_are_taken_and_others_refused() -> None:
    grey = Clip(picture().video.mean(1, keepdim=True))
    for name in ("jpeg", "differentiable_jpeg"):
        assert purified(name, grey).shape == grey.video.shape
        with pytest.raises(InputError, match="1 or 3 channels"):
            purified(name, Clip(torch.rand(1, 2, 2, 8, 8)))
        with pytest.raises(InputError, match="from 1"):
            load_defense(f"{name}(quality=0)")


def test_colours_come_back() -> None:
    video = torch.rand(2, 3, 2, 4, 4, dtype=torch.float64)
    assert torch.allclose(to_rgb(to_ycbcr(video)), video, atol=1e-12)
    grey = torch.full((1, 3, 1, 1, 1), 0.7, dtype=torch.float64)
    assert torch.allclose(to_ycbcr(grey).flatten(), torch.tensor([0.7, 0, 0], dtype=torch.float64))
    red = torch.tensor([1.0, 0, 0], dtype=torch.float64).view(1, 3, 1, 1, 1)
    assert torch.allclose(to_ycbcr(red).flatten()[[0, 2]], torch.tensor([0.299, 0.5], dtype=torch.float64))


def test_autocast_does_not_coarsen_the_transform() -> None:
    clip = picture()
    expected = purified("differentiable_jpeg", clip)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(purified("differentiable_jpeg", clip), expected)


def test_an_attack_that_knows_the_rounding_moves_the_compressed_clip_further() -> None:
    """Why the stand-in matters: the codec's answer moves by more than the budget, and by more than noise moves it."""
    clip = picture()
    purifier = load_defense("jpeg(quality=40)")
    stand_in = purifier.stand_in()
    assert stand_in == load_defense("differentiable_jpeg(quality=40)")
    assert load_defense("jpeg(local=true)").stand_in() is None
    (before,) = purifier.purify(clip, [0])
    direction = torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(1)).sign()
    video = clip.video.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((stand_in.purify(Clip(video), [0])[0].video * direction).sum(), video)
    moved = []
    for step in (gradient.sign(), direction):
        (after,) = purifier.purify(clip.with_signal("video", (clip.video + 2 / 255 * step).clamp(0, 1)), [0])
        moved.append(float(((after.video - before.video) * direction).mean()))
    assert moved[0] > 2 * moved[1] > 0
