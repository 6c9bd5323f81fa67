"""What every registered purifier must keep to. A new purifier is tested here because it exists."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from purifiers import denoiser_file, generator_file
from toys import clips

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification import Purifier, answering, defenses, load_defense
from robustvideo.purification.diffusion_purifier import DiffusionPurifier
from robustvideo.registry import parameters

NAMES = list(defenses.entries())


@pytest.fixture(scope="session", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generator")


@pytest.fixture
def purifier(request: pytest.FixtureRequest, folder: Path) -> Purifier:
    return build(request.param, folder)


def build(name: str, folder: Path, **options: Any) -> Purifier:
    """Each at its defaults; one that needs a file gets one."""
    if name == "ape_gan":
        options["file"] = generator_file(folder)
    if issubclass(defenses.get(name), DiffusionPurifier):
        options["model"] = denoiser_file(folder)
        options["steps"] = 3
    return defenses.get(name)(**options)


everyone = pytest.mark.parametrize("purifier", NAMES, indirect=True)


def pictures(batch: int = 3, height: int = 18, width: int = 21, dtype: torch.dtype = torch.float32) -> Clip:
    return clips(batch, shape=(3, 5, height, width), low=0, high=256, dtype=dtype, samples=40)


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(18, 21), (16, 16), (7, 9)])
def test_what_comes_out_is_a_clip_like_the_one_that_went_in(
    purifier: Purifier, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    clip = pictures(2, *size, dtype=dtype)
    before = clip.video.clone()
    votes = purifier.purify(clip, [1, 2])
    assert votes
    for vote in votes:
        assert vote.video.shape == clip.video.shape
        assert vote.video.dtype == dtype
        assert vote.ids == clip.ids
        vote.check_range()
        assert vote.audio is not None
        assert clip.audio is not None
        assert torch.equal(vote.audio, clip.audio)
        assert vote.sample_rate == clip.sample_rate
    assert torch.equal(clip.video, before)


@everyone
def test_a_clip_of_one_frame_and_a_long_one_are_taken(purifier: Purifier) -> None:
    for frames in (1, 2, 17):
        clip = clips(1, shape=(3, frames, 16, 16), dtype=torch.float32)
        assert purifier.purify(clip, [0])[0].frames == frames


@everyone
def test_a_clip_does_not_depend_on_its_batch(purifier: Purifier) -> None:
    clip = pictures(dtype=torch.float64)
    seeds = [5, 6, 7]
    together = purifier.purify(clip, seeds)
    order = [2, 0, 1]
    permuted = purifier.purify(clip.select(order), [seeds[i] for i in order])
    for vote, other in zip(together, permuted, strict=True):
        assert torch.allclose(vote.video[order], other.video, rtol=0, atol=1e-6)
    for i in range(3):
        alone = purifier.purify(clip.select([i]), [seeds[i]])
        for vote, other in zip(together, alone, strict=True):
            assert torch.allclose(vote.video[i : i + 1], other.video, rtol=0, atol=1e-6)


@everyone
def test_draws_are_the_seed_s(purifier: Purifier) -> None:
    clip = pictures(2)
    first = purifier.purify(clip, [3, 4])
    torch.manual_seed(99)
    again = purifier.purify(clip, [3, 4])
    assert all(torch.equal(a.video, b.video) for a, b in zip(first, again, strict=True))
    other = purifier.purify(clip, [11, 12])
    same = all(torch.equal(a.video, b.video) for a, b in zip(first, other, strict=True))
    assert same != purifier.random


@everyone
def test_no_global_random_state_is_touched(purifier: Purifier) -> None:
    clip = pictures(1)
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    purifier.purify(clip, [0])
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]


@everyone
def test_points_outside_the_box_are_clamped(purifier: Purifier) -> None:
    clip = pictures(1, dtype=torch.float64)
    outside = clip.with_signal("video", clip.video * 1.5 - 0.2)
    inside = clip.with_signal("video", outside.video.clamp(0, 1))
    for a, b in zip(purifier.purify(outside, [0]), purifier.purify(inside, [0]), strict=True):
        assert torch.equal(a.video, b.video)


@everyone
def test_the_exact_gradient_is_that_of_finite_differences(purifier: Purifier, folder: Path) -> None:
    """Along random directions, in float64, from a point that is no boundary of the purifier's pieces."""
    if not purifier.differentiable:
        with pytest.raises(InputError, match="cannot be differentiated"):
            build(purifier.registered_name, folder, gradient="exact")
        return
    random = torch.Generator().manual_seed(3)
    network = purifier.network()
    network = None if network is None else network.double()
    video = 0.2 + 0.6 * torch.rand(2, 3, 4, 9, 10, generator=random, dtype=torch.float64)
    weight = torch.randn(video.shape, generator=random, dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return sum((vote.video * weight).sum() for vote in purifier.purify(Clip(x), [1, 2], network))  # type: ignore[return-value]

    (gradient,) = torch.autograd.grad(value(video.requires_grad_()), video)
    assert gradient.abs().max() > 0
    step = 1e-6
    for _ in range(3):
        direction = torch.randn(video.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            slope = (value(video + step * direction) - value(video - step * direction)) / (2 * step)
        assert torch.allclose((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-5)


@everyone
def test_black_and_white_pixels_keep_their_gradient(purifier: Purifier) -> None:
    """Much of a video is exactly black; an attack may move it inwards."""
    if not purifier.differentiable or purifier.network() is not None:
        return
    random = torch.Generator().manual_seed(0)
    video = torch.randint(0, 2, (1, 3, 2, 8, 8), generator=random).double().requires_grad_()
    (gradient,) = torch.autograd.grad(purifier.purify(Clip(video), [0])[0].video.sum(), video)
    assert (gradient[video == 0].abs().sum() > 1) & (gradient[video == 1].abs().sum() > 1)


@everyone
def test_a_spec_builds_an_equal_purifier(purifier: Purifier, folder: Path) -> None:
    assert load_defense(purifier.spec) == purifier
    blind = build(purifier.registered_name, folder, gradient=None, seed=4)
    assert load_defense(blind.spec) == blind
    assert "gradient=none" in blind.spec
    stand_in = build(purifier.registered_name, folder, gradient="bpda", surrogate=defenses.get("wavelet")(sigma=0.02))
    assert load_defense(stand_in.spec) == stand_in
    assert hash(load_defense(stand_in.spec)) == hash(stand_in)
    assert copy.deepcopy(stand_in) == stand_in


@everyone
def test_several_votes_are_fresh_draws(purifier: Purifier, folder: Path) -> None:
    if not purifier.random:
        with pytest.raises(InputError, match="answers the same every time"):
            build(purifier.registered_name, folder, votes=2)
        return
    three = build(purifier.registered_name, folder, votes=3).purify(pictures(2), [1, 2])
    assert len(three) == 3
    assert torch.equal(three[0].video, purifier.purify(pictures(2), [1, 2])[0].video)
    assert not torch.equal(three[0].video, three[1].video)
    assert not torch.equal(three[1].video, three[2].video)


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_is_a_sentence(name: str) -> None:
    assert defenses.entries()[name].summary.endswith(".")
    assert defenses.get(name).registered_name == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "bdpa"}, "did you mean 'bpda'"),
        ({"gradient": "surrogate"}, "needs surrogate="),
        ({"gradient": "exact", "surrogate": "bit_depth"}, "goes with gradient=bpda"),
        ({"votes": 0}, "at least one vote"),
        ({"aggregate": "median"}, "Unknown aggregate"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    if isinstance(options.get("surrogate"), str):
        options = {**options, "surrogate": load_defense(options["surrogate"])}
    with pytest.raises(InputError, match=message):
        defenses.get("wavelet")(**options)


def test_seeds_are_one_per_clip() -> None:
    with pytest.raises(InputError, match="as many seeds"):
        load_defense("bit_depth").purify(pictures(2), [1])


@pytest.mark.parametrize("name", NAMES)
def test_what_shapes_a_gradient_alone_is_a_parameter(name: str) -> None:
    kind = defenses.get(name)
    assert {"gradient", "surrogate"} <= set(kind.gradient_only) <= set(parameters(kind))


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ("wavelet", "wavelet"),
        ("wavelet(gradient=bpda, surrogate=bit_depth(gradient=exact), level=2)", "wavelet(level=2)"),
        ("videopure(softness=0.01, strength=6)", "videopure(strength=6)"),
        ("somebody_s(softness=0.01, gradient=exact)", "somebody_s(softness=0.01)"),
    ],
)
def test_purifiers_that_answer_alike_are_known_by_one_spec(spec: str, left: str) -> None:
    assert answering(spec) == left
