"""Auto-PGD: its checkpoints, its step sizes and iterates against the paper's pseudo-code, and its objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import SHAPE, ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks import PGD, load_attack
from robustvideo.attacks.apgd import APGDCE, APGDDLR, APGDT, APGDStep, checkpoints
from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Problem, Variables
from robustvideo.attacks.dlr import DLR, TARGETS, TargetedDLR, TargetMargin, likeliest_wrong
from robustvideo.attacks.gradients import Estimate, plain
from robustvideo.attacks.objectives import Margin, Objective
from robustvideo.attacks.updates import Position, State
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import L2, L21, FlowField, Joint, Linf, NormBall

ALL = {"apgd_ce": APGDCE, "apgd_dlr": APGDDLR, "apgd_t": APGDT}


class Several(Model):
    """K linear logits ``<w_k, video> * scale + b_k``."""

    def __init__(self, classes: int, seed: int = 3, scale: float = 1.0, dtype: torch.dtype = torch.float64):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        rows = torch.randn(classes, *SHAPE, generator=random, dtype=torch.float64)
        self.weight = nn.Parameter(rows.to(dtype))
        self.bias = nn.Parameter(torch.zeros(classes, dtype=dtype))
        self.scale = scale

    def forward(self, clip: Clip) -> Tensor:
        return ((clip.video[:, None] * self.weight).flatten(2).sum(2) + self.bias) * self.scale


# --- checkpoints ---


def test_checkpoints_of_a_hundred_steps_are_the_papers() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 30, 49, 50, 75, 200, 1000])
def test_windows_tile_the_climb_shrink_and_are_never_shorter_than_three(steps: int) -> None:
    ends, windows = list(checkpoints(steps)), list(checkpoints(steps).values())
    assert [sum(windows[: i + 1]) for i in range(len(windows))] == ends
    assert windows == sorted(windows, reverse=True)
    assert all(w >= 3 for w in windows)
    assert all(end <= steps for end in ends)


def test_few_steps_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="fewer than 30 steps"):
        APGDCE(steps=10)


# --- the update rule, on scripted objectives ---


def scripted(values: list[float], steps: int = 100, rho: float = 0.75) -> tuple[list[float], list[Tensor]]:
    """Step sizes in use at every step, and the points moved from, on an objective that takes the given values."""
    rule, part = APGDStep(2.0, rho), Linf(8 / 255, stored=False)
    signal = torch.full((1, 1, 1, 1, 2), 0.5, dtype=torch.float64)
    eps = torch.tensor([part.eps], dtype=torch.float64)
    variable = part.zeros(signal)
    state, sizes, points = rule.init(variable), [], []
    for step, value in enumerate(values):
        gradient = torch.tensor([1.0, -1.0]).expand_as(signal).double() * (1 if step % 2 else -1)
        here = Position(part, signal, eps, None, variable, gradient, torch.tensor([value]).double(), step, steps)
        moved, state = rule.step(here, state)
        variable = here.project(moved)
        sizes.append(float(state["size"]))
        points.append(state["previous"])
    return sizes, points


def halved_at(sizes: list[float]) -> list[int]:
    assert sizes[0] == 2.0
    assert all(now in (before, before / 2) for before, now in pairwise(sizes))
    return [i for i in range(1, len(sizes)) if sizes[i] < sizes[i - 1]]


def test_a_climb_that_always_rises_keeps_its_step() -> None:
    assert halved_at(scripted([float(i) for i in range(100)])[0]) == []


def test_a_climb_that_never_rises_halves_at_every_checkpoint() -> None:
    assert halved_at(scripted([0.0] * 100)[0]) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert halved_at(scripted([-float(i) for i in range(100)])[0]) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize(("rises", "halves"), [(16, True), (17, False)])
def test_the_share_of_rising_steps_is_compared_with_rho(rises: int, halves: bool) -> None:
    """Of 22 steps, 16 are at most 0.75 of the window (16.5) and 17 are more."""
    values = [0.0]
    for i in range(22):
        values.append(values[-1] + (1.0 if i < rises else -0.01))
    assert halved_at(scripted(values)[0]) == ([22] if halves else [])


def test_the_first_step_is_compared_with_the_start() -> None:
    """17 rises, the first of them from the start to step 1; a positive loss alone is no rise."""
    falling_first = [100.0, 1.0] + [1.0 + i for i in range(1, 17)] + [0.0] * 5
    assert len(falling_first) == 23
    assert halved_at(scripted(falling_first)[0]) == [22]


def test_no_new_best_halves_every_other_check_while_the_objective_keeps_rising() -> None:
    """Condition 2: the step was kept at the check before, and the best is still the old one."""
    values = [float(i) for i in range(23)]  # rises to 22: kept
    values += [0.001 * i for i in range(77)]  # far below the best, but always rising
    assert halved_at(scripted(values)[0]) == [41, 70, 87, 99]


def test_a_halving_goes_back_to_the_best_point_and_its_gradient() -> None:
    values = [0.0, 1.0, 5.0] + [0.5] * 97
    _, points = scripted(values)
    assert torch.equal(points[22], points[2])
    assert not torch.equal(points[21], points[2])


# --- against the paper's pseudo-code --------------------------------------------------------------------------------


@dataclass
class Seen:
    points: list[Tensor] = field(default_factory=list)
    sizes: list[Tensor] = field(default_factory=list)

    def estimator(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        self.points.append(variables[0].clone())
        return plain(problem, objective, variables, step)

    def rule(self, size: float = 2.0) -> APGDStep:
        seen = self

        class Recorded(APGDStep):
            def step(self, here: Position, state: State) -> tuple[Tensor, State]:
                moved, state = super().step(here, state)
                seen.sizes.append(state["size"].clone())
                return moved, state

        return Recorded(size)


def papers_apgd(
    f: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, eps: float, steps: int, euclidean: bool
) -> tuple[list[Tensor], list[float]]:
    """Croce and Hein 2020, algorithm 1, for one image (C, H, W): iterates x^(0..steps-1), and the step used at each.

    Written from the paper's text, image by image. The checkpoints ``p_j * steps`` are whole for multiples of 100 steps.
    """

    def project(u: Tensor) -> Tensor:
        delta = u - x
        if euclidean:
            norm = delta.pow(2).sum().sqrt()
            delta = delta * (eps / norm) if norm > eps else delta
        else:
            delta = delta.clamp(-eps, eps)
        return (x + delta).clamp(0, 1)

    def gradient(u: Tensor) -> tuple[float, Tensor]:
        u = u.clone().requires_grad_()
        value = f(u)
        return float(value.detach()), torch.autograd.grad(value, u)[0]

    def direction(g: Tensor) -> Tensor:
        return g / g.pow(2).sum().sqrt() if euclidean else g.sign()

    p = [0.0, 0.22]  # the paper's p_j, checkpoints at ceil(p_j * steps) up to rounding
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    checks = [round(v * steps) for v in p[1:] if v <= 1]

    eta = 2 * eps
    current, previous = start.clone(), start.clone()
    value, g = gradient(current)
    f_max, x_max, g_max = value, current.clone(), g
    rises, last_check, f_max_checked, reduced = 0, 0, f_max, True
    iterates, etas = [current], []
    for k in range(steps):
        etas.append(eta)
        z = project(current + eta * direction(g))
        new = z if k == 0 else project(current + 0.75 * (z - current) + 0.25 * (current - previous))
        previous, current = current, new
        old, (value, g) = value, gradient(current)
        iterates.append(current)
        rises += value > old
        if value > f_max:
            f_max, x_max, g_max = value, current.clone(), g
        if k + 1 in checks:
            first = rises <= 0.75 * (k + 1 - last_check)
            second = not reduced and f_max == f_max_checked
            reduced = first or second
            if reduced:
                eta, current, g = eta / 2, x_max.clone(), g_max
            rises, last_check, f_max_checked = 0, k + 1, f_max
    return iterates[:-1], etas


@pytest.mark.parametrize("steps", [100, 200])
@pytest.mark.parametrize(
    ("threat", "seed"), [(Linf(0.3, stored=False), 0), (L2(3.0, stored=False), 0), (L2(1.5, stored=False), 5)], ids=str
)
def test_iterates_and_step_sizes_are_those_of_the_pseudo_code(threat: NormBall, seed: int, steps: int) -> None:
    """A clip of T frames is, to the paper, an image of T * C channels."""
    channels, frames, height, width = SHAPE
    model = Smooth(seed=seed)
    clip, labels = clips(4, low=0, high=256, seed=seed), alternating(4)
    seen = Seen()
    climb = Ascent(Margin(), seen.estimator, seen.rule(), steps, random_start=True, early_stop=False, seed=1)
    climb(problem_for(model, clip, labels, threat))
    halvings = set()
    for row in range(4):

        def f(image: Tensor, row: int = row) -> Tensor:
            video = image.reshape(1, channels, frames, height, width)
            return model.value(Clip(video))[0] * (1 if labels[row] == 0 else -1)

        x = clip.video[row].reshape(-1, height, width)
        start = x + seen.points[0][row].reshape(x.shape)
        iterates, etas = papers_apgd(f, x, start, threat.eps, steps, isinstance(threat, L2))
        ours = [float(size[row]) * threat.eps for size in seen.sizes]
        assert ours == pytest.approx(etas, rel=1e-9)
        for step, iterate in enumerate(iterates):
            moved = (x + seen.points[step][row].reshape(x.shape) - iterate).abs().max()
            assert float(moved) < 1e-4, (row, step)  # rounding grows along the climb
        halvings.update(i for i in range(1, steps) if etas[i] < etas[i - 1])
    assert len(halvings) >= 2, "an objective on which no clip ever halves would test nothing"


# --- the attacks ---


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threat", [Linf(8 / 255), Linf(8 / 255, stored=False), L2(1.0, stored=False)], ids=str)
def test_linear_optimum(name: str, threat: NormBall) -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = ALL[name](threat, steps=40, early_stop=False)(model, clip, labels)
    gain = result.margin - model.value(clip).detach() * signs(labels, labels.double())
    weight = model.weight.detach()
    norm = float(weight.norm() if isinstance(threat, L2) else weight.abs().sum())
    assert gain.tolist() == pytest.approx([threat.eps * norm] * 3, rel=1e-3)
    assert (gain <= threat.eps * norm * 1.0001).all()


def test_on_a_linear_model_one_step_is_enough_in_linf() -> None:
    """The first step crosses the whole ball: from any start it ends in the optimal corner."""
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = APGDDLR(Linf(8 / 255, stored=False), steps=40, early_stop=False)(model, clip, labels)
    clean = model.value(clip).detach() * signs(labels, labels.double())
    optimum = clean + 8 / 255 * model.weight.abs().sum().detach()
    assert torch.allclose(result.loss_trace[:, 1].double(), optimum, rtol=1e-5)
    assert (result.loss_trace[:, 0] < result.loss_trace[:, 1]).all()


@pytest.mark.parametrize("name", ALL)
def test_the_l2_step_is_scaled_per_clip(name: str) -> None:
    """A neighbour with another gradient does not change a clip's step."""
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    attack = ALL[name](L2(1.0, stored=False), steps=30, early_stop=False)
    together = attack(Several(5), clip, labels)
    alone = attack(Several(5), clip.select([1]), labels[1:])
    assert torch.allclose(alone.clip.video[0], together.clip.video[1], atol=1e-4)
    assert torch.allclose(alone.loss_trace[0], together.loss_trace[1], rtol=1e-4)


@pytest.mark.parametrize(
    "threat",
    [L21(0.05), FlowField(1.0), Linf(8 / 255, parametrisation="frame_colour"), Joint((FlowField(0.5), Linf(4 / 255)))],
    ids=str,
)
def test_other_threat_models_gain_too(threat) -> None:
    clip, labels = clips(3), alternating(3)
    model = Smooth()
    result = APGDCE(threat, steps=30, early_stop=False)(model, clip, labels)
    assert (result.margin > model.value(clip).detach() * signs(labels, labels.double())).all()


def test_apgd_is_at_least_as_strong_as_pgd_with_as_many_steps() -> None:
    model = ConvNet(seed=4).double().eval()
    clip = clips(24, seed=9)
    labels = model(clip).argmax(1)
    eps = 6 / 255
    pgd = PGD(Linf(eps), steps=40)(model, clip, labels).success.sum()
    apgd = APGDCE(Linf(eps), steps=40)(model, clip, labels).success.sum()
    assert 0 < int(apgd) < 24
    assert int(apgd) >= int(pgd)


@pytest.mark.parametrize("name", ALL)
def test_restarts_never_help_the_defender(name: str) -> None:
    model = Smooth()
    clip, labels = clips(6, low=0, high=256), alternating(6)
    threat = Linf(0.3)
    results = [ALL[name](threat, steps=30, restarts=n, early_stop=False)(model, clip, labels) for n in (1, 3)]
    assert (results[1].margin >= results[0].margin).all()
    assert (results[1].margin > results[0].margin).any()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("early_stop", [True, False])
def test_passes_are_counted(name: str, early_stop: bool) -> None:
    inner = ConvNet(seed=4).double().eval()
    clip = clips(6, seed=9)
    labels = inner(clip).argmax(1)
    model = Watched(inner)
    result = ALL[name](Linf(4 / 255), steps=30, restarts=2, early_stop=early_stop)(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(i) for i in clip.ids]
    assert (result.backward_passes <= result.forward_passes).all()


def test_a_step_size_replaces_the_first_step() -> None:
    assert APGDCE(eps=4 / 255, step_size=1 / 255).update().size == pytest.approx(0.25)
    assert APGDCE(eps=4 / 255).update().size == 2.0
    assert APGDCE(rho=0.5).update().rho == 0.5


@pytest.mark.parametrize(
    "spec",
    [
        "apgd_ce(rho=0)",
        "apgd_ce(rho=1)",
        "apgd_dlr(eot=0)",
        "apgd_dlr(copies_per_pass=0)",
        "apgd_t(targets=0)",
        "apgd_t(steps=0)",
    ],
)
def test_values_out_of_range_are_refused(spec: str) -> None:
    with pytest.raises(InputError):
        load_attack(spec)


# --- objectives ---


def value_of(objective: Any, logits: Tensor, labels: Tensor, targeted: bool = False, **reference: Tensor) -> Tensor:
    problem = problem_for(Linear(weights()), clips(len(logits)), labels, Linf(8 / 255), targeted=targeted)
    return objective.value(logits, replace(problem, reference=reference))


def random_logits(batch: int, classes: int) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64) * 4


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_is_the_papers_formula(classes: int) -> None:
    logits, labels = random_logits(50, classes), torch.arange(50) % classes
    target = (labels + 1) % classes
    for row in range(50):
        z, y, t = logits[row].tolist(), int(labels[row]), int(target[row])
        ranked = sorted(z, reverse=True)
        wrong = max(v for j, v in enumerate(z) if j != y)
        at = slice(row, row + 1)
        expected = -(z[y] - wrong) / (ranked[0] - ranked[2])
        assert float(value_of(DLR(), logits[at], labels[at])) == pytest.approx(expected, rel=1e-9)
        if classes >= 4:
            expected = -(z[y] - z[t]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
            ours = value_of(TargetedDLR(), logits[at], labels[at], target=target[at])
            assert float(ours) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", [DLR(), TargetedDLR()], ids=["dlr", "targeted"])
@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_is_blind_to_the_logits_shift_and_scale(objective: Any, targeted: bool) -> None:
    logits, labels = random_logits(50, 6), torch.arange(50) % 6
    target = (labels + 2) % 6
    one = value_of(objective, logits, labels, targeted, target=target)
    for other in (3 * logits + 7, logits * 1e-4, logits * 1e6):
        assert torch.allclose(value_of(objective, other, labels, targeted, target=target), one, rtol=1e-9)


def test_dlr_of_a_correct_clip_is_between_minus_one_and_zero() -> None:
    logits = random_logits(200, 7)
    value = value_of(DLR(), logits, logits.argmax(1))
    assert (value <= 0).all()
    assert (value >= -1).all()
    assert (value_of(DLR(), logits, logits.argmin(1)) > 0).all()


def test_with_too_few_classes_the_ratio_is_the_margin() -> None:
    for classes, objective, margin in (
        (2, DLR(), Margin()),
        (2, TargetedDLR(), TargetMargin()),
        (3, TargetedDLR(), TargetMargin()),
    ):
        logits, labels = random_logits(20, classes), torch.arange(20) % classes
        target = (labels + 1) % classes
        ours = value_of(objective, logits, labels, target=target)
        assert torch.equal(ours, value_of(margin, logits, labels, target=target))


@pytest.mark.parametrize("objective", [DLR(), TargetedDLR()], ids=["dlr", "targeted"])
@pytest.mark.parametrize(
    "row", [[5.0, 5.0, 5.0, 5.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, 1e-9, 2e-9, 3e-9, -1.0]], ids=str
)
def test_ties_give_bounded_values_and_gradients(objective: Any, row: list[float]) -> None:
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    value = value_of(objective, logits, torch.tensor([0]), target=torch.tensor([1]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e7


@pytest.mark.parametrize("objective", [DLR(), TargetedDLR()], ids=["dlr", "targeted"])
def test_gradients_pass_the_denominator(objective: Any) -> None:
    logits, labels = random_logits(8, 6).requires_grad_(), torch.arange(8) % 6
    target = (labels + 1) % 6
    assert torch.autograd.gradcheck(lambda z: value_of(objective, z, labels, target=target), (logits,))


def test_a_saturated_softmax_masks_the_cross_entropy_but_not_the_ratio() -> None:
    clip = clips(4, dtype=torch.float32)
    model = Several(5, scale=500.0, dtype=torch.float32)
    labels = model(clip).argmax(1)
    threat = Linf(4 / 255)
    moderate = Several(5, dtype=torch.float32)
    assert APGDCE(threat, steps=30)(moderate, clip, labels).success.all()
    assert not APGDCE(threat, steps=30)(model, clip, labels).success.any()
    assert APGDDLR(threat, steps=30)(model, clip, labels).success.all()
    assert APGDT(threat, steps=30)(model, clip, labels).success.all()


def test_targets_are_the_likeliest_wrong_classes_of_the_clean_clips() -> None:
    model = Several(6).eval()
    clip = clips(5)
    logits = model(clip).detach()
    labels = torch.tensor([0, 1, 2, 3, 4])
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    ranked = likeliest_wrong(problem, 9)
    assert ranked.shape == (5, 5)
    for row in range(5):
        expected = [k for k in logits[row].argsort(descending=True).tolist() if k != int(labels[row])]
        assert ranked[row].tolist() == expected
    assert torch.equal(likeliest_wrong(problem, 2), ranked[:, :2])
    reference = TargetedDLR(1).reference(replace(problem, reference={TARGETS: ranked}))
    assert torch.equal(reference["target"], ranked[:, 1])


def test_only_the_right_target_breaks_a_clip_whose_runner_up_cannot_move() -> None:
    """Class 1 is the runner-up everywhere and out of reach; class 3 is only the third, and can be reached."""
    clip = clips(3)
    model = Several(5)
    model.weight.data[[0, 1, 2, 4]] = 0
    model.bias.data = torch.tensor([0.0, -1.0, -1.5, 0.0, -9.0], dtype=torch.float64)
    centre = model.weight.data[3].mul(clip.video[0]).sum()
    clip = Clip(clip.video[:1].expand(3, -1, -1, -1, -1).clone())
    model.bias.data[3] = -2.0 - centre
    labels = torch.zeros(3, dtype=torch.long)
    reach = 8 / 255 * float(model.weight.data[3].abs().sum())
    assert reach > 2.1
    assert APGDT(Linf(8 / 255), steps=30)(model, clip, labels).success.all()
    margin_only = Ascent(TargetMargin(0), plain, APGDStep(), 30)
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    ranked = likeliest_wrong(problem, 9)
    assert ranked[0].tolist() == [1, 2, 3, 4]
    assert not margin_only(replace(problem, reference={TARGETS: ranked})).success.any()
    last = Ascent(TargetMargin(2), plain, APGDStep(), 30)
    assert last(replace(problem, reference={TARGETS: ranked})).success.all()


@pytest.mark.parametrize("name", ALL)
def test_targeted_attacks_reach_the_label_they_are_given(name: str) -> None:
    clip = clips(4)
    model = Several(6)
    targets = model(clip).argsort(1)[:, 1]  # the second least likely class
    result = ALL[name](Linf(8 / 255), steps=40, targeted=True)(model, clip, targets)
    assert result.success.all()
    assert torch.equal(model(result.clip).argmax(1), targets)


# --- models that answer at random ---


class Noisy(Model):
    """A linear scalar plus another one with weights of its own for every clip and pass, much larger ones."""

    def __init__(self, inner: Linear, size: float):
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, clip: Clip) -> Tensor:
        jitter = torch.randn_like(clip.video) * self.size
        s = self.inner.value(clip) + ((clip.video - 0.5) * jitter).flatten(1).sum(1)
        return torch.stack([-s / 2, s / 2], dim=1)


def test_averaging_takes_the_noise_out_of_a_gradient() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    inner = Linear(weights())
    problem = problem_for(Noisy(inner, 5.0), clip, labels, Linf(8 / 255))
    zero = (torch.zeros_like(clip.video),)
    agreement = []
    for eot in (1, 200):
        estimate = APGDDLR(Linf(8 / 255), eot=eot, copies_per_pass=20).expectation()(problem, Margin(), zero, 0)
        assert estimate.forwards == estimate.backwards == eot
        right = estimate.gradients[0].sign() == inner.weight.detach().sign()
        agreement.append(float(right.double().mean()))
    assert agreement[0] < 0.75
    assert agreement[1] > 0.9


def test_passes_of_an_average_are_counted() -> None:
    clip, labels = clips(3), alternating(3)
    model = Watched(Smooth())
    result = APGDCE(Linf(2 / 255), steps=30, eot=4, early_stop=False)(model, clip, labels)
    assert result.backward_passes.tolist() == [120] * 3
    assert (result.forward_passes >= 121).all()


# --- against torchattacks, whose port is known to drift ---


class Frames2D(nn.Module):
    """The toy network as torchattacks sees it: frames folded into the channels of an image."""

    def __init__(self, inner: Model):
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        return self.inner(Clip(images.reshape(batch, 3, -1, height, width)))


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 3 / 255), ("Linf", 6 / 255), ("L2", 0.35)])
def test_robust_accuracy_agrees_with_torchattacks(norm: str, eps: float, loss: str) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model = ConvNet(seed=4).eval().requires_grad_(False)
    clip = clips(40, seed=9, dtype=torch.float32)
    labels = model(clip).argmax(1)
    images, network = clip.video.flatten(1, 2), Frames2D(model).eval()
    theirs = torchattacks.APGD(network, norm=norm, eps=eps, steps=50, loss=loss, seed=0)(images, labels)
    robust_theirs = float((network(theirs).argmax(1) == labels).double().mean())
    threat = Linf(eps, stored=False) if norm == "Linf" else L2(eps, stored=False)
    ours = {"ce": APGDCE, "dlr": APGDDLR}[loss](threat, steps=50)(model, clip, labels)
    robust_ours = 1 - float(ours.success.double().mean())
    assert robust_ours <= robust_theirs + 0.05
    assert abs(robust_ours - robust_theirs) <= 0.15
