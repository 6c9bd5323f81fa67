"""The loop: when clips stop, what is counted, what is kept, and that neighbours in a batch do not matter."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Linear, Smooth, TwoClass, Watched, alternating, clips, problem_for, short, signs, weights

from robustvideo.attacks import FGSM, IFGSM, MIFGSM, NIFGSM, PGD, Noise
from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, AttackResult, judge
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import Margin
from robustvideo.attacks.updates import SteepestStep
from robustvideo.clip import Clip
from robustvideo.threat import L2, FlowField, Joint, Linf, ThreatModel

EPS = 8 / 255


def needing(steps_needed: list[float], clip: Clip, labels: Tensor, weight: Tensor) -> Clip:
    """Clips moved so that the linear margin is -(n - 0.5) steps of I-FGSM(steps=8): clip i needs n_i steps."""
    one_step = EPS / 8 * float(weight.abs().sum())
    model = Linear(weight)
    wanted = torch.tensor([-(n - 0.5) * one_step for n in steps_needed], dtype=torch.float64)
    now = model.value(clip).detach() * signs(labels, labels.double())
    direction = weight / weight.square().sum()
    shift = ((wanted - now) * signs(labels, now)).view(-1, 1, 1, 1, 1) * direction
    return Clip(clip.video + shift, ids=clip.ids)


@pytest.fixture
def staircase() -> tuple[Watched, Clip, Tensor, list[int]]:
    """Clips that fall after 1, 5, 0, never, 3 and 8 steps of I-FGSM(steps=8), in one batch."""
    weight, labels = weights(), alternating(6)
    needed = [1, 5, 0, 20, 3, 8]
    clip = needing([float(n) for n in needed], clips(6), labels, weight)
    return Watched(Linear(weight, scale=0.05)), clip, labels, needed


def ifgsm(**options: object) -> IFGSM:
    return IFGSM(Linf(EPS, stored=False), steps=8, **options)  # type: ignore[arg-type]


def test_first_success_step_is_the_number_of_steps_taken(staircase) -> None:
    model, clip, labels, needed = staircase
    result = ifgsm()(model, clip, labels)
    assert result.first_success_step.tolist() == [-1 if n > 8 else n for n in needed]
    assert result.success.tolist() == [n <= 8 for n in needed]
    assert result.steps.tolist() == [min(n, 8) for n in needed]


def test_first_success_step_does_not_depend_on_early_stop(staircase) -> None:
    model, clip, labels, _ = staircase
    stopped = ifgsm()(model, clip, labels)
    full = ifgsm(early_stop=False)(model, clip, labels)
    assert torch.equal(stopped.success, full.success)
    assert torch.equal(stopped.first_success_step, full.first_success_step)
    assert full.steps.tolist() == [8] * 6


def test_without_early_stop_the_loss_trace_is_whole(staircase) -> None:
    model, clip, labels, _ = staircase
    assert ifgsm(early_stop=False)(model, clip, labels).loss_trace.isfinite().all()
    bump = Clip(torch.full((1, 3, 2, 6, 8), 128 / 255, dtype=torch.float64))
    attack = NIFGSM(Linf(8 / 255), steps=4, early_stop=False)
    assert attack(Bump(), bump, torch.zeros(1, dtype=torch.long)).loss_trace.isfinite().all()


def test_loss_trace_ends_where_the_clip_ended(staircase) -> None:
    model, clip, labels, needed = staircase
    trace = ifgsm()(model, clip, labels).loss_trace
    assert trace.shape == (6, 8)
    for row, n in zip(trace, needed, strict=True):
        seen = min(n + 1, 8)  # the step that finds the success has looked once more
        assert row[:seen].isfinite().all()
        assert row[seen:].isnan().all()
        assert (row[:seen].diff() > 0).all()


@pytest.mark.parametrize("early_stop", [True, False])
def test_passes_are_counted_exactly_per_clip(staircase, early_stop: bool) -> None:
    model, clip, labels, needed = staircase
    result = ifgsm(early_stop=early_stop)(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]
    if early_stop:
        # one gradient at each point up to the success, and one verdict
        assert result.backward_passes.tolist() == [min(n + 1, 8) for n in needed]
        assert result.forward_passes.tolist() == [min(n + 1, 8) + 1 for n in needed]
    else:
        assert result.backward_passes.tolist() == [8] * 6


@pytest.mark.parametrize("attack", [PGD(steps=5, restarts=3), MIFGSM(), NIFGSM(), FGSM(), Noise(draws=4)], ids=short)
@pytest.mark.parametrize("early_stop", [True, False])
def test_passes_are_counted_for_every_attack(attack: Attack, early_stop: bool) -> None:
    attack = dataclasses.replace(attack, early_stop=early_stop)
    clip, labels = clips(8, dtype=torch.float32), torch.arange(8) % 3
    model = Watched(ConvNet())
    result = attack(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


@pytest.mark.parametrize("box", [(64, 192), (0, 256)], ids=["inside_the_box", "touching_the_box"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("attack", [IFGSM, MIFGSM, NIFGSM])
def test_early_stop_stops_early(attack: type, share: float, box: tuple[int, int]) -> None:
    """A clip that falls at a share of the budget takes about that share of the steps, wherever its pixels lie."""
    clip, labels = clips(1, low=box[0], high=box[1]), torch.zeros(1, dtype=torch.long)
    model = Linear(weights(), scale=0.05)
    with torch.no_grad():
        model.bias -= model.value(clip)[0] / 0.05 + share * EPS * weights().abs().sum()
    result = attack(Linf(EPS), steps=20)(model, clip, labels)
    assert result.success.tolist() == [True]
    assert int(result.first_success_step[0]) <= share * 20 + 2
    assert int(result.backward_passes[0]) <= share * 20 + 3


def test_a_misclassified_clip_costs_one_gradient_and_one_verdict_and_stays_clean() -> None:
    clip = clips(1)
    model = Linear(weights())
    model.bias.data += 5 - model.value(clip).detach()[0]
    result = IFGSM(Linf(EPS))(model, clip, torch.zeros(1, dtype=torch.long))
    assert result.first_success_step.tolist() == [0]
    assert torch.equal(result.clip.video, clip.video)
    assert (result.forward_passes.tolist(), result.backward_passes.tolist()) == ([2], [1])


class Needle(TwoClass):
    """The margin is positive only in a thin shell around one value of the mean brightness: ascent passes over it."""

    def value(self, clip: Clip) -> Tensor:
        mean = clip.video.flatten(1).mean(1)
        return 0.004 - (mean - 0.515).abs() + 0 * mean


@pytest.mark.parametrize("attack", [IFGSM, MIFGSM, NIFGSM, PGD])
def test_early_stop_and_all_steps_agree_on_success(attack: type) -> None:
    """Without early stopping the best point met on the way counts, not the last one."""
    video = torch.full((1, 3, 2, 6, 8), 128 / 255, dtype=torch.float64)
    clip, labels = Clip(video), torch.zeros(1, dtype=torch.long)
    for threat in (Linf(EPS), Linf(3 / 255), L2(0.4)):
        stopped = attack(threat, steps=7)(Needle(), clip, labels)
        full = attack(threat, steps=7, early_stop=False)(Needle(), clip, labels)
        assert stopped.success.tolist() == full.success.tolist(), (attack.__name__, threat)
        assert (full.margin >= stopped.margin - 1e-9).all()


@pytest.mark.parametrize("early_stop", [True, False])
def test_fgsm_takes_its_step_wherever_it_leads(early_stop: bool) -> None:
    """It overshoots into a smaller margin, and is the attack all the same: for another model, a clean clip is none."""
    clip, labels = Clip(torch.full((1, 3, 2, 6, 8), 128 / 255, dtype=torch.float64)), torch.zeros(1, dtype=torch.long)
    result = FGSM(Linf(8 / 255), early_stop=early_stop)(Peak(), clip, labels)
    assert torch.allclose(result.clip.video - clip.video, torch.full_like(clip.video, 8 / 255))
    assert float(result.margin) == pytest.approx(-3)


def test_a_step_that_undoes_a_success_is_no_success() -> None:
    clip, labels = Clip(torch.full((1, 3, 2, 6, 8), 130 / 255, dtype=torch.float64)), torch.zeros(1, dtype=torch.long)
    result = FGSM(Linf(8 / 255), early_stop=False)(Peak(), clip, labels)
    assert (result.success.tolist(), result.first_success_step.tolist()) == ([False], [-1])
    assert FGSM(Linf(8 / 255))(Peak(), clip, labels).success.tolist() == [True]


class Peak(TwoClass):
    """The margin over the mean brightness: positive within two grey levels of 131, and falling from there."""

    def value(self, clip: Clip) -> Tensor:
        return 2 - (clip.video.flatten(1).mean(1) * 255 - 131).abs()


class Bump(TwoClass):
    """The margin over the mean brightness, in grey levels above 128: up to a hill at 4, a valley, then far up."""

    corners = torch.tensor([-20.0, 0.0, 4.5, 7.5, 12.0, 40.0], dtype=torch.float64)
    heights = torch.tensor([-5.0, -1.0, 0.15, -0.25, 1.0, 9.0], dtype=torch.float64)

    def value(self, clip: Clip) -> Tensor:
        level = clip.video.flatten(1).mean(1) * 255 - 128
        piece = torch.bucketize(level.detach(), self.corners).clamp(1, len(self.corners) - 1)
        left, right = self.corners[piece - 1], self.corners[piece]
        low, high = self.heights[piece - 1], self.heights[piece]
        return low + (high - low) * (level - left) / (right - left)


@pytest.mark.parametrize("early_stop", [True, False])
def test_a_look_ahead_outside_the_ball_does_not_hide_a_success_inside(early_stop: bool) -> None:
    """NI-FGSM with 4 steps of 2 levels looks at 0, 4, 8 and 12 levels; only 4 is a success that the ball allows."""
    clip = Clip(torch.full((1, 3, 2, 6, 8), 128 / 255, dtype=torch.float64))
    attack = NIFGSM(Linf(8 / 255), steps=4, early_stop=early_stop)
    result = attack(Bump(), clip, torch.zeros(1, dtype=torch.long))
    assert result.success.tolist() == [True]
    assert result.first_success_step.tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("attack", [IFGSM, MIFGSM, NIFGSM, PGD])
def test_early_stop_and_all_steps_agree_on_a_network(attack: type, seed: int) -> None:
    clip, labels = clips(16, seed=seed), torch.arange(16) % 3
    model = ConvNet(seed=seed).double()
    stopped = attack(Linf(2 / 255), steps=5, seed=seed)(model, clip, labels)
    full = attack(Linf(2 / 255), steps=5, seed=seed, early_stop=False)(model, clip, labels)
    assert (full.success >= stopped.success).all()
    assert stopped.success.any()


def test_restarts_never_help_the_defender() -> None:
    clip, labels = clips(24), torch.arange(24) % 3
    model = ConvNet(seed=1).double()
    results = [PGD(Linf(2 / 255), steps=2, restarts=n)(model, clip, labels) for n in (1, 2, 4, 8)]
    for fewer, more in pairwise(results):
        assert (more.success >= fewer.success).all()
        assert (more.margin[~fewer.success] >= fewer.margin[~fewer.success]).all()
        # what had fallen before is not attacked again
        assert torch.equal(more.clip.video[fewer.success], fewer.clip.video[fewer.success])
        assert torch.equal(more.forward_passes[fewer.success], fewer.forward_passes[fewer.success])
        assert (more.forward_passes[~fewer.success] > fewer.forward_passes[~fewer.success]).all()


def test_restarts_start_elsewhere() -> None:
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    results = [Noise(Linf(EPS), draws=n, early_stop=False)(Linear(weights(seed=9)), clip, labels) for n in (1, 20)]
    assert not torch.equal(results[0].clip.video, results[1].clip.video)


def test_larger_budgets_and_more_steps_never_help_the_defender() -> None:
    clip, labels = clips(16), alternating(16)
    model = Linear(weights(), bias=0.0)
    rates = [IFGSM(Linf(e / 255))(model, clip, labels).success for e in (1, 2, 4, 8, 16)]
    for smaller, larger in pairwise(rates):
        assert (larger >= smaller).all()


def test_budgets_per_clip_and_zero_returns_the_clip_bit_for_bit() -> None:
    clip, labels = clips(4, low=0, high=256), alternating(4)
    off_grid = Clip((clip.video + 0.2 / 255).clamp(0, 1))
    model = Linear(weights())
    eps = torch.tensor([0.0, 2 / 255, 8 / 255, 0.0], dtype=torch.float64)
    for clean in (clip, off_grid):
        for attack in (PGD(), FGSM(), MIFGSM(), NIFGSM(), IFGSM(), Noise()):
            attack = dataclasses.replace(attack, early_stop=False)
            result = attack(model, clean, labels, eps=[eps])
            assert torch.equal(result.clip.video[[0, 3]], clean.video[[0, 3]]), attack.spec
            change = (result.clip.video - clean.video).abs().flatten(1).amax(1)
            assert (change <= eps + 1e-4).all()
            assert (change[1:3] > 0).all()


@pytest.mark.parametrize("norm", ["l2", "l21", "flow"])
def test_zero_budgets_in_other_balls(norm: str) -> None:
    clip, labels = clips(3), alternating(3)
    for clean in (clip, Clip(clip.video + 0.2 / 255)):
        attack = PGD(norm=norm, eps=0.5, early_stop=False)
        result = attack(Linear(weights()), clean, labels, eps=[torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)])
        changed = (result.clip.video != clean.video).flatten(1).sum(1).tolist()
        assert changed[0] == changed[2] == 0
        assert changed[1] > 0


@pytest.mark.parametrize("threat", [Linf(EPS), L2(1.0)], ids=short)
def test_budgets_below_the_grid_are_no_defect_of_the_attack(threat) -> None:
    """A clip's own budget may be smaller than what a file can hold: then the clip stays, and nothing is raised."""
    clip, labels = clips(3), alternating(3)
    for clean in (clip, Clip(clip.video + 0.45 / 255)):
        eps = torch.full((3,), 0.2 / 255, dtype=torch.float64)
        result = PGD(threat, early_stop=False)(Linear(weights()), clean, labels, eps=[eps])
        assert ((result.clip.video - clean.video).abs() <= 0.2 / 255 + 1e-9).all()


def test_the_whole_budget_per_clip_is_used() -> None:
    clip, labels = clips(3), alternating(3)
    eps = torch.tensor([2 / 255, 4 / 255, 12 / 255], dtype=torch.float64)
    result = IFGSM(Linf(EPS), early_stop=False)(Linear(weights()), clip, labels, eps=[eps])
    change = (result.clip.video - clip.video).abs() * 255
    assert change.flatten(1).amax(1).round().tolist() == [2, 4, 12]
    assert change.flatten(1).amin(1).round().tolist() == [2, 4, 12]


@pytest.mark.parametrize("attack", [PGD(steps=6), IFGSM(), NIFGSM()], ids=short)
def test_a_clip_s_result_is_that_of_the_clip_alone(attack: Attack) -> None:
    clip, labels = clips(8), torch.arange(8) % 3
    model = ConvNet().double()
    together = attack(model, clip, labels)
    for i in range(8):
        alone = attack(model, clip.select([i]), labels[i : i + 1])
        assert same_rows(alone, together, [i])


def same_rows(part: AttackResult, whole: AttackResult, rows: list[int]) -> bool:
    return all(
        torch.equal(getattr(part, name), getattr(whole, name)[rows])
        for name in ("success", "first_success_step", "forward_passes", "backward_passes")
    ) and torch.equal(part.clip.video, whole.clip.video[rows])


def test_the_verdict_belongs_to_the_clip_that_is_returned() -> None:
    clip, labels = clips(12), torch.arange(12) % 3
    model = ConvNet(seed=2).double()
    for attack in (PGD(restarts=2), PGD(early_stop=False), NIFGSM(), Noise(draws=3)):
        result = attack(model, clip, labels)
        verdict = judge(model.eval(), result.clip, labels)
        assert torch.equal(verdict.success, result.success)
        assert torch.allclose(verdict.logits, result.logits)
        assert torch.allclose(verdict.margin, result.margin.double(), atol=1e-6)
        assert result.clip.ids == clip.ids
        assert ((result.first_success_step >= 0) == result.success).all()


def test_memory_does_not_grow_with_the_steps() -> None:
    import gc

    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    seen: list[int] = []

    class Census(Linear):
        calls = 0

        def value(self, clip: Clip) -> Tensor:
            Census.calls += 1
            if Census.calls in (100, 900):
                gc.collect()
                seen.append(sum(isinstance(o, Tensor) for o in gc.get_objects()))
            return super().value(clip)

    IFGSM(Linf(EPS), steps=1000, early_stop=False)(Census(weights()), clip, labels)
    assert len(seen) == 2
    assert seen[1] <= seen[0]


def test_the_margin_objective_moves_where_the_cross_entropy_is_saturated() -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights(), scale=200.0)
    ce = IFGSM(Linf(EPS, stored=False), early_stop=False)(model, clip, labels)
    assert ce.margin.isfinite().all()
    assert not ce.loss_trace.isnan().any()
    climb = Ascent(Margin(), plain, SteepestStep(0.1), steps=10, random_start=False, early_stop=False)
    before = model.value(clip).detach() * signs(labels, clip.video[:, 0, 0, 0, 0])
    result = climb(problem_for(model, clip, labels, Linf(EPS, stored=False)))
    optimum = 200 * EPS * float(model.weight.detach().abs().sum())
    assert torch.allclose(result.margin.double() - before, torch.full_like(before, optimum), rtol=1e-4)


def test_smooth_models_are_climbed_step_by_step() -> None:
    clip, labels = clips(4), alternating(4)
    trace = IFGSM(Linf(2 / 255, stored=False), steps=5, early_stop=False)(Smooth(), clip, labels).loss_trace
    assert (trace.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    "threat",
    [
        Linf(16 / 255),
        L2(5.0),
        Linf(16 / 255, parametrisation="frame_colour"),
        FlowField(2.0),
        Joint((FlowField(2.0), Linf(16 / 255))),
    ],
    ids=short,
)
def test_the_model_never_sees_a_clip_out_of_range(threat: ThreatModel) -> None:
    """A gradient taken where no video can be is the gradient of another problem."""
    seen: list[float] = []

    class Range(Smooth):
        def value(self, clip: Clip) -> Tensor:
            least, most = clip.video.detach().aminmax()
            seen.extend((-float(least), float(most) - 1))
            return super().value(clip)

    PGD(threat, early_stop=False)(Range(), clips(3, low=0, high=256), alternating(3))
    assert max(seen) < 1e-6


@pytest.mark.parametrize("attack", [PGD(), MIFGSM(), Noise()], ids=short)
def test_duplicate_clips_get_the_same_answer_if_they_have_the_same_id(attack: Attack) -> None:
    one = clips(1)
    twice = Clip(one.video.repeat(2, 1, 1, 1, 1), ids=("a", "a"))
    result = attack(ConvNet().double(), twice, torch.zeros(2, dtype=torch.long))
    assert torch.equal(result.clip.video[0], result.clip.video[1])
