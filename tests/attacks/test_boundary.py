"""HopSkipJump: the distance it finds to a known boundary, what it asks, and when it stops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Linear, Stairs, TwoClass, Watched, clips, weights

from robustvideo.attacks import IFGSM
from robustvideo.attacks.boundary import Boundary, noise, probes
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.support import Frames
from robustvideo.threat import L2, L21, Joint, Linf

SMALL = (2, 5, 1, 5)


def standing(model: Linear, clip: Clip, by: float) -> Tensor:
    """Put every clip on the right side of the boundary, the nearest ``by`` away in value; the distances in value."""
    model.bias.data = model.bias.data - model.value(clip).detach().max() - by
    return -model.value(clip).detach()


@pytest.mark.parametrize(("norm", "tolerance", "queries"), [("l2", 1.05, 3000), ("linf", 1.10, 4000)])
def test_distance_to_a_linear_boundary_in_fifty_dimensions(norm: str, tolerance: float, queries: int) -> None:
    clip, labels = clips(3, shape=SMALL), torch.zeros(3, dtype=torch.long)
    weight = weights(SMALL)
    model = Linear(weight)
    missing = standing(model, clip, 1.0)
    threat = L2(5.0, stored=False) if norm == "l2" else Linf(0.6, stored=False)
    result = Boundary(threat, queries=queries, space="pixel", early_stop=False)(model, clip, labels)
    change = (result.clip.video - clip.video).flatten(1)
    reached = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    nearest = missing / (weight.norm() if norm == "l2" else weight.abs().sum())
    assert result.success.all()
    assert ((reached / nearest >= 1) & (reached / nearest <= tolerance)).all(), (reached / nearest).tolist()
    for trace in result.loss_trace:
        seen = trace[~trace.isnan()]
        assert len(seen) > 5
        assert (seen[1:] >= seen[:-1]).all()


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_success_exactly_where_the_budget_reaches(norm: str, stored: bool) -> None:
    clip, labels = clips(2, shape=SMALL), torch.zeros(2, dtype=torch.long)
    weight = weights(SMALL)
    model = Linear(weight)
    standing(model, clip, 2.0)
    nearest = -model.value(clip).detach() / (weight.norm() if norm == "l2" else weight.abs().sum())
    for share, expected in ((1.4, True), (0.9, False)):
        eps = float(nearest.max() if expected else nearest.min()) * share
        threat = L2(eps, stored=stored) if norm == "l2" else Linf(eps, stored=stored)
        result = Boundary(threat, queries=1500, space="pixel")(model, clip, labels)
        assert result.success.tolist() == [expected] * 2
        assert torch.equal(model(result.clip).argmax(1) != labels, result.success)
        assert ((result.first_success_step >= 0) == result.success).all()
        if not expected:
            assert (result.forward_passes >= 1499 - 1).all()
        else:
            assert (result.forward_passes < 1500).all()


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("query_grid", [True, False])
@pytest.mark.parametrize("queries", [2, 3, 4, 20, 150])
def test_queries_are_counted_and_limited(queries: int, query_grid: bool, early_stop: bool) -> None:
    clip = clips(4)
    inner = ConvNet(seed=1).double().eval()
    labels = inner(clip).argmax(1)
    labels[3] = (labels[3] + 1) % 3  # already wrong
    for threat in (Linf(32 / 255), L2(2.0)):
        model = Watched(inner)
        result = Boundary(threat, queries=queries, query_grid=query_grid, early_stop=early_stop)(model, clip, labels)
        assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]
        assert result.forward_passes.max() <= queries
        assert result.backward_passes.tolist() == [0] * 4
        assert result.success[3]
        assert torch.equal(result.clip.video[3], clip.video[3])
        assert result.forward_passes[3] == 2


def test_a_bisection_ends_in_many_dimensions() -> None:
    """At 6 x 10^5 values the published tolerance is 2e-9, below what float32 tells apart."""

    class Mean(TwoClass):
        def value(self, clip: Clip) -> Tensor:
            return 100 * (clip.video.mean((1, 2, 3, 4)) - 0.47)

    clip = Clip(torch.full((1, 3, 16, 112, 112), 115 / 255))
    result = Boundary(L2(1.0), queries=45)(Mean(), clip, torch.zeros(1, dtype=torch.long))
    assert result.forward_passes.tolist() == [45]
    first = -float(result.loss_trace[0, 0])
    root = (3 * 16 * 112 * 112) ** 0.5
    needed = (0.47 - 115 / 255) * root  # the mean moves by this much; noise moves it at some loss
    assert needed < first < 30 * needed


def test_masked_gradients_do_not_stop_it() -> None:
    clip, labels = clips(2, shape=SMALL), torch.zeros(2, dtype=torch.long)
    model = Stairs(weights(SMALL))
    model.linear.bias.data = -model.linear.value(clip).detach().max() - 0.6
    assert not IFGSM(eps=16 / 255)(model, clip, labels).success.any()
    assert Boundary(eps=16 / 255, queries=800, space="pixel")(model, clip, labels).success.all()


def test_frames_off_the_support_are_left_alone() -> None:
    clip, labels = Clip(clips(2).video + 0.3 / 255), torch.zeros(2, dtype=torch.long)
    weight = weights()
    weight[:, 1] *= 20
    model = Linear(weight)
    standing(model, clip, 2.0)
    result = Boundary(Linf(32 / 255, support=Frames((1,))), queries=400)(model, clip, labels)
    assert result.success.all()
    changed = (result.clip.video != clip.video).flatten(3).any(3).any(1)
    assert changed.tolist() == [[False, True, False, False]] * 2


def test_a_clip_that_no_noise_fools_is_left_as_it_is() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Linear(torch.zeros((3, 4, 6, 8), dtype=torch.float64), bias=-1.0)
    result = Boundary(eps=8 / 255, queries=500)(model, clip, labels)
    assert not result.success.any()
    assert torch.equal(result.clip.video, clip.video)
    assert result.forward_passes.tolist() == [1 + 25 + 1] * 2


def test_noise_comes_in_cubes() -> None:
    like = torch.empty(2, 3, 6, 8, 10)
    coarse = noise(like, 4, ClipRandom(range(2)))
    assert (
        torch.equal(coarse[:, :, :3, :4, :5], coarse[:, :, :1, :1, :1].expand(-1, -1, 3, 4, 5))
        or coarse.unique().numel()
    )
    assert coarse.unique().numel() == 2 * 3 * 2 * 2 * 3
    assert torch.equal(coarse[:, :, :3, :4, :3], coarse[:, :, :1, :1, :1].expand(-1, -1, 3, 4, 3))
    assert noise(like, 1, ClipRandom(range(2))).unique().numel() > 2800
    assert coarse.min() >= 0
    assert coarse.max() <= 1


def test_probes_grow_with_the_square_root() -> None:
    assert [probes(t) for t in (1, 4, 9, 10_000, 20_000)] == [100, 200, 300, 10_000, 10_000]


def test_what_cannot_be_is_refused() -> None:
    for bad in (
        {"targeted": True},
        {"threat": L21(0.1)},
        {"norm": "flow", "eps": 1.0},
        {"threat": Linf(0.1, parametrisation="frame_colour")},
        {"threat": Joint((Linf(0.1), Linf(0.1, modality="audio")))},
    ):
        with pytest.raises(InputError):
            Boundary(**bad)  # type: ignore[arg-type]
