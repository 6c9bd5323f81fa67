"""Attacks in a region reach the region's optimum and leave everything else bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from toys import SHAPE, Linear, Smooth, Stairs, alternating, clips, signs, weights

from robustvideo.attacks import load_attack
from robustvideo.attacks.masked import FrameBorder, MaskedPGD
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.support import Frames, Patch
from robustvideo.threat import Joint, Linf

PATCH_VALUES = 4 * 3 * 4  # frames x int(6 sqrt(0.3)) x int(8 sqrt(0.3))


def touched(clean: Clip, changed: Clip) -> Tensor:
    """(B, T, H, W) where any channel differs."""
    return (clean.video != changed.video).any(1)


@pytest.mark.parametrize("on_grid", [True, False], ids=["on_grid", "off_grid"])
@pytest.mark.parametrize("start", ["clean", "random"])
def test_optimum_in_the_region_and_nothing_outside(start: str, on_grid: bool) -> None:
    clip, labels = clips(3), alternating(3)
    if not on_grid:
        clip = Clip(clip.video + 0.3 / 255)
    model = Linear(weights())
    for attack, area in (
        (MaskedPGD(ratio=0.3, start=start, early_stop=False), PATCH_VALUES),
        (FrameBorder(ratio=0.5, start=start, early_stop=False), 4 * (6 * 8 - 4 * 6)),
    ):
        result = attack(model, clip, labels)
        where = touched(clip, result.clip)
        assert where.flatten(1).sum(1).tolist() == [area] * 3
        best = ((model.weight.detach() * signs(labels, clip.video)) > 0).to(clip.video)
        inside = where[:, None].expand_as(best)
        assert torch.equal(result.clip.video[inside], best[inside])
        assert torch.equal(result.clip.video[~inside], clip.video[~inside])


def test_every_clip_draws_its_own_corner_whatever_its_batch() -> None:
    clip, labels = clips(12), alternating(12)
    attack = MaskedPGD(ratio=0.3, early_stop=False)
    together = touched(clip, attack(Linear(weights()), clip, labels).clip)
    corners = {tuple(where.nonzero()[0].tolist()) for where in together}
    assert len(corners) > 4
    alone = clip.select([7])
    assert torch.equal(touched(alone, attack(Linear(weights()), alone, labels[7:8]).clip)[0], together[7])
    moved = touched(clip, attack.with_seed(1)(Linear(weights()), clip, labels).clip)
    assert not torch.equal(moved, together)


def test_corner_budget_and_the_threat_model_s_own_support() -> None:
    clip, labels = clips(2), alternating(2)
    threat = Linf(8 / 255, support=Frames((1,)))
    result = MaskedPGD(threat, ratio=0.3, corner=(2, 3), early_stop=False)(Linear(weights()), clip, labels)
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[1, 2:5, 3:7] = True
    assert torch.equal(touched(clip, result.clip), expected.expand(2, -1, -1, -1))
    levels = ((result.clip.video - clip.video).abs() * 255).round()
    assert set(levels.unique().tolist()) == {0.0, 8.0}


def test_steps_are_absolute() -> None:
    clip, labels = clips(2), alternating(2)
    for eps in (1.0, 0.5):
        result = MaskedPGD(eps=eps, steps=3, corner=(0, 0), early_stop=False)(Linear(weights()), clip, labels)
        assert ((result.clip.video - clip.video).abs() * 255).max().round() == round(3 * 0.02 * 255)


def test_spec_says_the_region_once() -> None:
    assert MaskedPGD(ratio=0.15, corner=(0, 0)).spec == "masked_pgd(eps=1, ratio=0.15, corner=[0, 0])"
    assert load_attack("frame_border(ratio=0.2, eps=0.5)") == FrameBorder(eps=0.5, ratio=0.2)


def test_a_model_that_never_sees_the_border_is_reported() -> None:
    weight = weights()
    inner = weight.clone()
    inner[:, :, :1], inner[:, :, -1:], inner[..., :1], inner[..., -1:] = 0, 0, 0, 0
    clip, labels = clips(2), alternating(2)
    with pytest.warns(UserWarning, match="never sees"):
        FrameBorder(ratio=0.5)(Linear(inner), clip, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FrameBorder(ratio=0.5, early_stop=False)(Linear(weight), clip, labels)
        MaskedPGD(ratio=0.3)(Smooth(), clip, labels)
    with pytest.warns(UserWarning, match="gradient is zero"):
        MaskedPGD(ratio=0.3)(Stairs(weight), clip, labels)


def test_restarts_help_and_need_a_random_start() -> None:
    clip, labels = clips(4), alternating(4)
    one, many = (
        MaskedPGD(ratio=0.3, start="random", steps=2, restarts=n, early_stop=False)(Smooth(), clip, labels).margin
        for n in (1, 4)
    )
    assert (many >= one).all()
    with pytest.raises(InputError, match="start=random"):
        MaskedPGD(restarts=2)


def test_what_cannot_be_is_refused() -> None:
    for bad in ({"ratio": 0.0}, {"ratio": 1.5}, {"start": "anywhere"}, {"norm": "flow", "steps": 0}):
        with pytest.raises(InputError):
            MaskedPGD(**bad)
    with pytest.raises(InputError, match="one part"):
        MaskedPGD(Joint((Linf(0.1), Linf(0.1, modality="audio"))))
    with pytest.raises(InputError, match="thinner than a pixel"):
        FrameBorder(ratio=0.05)(Linear(weights()), clips(1), alternating(1))


def test_the_whole_picture_is_a_region_too() -> None:
    """At r = 1 the patch is the frame (the public code raises there)."""
    clip, labels = clips(2), alternating(2)
    result = MaskedPGD(Linf(8 / 255, support=Patch(1.0)), ratio=1.0, early_stop=False)(Linear(weights()), clip, labels)
    assert touched(clip, result.clip).all()
    assert result.clip.video.shape[1:] == SHAPE
