"""SimBA: its bases, the norm it spends, its queries, and the optimum that single values reach."""

from __future__ import annotations

import pytest
import torch
from toys import SHAPE, ConvNet, Linear, Smooth, Stairs, Watched, alternating, clips, signs, weights

from robustvideo.attacks import IFGSM
from robustvideo.attacks.simba import SimBA, cosines
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.support import Frames
from robustvideo.threat import L2, Joint, Linf

VALUES = 3 * 4 * 6 * 8


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_cosines_are_orthonormal(size: int) -> None:
    basis = cosines(size)
    assert torch.allclose(basis @ basis.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(basis[0], torch.full((size,), size**-0.5, dtype=torch.float64))
    changes = (basis[:, 1:].sign() != basis[:, :-1].sign()).sum(1)
    assert changes.tolist() == list(range(size))


@pytest.mark.parametrize(("basis", "shape"), [("dct", (3, 10, 17, 20)), ("pixel", (2, 2, 3, 4))])
def test_k_kept_directions_have_norm_step_root_k(basis: str, shape: tuple[int, ...]) -> None:
    clip, labels = clips(4, shape=shape), torch.zeros(4, dtype=torch.long)
    model = Linear(weights(shape))
    model.bias.data = -model.value(clip).detach().max() - 1e3
    attack = SimBA(L2(1e3, stored=False), step_size=0.01, basis=basis, queries=40, early_stop=False)  # type: ignore[arg-type]
    result = attack(model, clip, labels)
    start = -model.value(clip).detach()
    odds = torch.cat([-start[:, None].float(), result.loss_trace], dim=1)
    kept = (odds[:, 1:] > odds[:, :-1]).sum(1)
    assert (kept > 10).all()
    assert (kept < 30).all()
    norm = (result.clip.video - clip.video).flatten(1).norm(dim=1)
    assert torch.allclose(norm, 0.01 * kept.double().sqrt(), rtol=1e-6)


def test_in_the_box_the_norm_is_at_most_that() -> None:
    clip, labels = clips(3, low=250, high=256), torch.zeros(3, dtype=torch.long)
    model = Linear(weights())
    model.bias.data = -model.value(clip).detach().max() - 1e3
    result = SimBA(L2(1e3), step_size=0.5, basis="pixel", queries=101, early_stop=False)(model, clip, labels)
    norm = (result.clip.video - clip.video).flatten(1).norm(dim=1)
    assert (norm <= 0.5 * 10 + 1e-9).all()
    assert result.clip.video.max() <= 1


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("frames", [None, (1,)])
def test_single_values_reach_the_linear_optimum(frames: tuple[int, ...] | None, stored: bool) -> None:
    """Every value of the support is tried once, in both directions at most."""
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    support = {} if frames is None else {"support": Frames(frames)}
    values = VALUES if frames is None else VALUES // 4
    attack = SimBA(Linf(8 / 255, stored=stored, **support), basis="pixel", queries=2 * values + 3, early_stop=False)
    if not stored and frames is None:  # both labels succeed on the way; off the grid each success is confirmed
        model.bias.data = -model.value(clip).detach().mean()
    result = attack(model, clip, labels)
    weight = model.weight.detach() if frames is None else model.weight.detach()[:, list(frames)]
    gain = result.margin.double() - model.value(clip).detach() * signs(labels, labels)
    reached = gain / (8 / 255 * weight.abs().sum())
    assert (reached > (0.99 if stored else 0.4)).all(), reached.tolist()


def test_log_odds_never_fall_and_a_direction_costs_two_queries_at_most() -> None:
    clip = clips(4)
    model = ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    result = SimBA(L2(3.0), queries=60, basis="pixel")(model, clip, labels)
    for trace, asked in zip(result.loss_trace, result.forward_passes.tolist(), strict=True):
        seen = trace[~trace.isnan()]
        assert (seen[1:] >= seen[:-1]).all()
        assert len(seen) <= asked - 2 + 1
        assert asked - 2 <= 2 * len(seen)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("query_grid", [True, False])
@pytest.mark.parametrize("queries", [2, 3, 4, 25])
def test_queries_are_counted_and_limited(queries: int, query_grid: bool, early_stop: bool) -> None:
    clip, labels = clips(4), alternating(4)
    model = Watched(Smooth())
    attack = SimBA(eps=16 / 255, queries=queries, query_grid=query_grid, early_stop=early_stop)
    result = attack(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]
    assert result.forward_passes.max() <= queries
    assert result.backward_passes.tolist() == [0] * 4
    assert ((result.first_success_step >= 0) == result.success).all()


def test_a_clip_is_done_at_its_first_success() -> None:
    clip = clips(4)
    model = ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    labels[2] = (labels[2] + 1) % 3  # already wrong
    for options in ({}, {"query_grid": False}, {"basis": "pixel"}):
        result = SimBA(eps=0.3, queries=600, **options)(model, clip, labels)  # type: ignore[arg-type]
        assert result.success.all()
        assert (model(result.clip).argmax(1) != labels).all()
        assert result.first_success_step[2] == 0
        assert result.forward_passes[2] == 2
        assert torch.equal(result.clip.video[2], clip.video[2])


@pytest.mark.parametrize("early_stop", [True, False])
def test_towards_a_target(early_stop: bool) -> None:
    clip, labels = clips(2), alternating(2)
    model = Linear(weights())
    away = SimBA(eps=8 / 255, queries=80, early_stop=early_stop)(model, clip, labels)
    towards = SimBA(eps=8 / 255, queries=80, early_stop=early_stop, targeted=True)(model, clip, 1 - labels)
    assert torch.equal(away.clip.video, towards.clip.video)
    assert torch.equal(away.forward_passes, towards.forward_passes)


def test_saturated_probabilities_do_not_stop_it() -> None:
    """At a gap of 60 p_y is 1 in float32 and its logarithm 0: their change says nothing, the odds' does."""
    clip, labels = clips(2, dtype=torch.float32), torch.zeros(2, dtype=torch.long)
    model = Linear(weights(dtype=torch.float32), scale=50.0)
    model.bias.data -= (model.value(clip).detach().max() + 60) / 50
    result = SimBA(eps=8 / 255, basis="pixel", queries=400)(model, clip, labels)
    assert result.success.all()


def test_masked_gradients_do_not_stop_it() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Stairs(weights() * 40)
    model.linear.bias.data = -model.linear.value(clip).detach().max() - 20.2
    assert not IFGSM(eps=8 / 255)(model, clip, labels).success.any()
    assert SimBA(eps=8 / 255, basis="pixel", queries=400)(model, clip, labels).success.all()


def test_frames_off_the_support_are_left_alone() -> None:
    clip, labels = Clip(clips(2).video + 0.3 / 255), alternating(2)
    for basis in ("dct", "pixel"):
        attack = SimBA(Linf(8 / 255, support=Frames((2,))), basis=basis, queries=30, early_stop=False)  # type: ignore[arg-type]
        result = attack(Linear(weights()), clip, labels)
        changed = (result.clip.video != clip.video).flatten(3).any(3).any(1)
        assert changed.tolist() == [[False, False, True, False]] * 2
    assert result.clip.video.shape[1:] == SHAPE


def test_what_cannot_be_is_refused() -> None:
    for bad in (
        {"basis": "wavelet"},
        {"step_size": 0.0},
        {"norm": "l21", "eps": 0.1},
        {"norm": "flow", "eps": 1.0},
        {"threat": Joint((Linf(0.1), Linf(0.1, modality="audio")))},
    ):
        with pytest.raises(InputError):
            SimBA(**bad)  # type: ignore[arg-type]
