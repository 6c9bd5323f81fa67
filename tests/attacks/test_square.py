"""Square: the volume rule, where its boxes fall, what each query changes, and that no gradient is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SHAPE, ConvNet, Linear, Stairs, Tally, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks import PGD, load_attack
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.square import (
    BoxSize,
    Extent,
    Square,
    _bumps,
    _Hunt,
    box_extent,
    bump,
    changed_share,
    inside,
    move_mass,
    odd_side,
)
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.support import Everywhere, Frames, Patch
from robustvideo.threat import L2, L21, Joint, Linf, NormBall

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
EPS = 8 / 255


def original_schedule(iteration: int, queries: int, rescale: bool, p_init: float = 0.8) -> float:
    """The published 2-D schedule, case by case (max-andr/square-attack)."""
    if rescale:
        iteration = int(iteration / queries * 10000)
    for bound, halvings in zip((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), range(9), strict=True):
        if iteration <= bound:
            return p_init / 2**halvings
    return p_init / 2**9


def hunt_on(problem: Problem, seed: int = 0) -> _Hunt:
    return _Hunt(replace(problem, seed=seed), 10)


class Recorder(Model):
    """Writes down every clip it is shown."""

    def __init__(self, inner: Model):
        super().__init__()
        self.inner = inner
        self.tally = Tally()

    def forward(self, clip: Clip) -> Tensor:
        logits = self.inner(clip)
        self.tally.notes.append((clip.ids, clip.video.clone(), logits.clone()))
        return logits


def never_broken(batch: int = 3, shape: tuple[int, ...] = SHAPE) -> tuple[Recorder, Clip, Tensor]:
    """Clips far from the boundary, so that every query is spent."""
    clip, labels = clips(batch, shape=shape), torch.zeros(batch, dtype=torch.long)
    model = Linear(weights(shape))
    model.bias.data = -model.value(clip).detach().max() - 1e4
    return Recorder(model), clip, labels


# --- sizes and schedule ---


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("queries", [5000, 10000])
def test_the_schedule_is_the_published_one(queries: int, rescale: bool) -> None:
    horizon = queries if rescale else 10_000
    for query in range(queries):
        assert changed_share(query, 0.8, horizon) == original_schedule(query, queries, rescale)
    last = changed_share(queries - 1, 0.8, horizon)
    assert last == 0.8 / (512 if rescale or queries == 10000 else 128)


def test_a_longer_run_stays_at_the_smallest_boxes() -> None:
    assert changed_share(50_000, 0.8, 10_000) == 0.8 / 512


@pytest.mark.parametrize("extent", ["cube", "tube", "frame"])
@pytest.mark.parametrize("size", [(112, 112), (32, 32), (9, 14)])
def test_for_one_frame_the_volume_rule_is_the_2d_rule(extent: Extent, size: tuple[int, int]) -> None:
    for halvings in range(10):
        share = 0.8 / 2**halvings
        frames, side = box_extent(share, (1, *size), extent)
        assert frames == 1
        assert round(side) == round((share * size[0] * size[1]) ** 0.5)


@pytest.mark.parametrize(("share", "size"), [(0.8, (15, 103)), (0.1, (7, 54)), (0.0125, (4, 25))])
def test_cubes_of_a_real_clip(share: float, size: tuple[int, int]) -> None:
    frames, side = box_extent(share, (16, 112, 112), "cube")
    assert (frames, round(side)) == size


@pytest.mark.parametrize("extent", ["cube", "tube", "frame"])
def test_boxes_hold_the_share_that_was_asked_for(extent: Extent) -> None:
    for halvings in range(8):
        share = 0.8 / 2**halvings
        frames, side = box_extent(share, (16, 112, 112), extent)
        assert frames * side**2 == pytest.approx(share * 16 * 112 * 112)
        assert frames == {"tube": 16, "frame": 1}.get(extent, frames)


def test_l2_sides_are_odd_and_fit() -> None:
    assert [odd_side(s, 112) for s in (0.3, 2.9, 3.4, 4.0, 5.6, 103.4)] == [3, 3, 3, 5, 7, 103]
    assert [odd_side(50.0, most) for most in (50, 49, 4, 3, 2, 1)] == [49, 49, 3, 3, 1, 1]


def test_a_box_is_where_its_corner_says() -> None:
    box = inside(torch.tensor([[1, 2, 3], [0, 0, 0]]), (2, 3, 4), (4, 6, 8))
    assert box.shape == (2, 1, 4, 6, 8)
    assert box.flatten(1).sum(1).tolist() == [24, 24]
    assert box[0, 0, 1:3, 2:5, 3:7].all()
    assert box[1, 0, :2, :3, :4].all()


# --- places ---


@pytest.mark.parametrize("threat", [Linf(EPS), L2(1.0)], ids=str)
def test_every_value_is_reached_the_last_ones_too(threat: NormBall) -> None:
    shape = (2, 3, 5, 5)
    problem = problem_for(Linear(weights(shape)), clips(200, shape=shape), torch.zeros(200, dtype=torch.long), threat)
    hunt = hunt_on(problem)
    size: BoxSize = (2, 3, 3)
    counts = torch.zeros(3, 5, 5)
    for _ in range(5):
        corners = hunt.corners(size)
        assert (corners >= 0).all()
        assert (corners <= torch.tensor([1, 2, 2])).all()
        counts += inside(corners, size, (3, 5, 5)).sum((0, 1))
    assert (counts > 0).all()
    for corner in (counts[0, 0, 0], counts[-1, -1, -1], counts[0, -1, 0]):  # one place in 18 covers a corner
        assert float(corner) == pytest.approx(1000 / 18, rel=0.5)


def test_boxes_fall_on_the_support() -> None:
    clip = clips(50)
    threat = Linf(EPS, support=Patch(0.05, (0, 0)))
    problem = problem_for(Linear(weights()), clip, torch.zeros(50, dtype=torch.long), threat)
    problem = replace(problem, masks=(threat.support.mask(clip.video, None),))  # type: ignore[arg-type]
    corners = hunt_on(problem).corners((1, 1, 1))
    hits = ((corners[:, 1] == 0) & (corners[:, 2] == 0)).double().mean()  # one pixel of 48
    assert float(hits) > 0.1, "without redrawing one in 48 would hit"
    corners = hunt_on(problem).corners((2, 3, 4))
    assert ((corners[:, 1] == 0) & (corners[:, 2] == 0)).double().mean() > 0.35


# --- the L2 move ---


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 21])
def test_bumps_have_norm_one_and_two_halves_of_opposite_sign(side: int) -> None:
    pattern = bump(side)
    assert pattern.shape == (side, side)
    assert float(pattern.norm()) == pytest.approx(1)
    assert (pattern[: side // 2] >= 0).all()
    assert (pattern[side // 2 :] <= 0).all()
    if side >= 3:
        assert (pattern > 0).any()
        upper, lower = pattern[: side // 2].norm(), pattern[side // 2 :].norm()
        assert float(upper) == pytest.approx(float(lower)), "both halves have norm 1 before they are joined"


def test_a_pyramid_is_the_sum_of_its_rings() -> None:
    """Side 5, lower half (3 rows): rings 1, 1 + 1/4 and 1 + 1/4 + 1/9 around (1, 2)."""
    lower = -bump(5)[2:]
    rings = torch.tensor(
        [
            [1 / 9, 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9],
            [1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9],
            [1 / 9, 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9],
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(lower / lower[1, 2], rings / rings[1, 2])


def moved(seed: int, norm: float = 0.7, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Any, Any, BoxSize]:
    random = torch.Generator().manual_seed(seed)
    delta = torch.randn(3, *SHAPE, generator=random, dtype=torch.float64)
    delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1) * norm
    size = (2, 3, 3)
    first = torch.tensor([[0, 0, 0], [1, 2, 4], [2, 3, 5]])
    second = torch.tensor([[0, 3, 5], [1, 1, 3], [2, 3, 5]])  # apart, overlapping, the same
    sign = torch.randint(0, 2, (3, 3, 2, 1, 1), generator=random) * 2 - 1
    eps = torch.ones(3, 1, 1, 1, 1, dtype=torch.float64)
    after = move_mass(delta, first, second, size, bump(3) * sign, eps, mask)
    return delta, after, first, second, size


@pytest.mark.parametrize("seed", range(3))
def test_mass_moves_slice_by_slice_and_fills_the_budget(seed: int) -> None:
    before, after, first, second, size = moved(seed)
    spare = (1 - 0.7**2) / (3 * 2)
    one, two = inside(first, size, SHAPE[1:]), inside(second, size, SHAPE[1:])
    union = one | two
    assert torch.equal(after[(~union).expand_as(after)], before[(~union).expand_as(after)])
    assert (after[(two & ~one).expand_as(after)] == 0).all()
    for row in range(3):
        start = int(first[row, 0])
        for frame in range(start, start + 2):
            for channel in range(3):
                old = (before[row, channel, frame] * union[row, 0, frame]).square().sum()
                new = (after[row, channel, frame] * one[row, 0, frame]).square().sum()
                assert float(new) == pytest.approx(float(old) + spare, rel=1e-9)
    assert torch.allclose(after.flatten(1).norm(dim=1), torch.ones(3).double(), rtol=1e-9)


def test_new_content_is_the_pattern_plus_the_old_direction() -> None:
    before, after, first, _, _ = moved(1)
    row, column = int(first[0, 1]), int(first[0, 2])
    old = before[0, 1, 0, row : row + 3, column : column + 3]
    new = after[0, 1, 0, row : row + 3, column : column + 3]
    candidates = [sign * bump(3) + old / old.norm() for sign in (1, -1)]
    cosines = [float((new * c).sum() / new.norm() / c.norm()) for c in candidates]
    assert max(cosines) == pytest.approx(1, abs=1e-9)


def test_a_move_from_nothing_is_finite() -> None:
    _, after, *_ = moved(0, norm=0.0)
    assert after.isfinite().all()
    assert torch.allclose(after.flatten(1).norm(dim=1), torch.ones(3).double(), rtol=1e-9)


# --- queries ---


@pytest.mark.parametrize("init", ["stripes", "stripes_per_frame"])
def test_the_first_query_is_vertical_stripes(init: Any) -> None:
    model, clip, labels = never_broken()
    Square(Linf(EPS), queries=2, init=init)(model, clip, labels)
    _, video, _ = model.tally.notes[0]
    delta = (video - clip.video) * 255
    assert torch.allclose(delta.abs(), torch.full_like(delta, 8.0))
    assert (delta == delta[:, :, :, :1]).all() or torch.allclose(delta, delta[:, :, :, :1].expand_as(delta))
    constant = torch.allclose(delta, delta[:, :, :1].expand_as(delta))
    assert constant == (init == "stripes")
    columns = delta[:, :, :, 0].sign()
    assert columns.min() == -1
    assert columns.max() == 1
    assert not torch.equal(delta[0].sign(), delta[1].sign())


@pytest.mark.parametrize("extent", ["cube", "tube", "frame"])
def test_a_query_changes_one_box_of_the_right_size(extent: Extent) -> None:
    shape = (3, 4, 8, 8)
    model, clip, labels = never_broken(4, shape)
    Square(Linf(EPS), queries=60, extent=extent)(model, clip, labels)
    best = dict.fromkeys(clip.ids, (torch.empty(0), -torch.inf))
    changed_something = 0
    for query, (ids, video, logits) in enumerate(model.tally.notes[:-1]):
        share = original_schedule(query, 5000, False)
        frames, side = box_extent(share, shape[1:], extent)  # type: ignore[arg-type]
        side = min(max(round(side), 1), 8)
        for row, name in enumerate(ids):
            known, margin = best[name]
            if query:
                touched = (video[row] - known).abs().amax(0) > 1e-9
                spread = [touched.any(2).any(1), touched.any(2).any(0), touched.any(1).any(0)]
                lengths = [int(s.nonzero().max() - s.nonzero().min()) + 1 for s in spread if s.any()]
                assert lengths
                changed_something += 1
                assert all(n <= most for n, most in zip(lengths, (frames, side, side), strict=True))
                inner = video[row] - clip.video[int(name)]
                t, r, c = (int(s.nonzero().min()) for s in spread)
                corner = inner[:, t, r, c]
                box = inner[:, touched]
                per_channel = (video[row] - known)[:, touched].abs() > 1e-9
                for channel in range(3):  # where a channel changed, it changed to one sign
                    values = box[channel][per_channel[channel]]
                    assert len(values) == 0 or torch.allclose(values, values[:1].expand_as(values))
                assert corner.abs().max() <= EPS + 1e-9
            now = float(logits[row, 1] - logits[row, 0])
            if now > margin:
                best[name] = (video[row].clone(), now)
    assert changed_something == 4 * 58


@pytest.mark.parametrize(
    "threat",
    [Linf(EPS), Linf(7.6 / 255), L2(1.5), Linf(EPS, support=Frames((0, 2))), L2(1.5, support=Patch(0.4, (1, 1)))],
    ids=str,
)
def test_every_query_is_lawful_and_the_margin_never_falls(threat: NormBall) -> None:
    """What the model is shown is always a storable clip within the budget."""
    model, clip, labels = never_broken()
    result = Square(threat, queries=150)(model, clip, labels)
    eps = (torch.full((3,), threat.eps, dtype=torch.float64),)
    mask = None if isinstance(threat.support, Everywhere) else threat.support.mask(clip.video, None)  # type: ignore[arg-type]
    for ids, video, _ in model.tally.notes:
        assert threat.verify(clip, Clip(video, ids=ids), (mask,), eps).all()
    trace = result.loss_trace[:, :149]
    assert (trace.diff(dim=1) >= 0).all()
    assert (trace[:, -1] > trace[:, 0]).all()
    assert torch.allclose(result.margin.float(), trace[:, -1])
    shown = torch.stack([logits[:, 1] - logits[:, 0] for _, _, logits in model.tally.notes])
    assert torch.allclose(shown.amax(0), result.margin)


@pytest.mark.parametrize("extent", ["cube", "tube", "frame"])
@pytest.mark.parametrize("shape", [(3, 4, 6, 8), (1, 1, 1, 1), (3, 2, 3, 3), (3, 5, 4, 11), (1, 3, 2, 2)])
@pytest.mark.parametrize("threat", [Linf(EPS), L2(0.2)], ids=str)
def test_any_shape_will_do(threat: NormBall, shape: tuple[int, ...], extent: Extent) -> None:
    model, clip, labels = never_broken(2, shape)
    result = Square(threat, queries=15, extent=extent)(model, clip, labels)
    assert result.margin.isfinite().all()
    assert result.clip.video.isfinite().all()


def test_l2_proposals_use_the_whole_budget() -> None:
    clip = clips(3)
    problem = problem_for(Linear(weights()), clip, torch.zeros(3, dtype=torch.long), L2(1.5, stored=False))
    hunt = hunt_on(problem)
    attack = Square(L2(1.5, stored=False), queries=100)
    hunt.delta = _bumps(hunt)
    assert torch.allclose(hunt.delta.flatten(1).norm(dim=1), torch.full((3,), 1.5).double(), rtol=1e-9)
    for query in (1, 20, 90):
        hunt.delta = attack._moved_mass(hunt, query)
        assert torch.allclose(hunt.delta.flatten(1).norm(dim=1), torch.full((3,), 1.5).double(), rtol=1e-5)


def test_the_l2_start_tiles_every_frame_with_bumps() -> None:
    shape = (3, 2, 12, 17)
    clip = clips(2, shape=shape)
    problem = problem_for(Linear(weights(shape)), clip, torch.zeros(2, dtype=torch.long), L2(1.0, stored=False))
    delta = _bumps(hunt_on(problem))
    assert (delta[..., :-1] != 0).all()  # 8 tiles of side 2 cover 16 of 17 columns
    tile = delta[0, 0, 0, :2, :2] / delta[0, 0, 0, :2, :2].norm()
    assert any(torch.allclose(tile, s * p) for s in (1, -1) for p in (bump(2), bump(2).T))
    tiles = delta[0, 0, 0, :, :16].reshape(6, 2, 8, 2).transpose(1, 2).reshape(48, 4)
    assert len(torch.unique(tiles.sign(), dim=0)) == 4, "both signs and both directions occur"


@pytest.mark.parametrize("extent", ["cube", "tube"])
def test_in_a_tube_the_signs_are_constant_in_time(extent: Extent) -> None:
    clip = Clip(torch.full((4, *SHAPE), 0.5, dtype=torch.float64))
    problem = problem_for(Linear(weights()), clip, torch.zeros(4, dtype=torch.long), L2(1.0, stored=False))
    hunt = hunt_on(problem)
    delta = Square(L2(1.0, stored=False), extent=extent)._moved_mass(hunt, 100)  # from nothing: the bump alone
    changed = (delta != 0).any(4).any(3).any(1)
    if extent == "tube":
        assert changed.all()
        assert torch.allclose(delta, delta[:, :, :1].expand_as(delta))
    else:
        assert (changed.sum(1) == box_extent(0.2, SHAPE[1:], "cube")[0]).all()  # type: ignore[arg-type]


# --- the attack ---


@pytest.mark.parametrize("threat", [Linf(EPS), L2(1.5), L2(1.5, stored=False), Linf(EPS, support=Patch(0.3))], ids=str)
@pytest.mark.parametrize("extent", ["cube", "tube", "frame"])
def test_batches_and_their_order_do_not_matter(threat: NormBall, extent: Extent) -> None:
    model = ConvNet(seed=4).double().eval()
    clip = clips(4, seed=9)
    labels = model(clip).argmax(1)
    attack = Square(threat, queries=80, extent=extent)
    together = attack(model, clip, labels)
    order = [3, 1, 0, 2]
    shuffled = attack(model, clip.select(order), labels[order])
    assert torch.equal(shuffled.clip.video, together.clip.video[order])
    assert torch.equal(shuffled.forward_passes, together.forward_passes[order])
    for row in range(4):
        alone = attack(model, clip.select([row]), labels[row : row + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[row])
        assert int(alone.forward_passes) == int(together.forward_passes[row])


def blocky(seed: int) -> Tensor:
    """Weights constant on 2x2x2 blocks."""
    blocks = weights((1, 2, 3, 4), seed=seed)
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(2, axis)
    return blocks


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_linear_model_falls_whenever_the_optimum_breaks_it(seed: int) -> None:
    shape = (1, 4, 6, 8)
    model = Linear(blocky(seed))
    clip, labels = clips(1, shape=shape), torch.zeros(1, dtype=torch.long)
    optimum = EPS * float(model.weight.detach().abs().sum())
    value = model.value(clip).detach()[0]
    for share, queries, broken in ((0.99, 2000, True), (1.001, 200, False)):
        model.bias.data = -value - share * optimum
        result = Square(Linf(EPS), queries=queries)(model, clip, labels)
        assert result.success.tolist() == [broken]
        model.bias.data = torch.zeros((), dtype=torch.float64)


def test_in_l2_a_linear_model_loses_most_of_the_optimum() -> None:
    shape = (1, 4, 6, 6)
    clip, labels = clips(3, shape=shape), alternating(3)
    model = Linear(weights(shape).sign())
    result = Square(L2(2.0, stored=False), queries=600, early_stop=False)(model, clip, labels)
    gain = result.margin - model.value(clip).detach() * signs(labels, labels.double())
    assert (gain > 0.3 * 2.0 * float(model.weight.detach().norm())).all()


def test_rounded_output_stops_pgd_but_not_square() -> None:
    """The gradient is zero everywhere; only a search that asks for values gets on."""
    weight = blocky(1).repeat(3, 1, 1, 1)
    clip = clips(4)
    model = Stairs(weight)
    centre = model.linear.value(clip).detach()
    reach = EPS * float(weight.abs().sum())
    clip = Clip(clip.video - ((centre + 0.4 * reach) / weight.square().sum()).view(-1, 1, 1, 1, 1) * weight)
    labels = torch.zeros(4, dtype=torch.long)
    assert not PGD(Linf(EPS), steps=40, restarts=3)(model, clip, labels).success.any()
    result = Square(Linf(EPS), queries=1000)(model, clip, labels)
    assert result.success.all()
    assert result.backward_passes.tolist() == [0] * 4


def some_of_which_break(batch: int = 8) -> tuple[Model, Clip, Tensor, Linf]:
    """Linear clips at all distances from the boundary, up to beyond what the budget can do."""
    weight = blocky(1).repeat(3, 1, 1, 1)
    clip, labels = clips(batch), torch.zeros(batch, dtype=torch.long)
    model = Linear(weight)
    reach = EPS * float(weight.abs().sum())
    wanted = -torch.linspace(0.02, 1.1, batch, dtype=torch.float64) * reach
    shift = (wanted - model.value(clip).detach()).view(-1, 1, 1, 1, 1) * weight / weight.square().sum()
    return model, Clip(clip.video + shift), labels, Linf(EPS)


@pytest.mark.parametrize("early_stop", [True, False])
def test_queries_are_counted_and_a_broken_clip_leaves(early_stop: bool) -> None:
    inner, clip, labels, threat = some_of_which_break()
    model = Watched(inner)
    result = Square(threat, queries=60, early_stop=early_stop)(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(i) for i in clip.ids]
    assert result.backward_passes.tolist() == [0] * 8
    broken, first = result.success, result.first_success_step
    assert 2 <= int(broken.sum()) <= 6
    assert (first[broken] > 0).any()
    if early_stop:  # queries 0 to first, and the one that confirms
        assert torch.equal(result.forward_passes[broken], first[broken] + 2)
    else:
        assert (result.forward_passes == 60).all()
    assert (result.forward_passes[~broken] == 60).all()


def test_going_on_finds_larger_margins() -> None:
    model, clip, labels, threat = some_of_which_break()
    stopped, full = (Square(threat, queries=80, early_stop=e)(model, clip, labels) for e in (True, False))
    assert torch.equal(stopped.success, full.success)
    assert torch.equal(stopped.first_success_step, full.first_success_step)
    assert (full.margin >= stopped.margin).all()
    assert (full.margin > stopped.margin).any()


def test_targeted_queries_reach_the_label_they_are_given() -> None:
    model = ConvNet(seed=4).double().eval()
    clip = clips(8, seed=9)
    targets = model(clip).argsort(1)[:, 1]
    result = Square(Linf(24 / 255), targeted=True, queries=150)(model, clip, targets)
    assert result.success.any()
    assert torch.equal(model(result.clip).argmax(1) == targets, result.success)


def test_a_redraw_makes_every_query_a_change() -> None:
    """With one channel half of all boxes would repeat what is there; none is asked twice in a row."""
    shape = (1, 2, 2, 2)
    model, clip, labels = never_broken(3, shape)
    Square(Linf(EPS), queries=40)(model, clip, labels)
    best: dict[str, tuple[Tensor, float]] = {}
    wasted = 0
    for ids, video, logits in model.tally.notes[:-1]:
        for row, name in enumerate(ids):
            margin = float(logits[row, 1] - logits[row, 0])
            if name in best and torch.equal(best[name][0], video[row]):
                wasted += 1
            if name not in best or margin > best[name][1]:
                best[name] = (video[row], margin)
    assert wasted == 0


def test_a_zero_budget_leaves_a_clip_alone() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    for threat in (Linf(EPS), L2(1.0)):
        model, _, _ = never_broken(2)
        result = Square(threat, queries=10)(model, clip, labels, eps=[torch.tensor([0.0, threat.eps]).double()])
        assert torch.equal(result.clip.video[0], clip.video[0])
        assert not torch.equal(result.clip.video[1], clip.video[1])


@pytest.mark.parametrize(
    "build",
    [
        lambda: Square(L21(0.1)),
        lambda: Square(Joint((Linf(EPS),))),
        lambda: Square(Linf(EPS, parametrisation="frame_colour")),
        lambda: Square(Linf(0.1, modality="audio")),
        lambda: load_attack("square(queries=1)"),
        lambda: load_attack("square(p_init=0)"),
        lambda: load_attack("square(extent=ball)"),
        lambda: load_attack("square(init=dots)"),
    ],
)
def test_what_it_cannot_do_is_refused(build) -> None:
    with pytest.raises(InputError):
        build()
