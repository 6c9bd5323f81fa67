"""FAB: the projection against brute force, and the nearest boundary where its distance is known."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from toys import SHAPE, ConvNet, Linear, Smooth, Stairs, TwoClass, Watched, alternating, clips, signs, weights

from robustvideo.attacks import load_attack
from robustvideo.attacks.attack import Attack
from robustvideo.attacks.fab import FABT, NearestResult, onto_hyperplane
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.support import Frames
from robustvideo.threat import L2, L21, Joint, Linf, NormBall

BOX = (0.0, 1.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_planes(batch: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points in the box, normals, and gaps of which most are within reach."""
    points, normals = draw(batch, size, seed=seed), draw(batch, size, seed=seed + 1) * 4 - 2
    return points, normals, (draw(batch, seed=seed + 2) - 0.5) * size * 0.7


# --- the projection ---


def reachable(point: Tensor, weight: Tensor, gap: Tensor) -> Tensor:
    corner = torch.where(weight * gap > 0, 1.0, 0.0)
    return (weight * (corner - point)).sum() * gap.sign() >= gap.abs()


def nearest_by_enumeration(point: Tensor, weight: Tensor, gap: float) -> Tensor:
    """The L2 projection: try every way in which values are free or at either end of the box."""
    best, least = None, float("inf")
    for pattern in product((None, 0.0, 1.0), repeat=len(point)):
        free = torch.tensor([p is None for p in pattern])
        fixed = torch.tensor([0.0 if p is None else p for p in pattern], dtype=torch.float64)
        moved = torch.where(free, 0.0, fixed - point)
        left = gap - float((weight * moved).sum())
        size = float(weight[free].square().sum())
        if size == 0 and abs(left) > 1e-12:
            continue
        moved = torch.where(free, weight * (left / size if size else 0.0), moved)
        inside = ((point + moved >= -1e-12) & (point + moved <= 1 + 1e-12)).all()
        if inside and float(moved.norm()) < least:
            best, least = moved, float(moved.norm())
    assert best is not None
    return best


def least_reach(point: Tensor, weight: Tensor, gap: float) -> float:
    """The Linf distance: bisect the radius at which a box of that radius can close the gap."""
    low, high = 0.0, 1.0
    for _ in range(60):
        radius = (low + high) / 2
        ends = torch.where(weight * gap > 0, (point + radius).clamp(max=1), (point - radius).clamp(min=0))
        closed = abs(float((weight * (ends - point)).sum())) >= abs(gap)
        low, high = (low, radius) if closed else (radius, high)
    return high


@pytest.mark.parametrize("seed", range(4))
def test_l2_projection_is_the_nearest_point_of_plane_and_box(seed: int) -> None:
    points, normals, gaps = random_planes(6, 5, seed * 10)
    moved = onto_hyperplane(points, normals, gaps, BOX, euclidean=True)
    checked = 0
    for row in range(6):
        if reachable(points[row], normals[row], gaps[row]):
            expected = nearest_by_enumeration(points[row], normals[row], float(gaps[row]))
            assert torch.allclose(moved[row], expected, atol=1e-9)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("size", [5, 200])
def test_linf_projection_has_the_least_radius(size: int) -> None:
    points, normals, gaps = random_planes(40, size, 3)
    moved = onto_hyperplane(points, normals, gaps * (0.3 if size > 5 else 1), BOX, euclidean=False)
    checked = 0
    for row in range(40):
        gap = gaps[row] * (0.3 if size > 5 else 1)
        if reachable(points[row], normals[row], gap):
            expected = least_reach(points[row], normals[row], float(gap))
            assert float(moved[row].abs().max()) == pytest.approx(expected, abs=1e-9)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_projections_lie_in_the_box_and_on_the_plane(euclidean: bool, dtype: torch.dtype, tolerance: float) -> None:
    points, normals, gaps = (x.to(dtype) for x in random_planes(30, 3000, 8))
    gaps = gaps * 0.1
    moved = onto_hyperplane(points, normals, gaps, BOX, euclidean)
    assert ((points + moved) >= -1e-7).all()
    assert ((points + moved) <= 1 + 1e-7).all()
    assert ((points + moved).clamp(0, 1) != points).any()
    on_plane = ((normals * moved).sum(1) - gaps).abs() / normals.abs().sum(1)
    assert (on_plane <= tolerance).all()


@pytest.mark.parametrize("euclidean", [True, False])
def test_a_plane_out_of_reach_gives_the_nearest_corner(euclidean: bool) -> None:
    points, normals, _ = random_planes(5, 20, 4)
    for sign in (1.0, -1.0):
        moved = onto_hyperplane(points, normals, torch.full((5,), 1e6 * sign).double(), BOX, euclidean)
        corner = (normals * sign > 0).double()
        assert torch.allclose(points + moved, corner)


@pytest.mark.parametrize("euclidean", [True, False])
def test_zero_weights_and_zero_gaps_move_nothing(euclidean: bool) -> None:
    points, normals, gaps = random_planes(4, 20, 6)
    assert torch.equal(onto_hyperplane(points, normals * 0, gaps, BOX, euclidean), torch.zeros_like(points))
    assert torch.equal(onto_hyperplane(points, normals, gaps * 0, BOX, euclidean).abs(), torch.zeros_like(points))
    normals[:, :10] = 0
    moved = onto_hyperplane(points, normals, gaps, BOX, euclidean)
    assert (moved[:, :10] == 0).all()
    assert moved.isfinite().all()


@pytest.mark.parametrize("euclidean", [True, False])
def test_the_scale_of_the_plane_does_not_matter(euclidean: bool) -> None:
    """Also where squares of the weights underflow in float32."""
    points, normals, gaps = (x.float() for x in random_planes(4, 50, 9))
    moved = onto_hyperplane(points, normals, gaps, BOX, euclidean)
    tiny = onto_hyperplane(points, normals * 1e-26, gaps * 1e-26, BOX, euclidean)
    assert torch.allclose(moved, tiny, atol=1e-5)


def test_rows_of_a_projection_do_not_see_each_other() -> None:
    points, normals, gaps = random_planes(7, 60, 11)
    for euclidean in (True, False):
        together = onto_hyperplane(points, normals, gaps, BOX, euclidean)
        for row in range(7):
            at = slice(row, row + 1)
            alone = onto_hyperplane(points[at], normals[at], gaps[at], BOX, euclidean)
            assert torch.allclose(alone[0], together[row], rtol=0, atol=1e-14)


# --- distances ---


def dual(weight: Tensor, threat: NormBall) -> float:
    return float(weight.abs().sum() if isinstance(threat, Linf) else weight.norm())


def fab(threat: NormBall, **options: object) -> FABT:
    return FABT(threat, **{"steps": 20, "early_stop": False, **options})  # type: ignore[arg-type]


def linear_at(gap: float, batch: int = 3) -> tuple[Linear, Clip, Tensor]:
    """A linear model and clips, moved so that every margin is -gap."""
    clip, labels, weight = clips(batch), alternating(batch), weights()
    model = Linear(weight)
    now = model.value(clip).detach()
    wanted = -gap * signs(labels, now)
    shift = (wanted - now).view(-1, 1, 1, 1, 1) * weight / weight.square().sum()
    return model, Clip(clip.video + shift), labels


THREATS = [Linf(8 / 255, stored=False), L2(1.0, stored=False)]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_first_iteration_lands_eta_beyond_the_plane(threat: NormBall) -> None:
    model, clip, labels = linear_at(5.0)
    result = fab(threat, steps=1)(model, clip, labels)
    assert isinstance(result, NearestResult)
    distance = 5.0 / dual(model.weight.detach(), threat)
    assert result.nearest.tolist() == pytest.approx([1.05 * distance] * 3, rel=1e-6)
    wide = fab(threat, steps=1, eta=1.5)(model, clip, labels)
    assert isinstance(wide, NearestResult)
    assert wide.nearest.tolist() == pytest.approx([1.5 * distance] * 3, rel=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("gap", [0.5, 5.0, 20.0])
def test_the_distance_of_a_linear_model_is_found(threat: NormBall, gap: float) -> None:
    """Whether or not it is inside the budget."""
    model, clip, labels = linear_at(gap)
    result = fab(threat)(model, clip, labels)
    assert isinstance(result, NearestResult)
    distance = gap / dual(model.weight.detach(), threat)
    assert (result.nearest >= distance * (1 - 1e-9)).all()
    assert (result.nearest <= distance * 1.01).all()
    assert result.success.tolist() == [distance <= threat.eps] * 3


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize(("share", "broken"), [(0.97, True), (1.01, False)])
def test_a_clip_counts_as_broken_within_the_budget_only(threat: NormBall, share: float, broken: bool) -> None:
    model = Linear(weights())
    model, clip, labels = linear_at(share * threat.eps * dual(model.weight.detach(), threat))
    for early_stop in (True, False):
        assert fab(threat, early_stop=early_stop)(model, clip, labels).success.tolist() == [broken] * 3


@pytest.mark.parametrize("levels", [1.3, 3.4, 5.45, 7.7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounding_to_the_grid_does_not_undo_it(levels: float, norm: str) -> None:
    """The nearest point rounds back over the boundary; the same direction at the budget's edge does not."""
    model = Linear(weights())
    threat = Linf(8 / 255) if norm == "linf" else L2(8 / 255 * 24)
    unit = dual(model.weight.detach(), threat) * threat.eps / 8
    values = model.value(clips(1)).detach()
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    model.bias.data = -values[0] - levels * unit
    result = FABT(threat, steps=20)(model, clip, labels)
    assert result.success.all()
    assert torch.allclose((result.clip.video * 255), (result.clip.video * 255).round(), atol=1e-9)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_box_is_part_of_the_distance(threat: NormBall) -> None:
    """Values near black and white cannot all move: the projection of the clean clip is the nearest point."""
    clip, labels = clips(4, low=0, high=256), torch.zeros(4, dtype=torch.long)
    model = Linear(weights())
    values = model.value(clip).detach()
    model.bias.data = -values.max() - 40.0
    gaps = -(values + model.bias.detach())
    weight = model.weight.detach().expand_as(clip.video)
    euclidean = isinstance(threat, L2)
    direct = onto_hyperplane(clip.video, weight, gaps, BOX, euclidean).flatten(1)
    free = onto_hyperplane(clip.video, weight, gaps, (-9.0, 9.0), euclidean).flatten(1)
    size = (lambda d: d.norm(dim=1)) if euclidean else (lambda d: d.abs().amax(1))
    assert (size(direct) > size(free) * 1.005).all(), "a box that does not bind would test nothing"
    result = fab(threat)(model, clip, labels)
    assert isinstance(result, NearestResult)
    assert (result.nearest >= size(direct) * (1 - 1e-9)).all()
    assert (result.nearest <= size(direct) * 1.02).all()


def test_a_support_is_respected_and_counts() -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    threat = Linf(200 / 255, support=Frames((1,)), stored=False)
    model.bias.data = -model.value(clip).detach().mean()
    result = fab(threat)(model, clip, labels)
    assert isinstance(result, NearestResult)
    changed = (result.clip.video != clip.video).flatten(3).any(3).any(1).any(0)
    assert changed.tolist() == [False, True, False, False]
    standing = (model.value(clip).detach() * signs(labels, labels.double())) < 0
    distance = model.value(clip).detach().abs() / float(model.weight.detach()[:, 1].abs().sum())
    assert standing.any()
    assert result.nearest[standing].tolist() == pytest.approx(distance[standing].tolist(), rel=0.02)


# --- the attack ---


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(1.0)], ids=str)
def test_a_masked_gradient_is_no_nan(threat: NormBall) -> None:
    model = Stairs(weights())
    clip = clips(3)
    labels = model(clip).argmax(1)
    result = FABT(threat, steps=3, restarts=2)(model, clip, labels)
    assert not result.success.any()
    assert result.margin.isfinite().all()
    assert result.clip.video.isfinite().all()


def test_a_misclassified_clip_is_at_distance_zero_and_stays_clean() -> None:
    clip = clips(2)
    model = ConvNet().double().eval()
    labels = model(clip).argmin(1)
    result = FABT(steps=5)(model, clip, labels)
    assert isinstance(result, NearestResult)
    assert result.nearest.tolist() == [0.0, 0.0]
    assert result.first_success_step.tolist() == [0, 0]
    assert torch.equal(result.clip.video, clip.video)
    assert result.backward_passes.tolist() == [0, 0]


class ThreeClass(Model):
    """Class 1 is the runner-up of class 0 and hardly moves; class 2 is farther down, but nearer in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights())

    def forward(self, clip: Clip) -> Tensor:
        s = ((clip.video - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([0 * s, 0.01 * s - 1, s - 3], dim=1)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_nearest_boundary_need_not_be_the_runner_up_s(threat: NormBall) -> None:
    model, clip = ThreeClass(), Clip(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    labels = torch.zeros(1, dtype=torch.long)
    distance = 3 / dual(model.weight.detach(), threat)
    one = fab(threat, steps=10, targets=1)(model, clip, labels)
    both = fab(threat, steps=10)(model, clip, labels)
    assert isinstance(one, NearestResult)
    assert isinstance(both, NearestResult)
    assert float(one.nearest) > distance * 1.5
    assert float(both.nearest) == pytest.approx(distance, rel=0.01)


class Plateau(TwoClass):
    """Flat around grey, rising on both sides: ``relu(|<w, x - 1/2>| - band) - height``."""

    def value(self, clip: Clip) -> Tensor:
        s = ((clip.video - 0.5) * weights()).flatten(1).sum(1)
        return (s.abs() - 0.05).relu() - 5


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_random_starts_leave_a_plateau_and_never_lose_what_was_found(threat: NormBall) -> None:
    model, labels = Plateau(), torch.zeros(4, dtype=torch.long)
    clip = Clip(torch.full((4, *SHAPE), 0.5, dtype=torch.float64))
    nearest = []
    for restarts in (1, 2, 4):
        result = fab(threat, restarts=restarts)(model, clip, labels)
        assert isinstance(result, NearestResult)
        nearest.append(result.nearest)
    assert nearest[0].isinf().all(), "the clean clip has no gradient to follow"
    assert (nearest[1] <= nearest[0]).all()
    assert (nearest[2] <= nearest[1]).all()
    assert nearest[2].isfinite().all()
    distance = 5.05 / dual(weights(), threat)
    assert (nearest[2] >= distance * (1 - 1e-9)).all()
    assert (nearest[2] <= distance * 1.5).all()


def test_nothing_nearer_is_claimed_than_what_breaks_the_model() -> None:
    """A clip with a distance d is broken by FAB at any budget above d, and the curve over budgets is that of d."""
    model = Smooth()
    clip, labels = clips(6, low=0, high=256), alternating(6)
    found = fab(Linf(0.5, stored=False), steps=30)(model, clip, labels)
    assert isinstance(found, NearestResult)
    for eps in (0.02, 0.1, 0.3):
        within = FABT(Linf(eps, stored=False), steps=30)(model, clip, labels)
        assert (within.success | (found.nearest > eps)).all()


@pytest.mark.parametrize("early_stop", [True, False])
def test_passes_are_counted(early_stop: bool) -> None:
    inner = ConvNet(seed=4, classes=4).double().eval()
    clip = clips(6, seed=9)
    labels = inner(clip).argmax(1)
    model = Watched(inner)
    result = FABT(Linf(3 / 255), steps=6, restarts=2, early_stop=early_stop)(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(i) for i in clip.ids]
    assert (result.backward_passes <= 6 * 3 * 2).all()
    if early_stop:
        assert result.success.any()
        assert (result.backward_passes[result.success] < 6 * 3 * 2).all()


def test_targeted_walks_go_to_the_label_they_are_given() -> None:
    model = ConvNet(seed=4, classes=5).double().eval()
    clip = clips(6, seed=9)
    targets = model(clip).argsort(1)[:, -2]
    result = fab(L2(20.0), targeted=True, steps=40)(model, clip, targets)
    assert result.success.any()
    reached = model(result.clip).argmax(1) == targets
    assert torch.equal(reached, result.success)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FABT(L21(0.1)),
        lambda: FABT(Joint((Linf(8 / 255),))),
        lambda: FABT(Linf(8 / 255, parametrisation="frame_colour")),
        lambda: load_attack("fab_t(beta=1)"),
        lambda: load_attack("fab_t(eta=0.9)"),
        lambda: load_attack("fab_t(targets=0)"),
        lambda: load_attack("fab_t(alpha_max=0)"),
    ],
)
def test_what_it_cannot_do_is_refused(build) -> None:
    with pytest.raises(InputError, match="fab_t"):
        build()


def test_its_spec_builds_it() -> None:
    attack: Attack = FABT(L2(2.0), restarts=3, beta=0.8)
    assert load_attack(attack.spec) == attack
