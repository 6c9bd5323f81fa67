"""FAB: the fast adaptive boundary attack, which looks for the nearest misclassified clip, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks, judge
from robustvideo.attacks.dlr import TARGETS, TargetMargin, likeliest_wrong
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.search import conclude, in_turn
from robustvideo.clip import per_clip
from robustvideo.errors import InputError
from robustvideo.threat import L2, Linf

_LEAST_NORM = 1e-8


@dataclass(frozen=True, eq=False)
class NearestResult(AttackResult):
    """What FAB found.

    Attributes:
        nearest: (B,) smallest norm at which a clip was misclassified, before rounding to the storage grid;
            infinite where it never was. With ``early_stop`` a clip broken within its budget is brought no nearer:
            take ``early_stop=False`` for a curve of robust accuracy over budgets.
    """

    nearest: Tensor


@attacks.register("fab_t")
@dataclass(frozen=True)
class FABT(Attack):
    """Fast adaptive boundary attack towards each of the likeliest wrong classes in turn (Croce and Hein 2020).

    Per iteration the boundary to the target class t is replaced by the hyperplane of ``z_t - z_y`` and its gradient.
    The current and the clean clip are both projected onto it inside the box, by displacements d and d0, and
    ``x <- (1 - a) * (x + eta * d) + a * (x0 + eta * d0)``, ``a = min(|d| / (|d| + |d0|), alpha_max)``. A
    misclassified x is remembered if it is the nearest so far, and x goes back to ``x0 + beta * (x - x0)``.

    The first start is the clean clip, later ones are random points within half the budget. A clip counts as broken
    when what is stored within the budget is misclassified: the point found, or the same direction followed to the
    budget's edge. A clip whose gradient vanishes stays where it is. A targeted call has one target, its label.

    Attributes:
        steps: iterations per start. Default 100.
        restarts: starts per target. Default 1.
        targets: wrong classes tried per start, at most; there are K - 1. Default 9.
        alpha_max: largest pull back to the clean clip, in (0, 1). Default 0.1.
        eta: how far a projection goes, at least 1, in multiples of the way to the hyperplane. Default 1.05.
        beta: share of the perturbation kept after a success, in (0, 1). Default 0.9.

    Raises:
        InputError: a value out of its range, or a threat model other than a dense Linf or L2 ball.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not isinstance(self.threat, Linf | L2) or self.threat.parametrisation != "dense":
            raise InputError("fab_t measures how far values move: its threat model is a dense linf or l2 ball.")
        if min(self.steps, self.restarts, self.targets) < 1:
            raise InputError("fab_t needs at least one step, one start and one target.")
        if not (0 < self.alpha_max < 1 and 0 < self.beta < 1 and self.eta >= 1):
            raise InputError("fab_t needs alpha_max and beta in (0, 1), and eta of at least 1.")

    def solve(self, problem: Problem) -> NearestResult:
        count, device = len(problem.clip), problem.clip.device
        nearest = torch.full((count,), torch.inf, dtype=problem.eps[0].dtype, device=device)
        reference = {"row": torch.arange(count, device=device)}
        if not problem.targeted:
            reference[TARGETS] = likeliest_wrong(problem, self.targets)
        ranks = 1 if problem.targeted else reference[TARGETS].shape[1]

        def search(problem: Problem, restart: int, rank: int) -> AttackResult:
            result = self._run(problem, restart, rank)
            rows = problem.reference["row"]
            nearest[rows] = torch.minimum(nearest[rows], result.nearest)
            return result

        runs = (
            partial(search, restart=restart, rank=rank) for restart in range(self.restarts) for rank in range(ranks)
        )
        found = in_turn(replace(problem, reference=reference), runs, self.early_stop)
        found = replace(found, forward_passes=found.forward_passes + int(not problem.targeted))
        return _with_distance(found, nearest)

    def _run(self, problem: Problem, restart: int, rank: int) -> NearestResult:
        """One walk along one target's boundary."""
        objective = TargetMargin(rank)
        problem = replace(problem, reference=objective.reference(problem), seed=(self.seed, restart, rank))
        part, mask = problem.threat.parts[0], problem.masks[0]
        signal = problem.clip.signal(part.modality)
        start = part.zeros(signal)
        if restart:
            start = part.random_start(signal, problem.eps[0] / 2, mask, problem.random("start"))
        walk = _Walk(problem, start, self.steps)
        walk.arrive(start, 0)
        for step in range(self.steps):
            if self.early_stop:
                walk.leave()
            if len(walk.rows) == 0:
                break
            estimate = plain(walk.problem, objective, (walk.point,), step)
            walk.count(estimate.forwards, estimate.backwards)
            walk.trace[walk.rows, step] = estimate.objective.to(walk.trace.dtype)
            moved = self._towards_boundary(walk, estimate.gradients[0], estimate.objective)
            misclassified = walk.arrive(moved, step + 1)
            walk.point = torch.where(per_clip(misclassified, moved), self.beta * moved, moved)
        return walk.result()

    def _towards_boundary(self, walk: _Walk, weight: Tensor, value: Tensor) -> Tensor:
        """One step of ``walk``, to where the linear model ``value + <weight, .>`` changes sign."""
        part, problem, point = walk.part, walk.problem, walk.point
        signal, flat = problem.clip.signal(part.modality), weight.flatten(1)
        away = (flat * point.flatten(1)).sum(1) - value.to(flat.dtype)
        onto = partial(onto_hyperplane, box=part.box, euclidean=isinstance(part, L2))
        ahead = onto(signal + point, weight, -value.to(flat.dtype))
        fresh = onto(signal, weight, away)
        here, home = (_norm(part, d).clamp_min(_LEAST_NORM) for d in (ahead, fresh))
        pull = per_clip((here / (here + home)).clamp_max(self.alpha_max), point)
        moved = (1 - pull) * (point + self.eta * ahead) + pull * self.eta * fresh
        boundless = torch.full_like(problem.eps[0], torch.inf)
        moved = part.project(signal, moved, boundless, problem.masks[0])
        return torch.where(per_clip(flat.any(1), point), moved, point)


class _Walk:
    """The state of one run: the clips under way, and what is known of every clip.

    Attributes:
        problem, rows, point: the clips under way, their places in the batch, and where they are.
        trace: (B, steps) margin of the target.
    """

    def __init__(self, problem: Problem, start: Tensor, steps: int):
        count, device, kind = len(start), start.device, start.dtype
        self._all = problem
        self.part = problem.threat.parts[0]
        self.problem = problem
        self.rows = torch.arange(count, device=device)
        self.point = start
        self.trace = torch.full((count, steps), torch.nan, device=device)
        self._last = start.clone()
        self._nearest = start.clone()
        self._distance = torch.full((count,), torch.inf, dtype=kind, device=device)
        self._kept = start.clone()
        self._margin = torch.full((count,), -torch.inf, dtype=kind, device=device)
        self._first = torch.full((count,), -1, device=device)
        self._passes = torch.zeros(2, count, dtype=torch.long, device=device)

    def count(self, forwards: int, backwards: int, rows: Tensor | None = None) -> None:
        chosen = self.rows if rows is None else rows
        self._passes[0, chosen] += forwards
        self._passes[1, chosen] += backwards

    def leave(self) -> None:
        """Clips that are broken go."""
        staying = (self._first[self.rows] < 0).nonzero()[:, 0]
        if len(staying) < len(self.rows):
            self.problem, self.rows, self.point = self.problem.select(staying), self.rows[staying], self.point[staying]

    def arrive(self, point: Tensor, step: int) -> Tensor:
        """Look at new points and remember the nearest misclassified ones; returns (n,) which are misclassified."""
        problem, rows = self.problem, self.rows
        perturbed = problem.threat.perturb(problem.clip, (point,), problem.masks)
        misclassified = judge(problem.model, perturbed, problem.labels, problem.targeted).success
        self.count(1, 0)
        distance = _norm(self.part, point)
        nearer = misclassified & (distance < self._distance[rows])
        self._last[rows] = point
        self._nearest[rows[nearer]] = point[nearer]
        self._distance[rows[nearer]] = distance[nearer]
        due = (nearer & (distance <= problem.eps[0])).nonzero()[:, 0]
        for candidate in (point, self._at_the_edge(problem, point)):
            if len(due) == 0:
                break
            broken = self._try(problem.select(due), candidate[due], rows[due], step)
            due = due[~broken]
        return misclassified

    def _try(self, problem: Problem, point: Tensor, rows: Tensor, step: int) -> Tensor:
        """Which of the points are misclassified as stored; the one of largest margin is kept per clip."""
        verdict = problem.verdict((point,))
        self.count(1, 0, rows)
        margin = verdict.margin.to(self._margin.dtype)
        better = verdict.success & (margin > self._margin[rows])
        self._margin[rows[better]] = margin[better]
        self._kept[rows[better]] = point[better]
        new = rows[verdict.success & (self._first[rows] < 0)]
        self._first[new] = step
        return verdict.success

    def _at_the_edge(self, problem: Problem, point: Tensor) -> Tensor:
        """The points, followed or brought back to the edge of the budget."""
        eps = problem.eps[0]
        stretch = (eps / _norm(self.part, point).clamp_min(_LEAST_NORM)).clamp_min(1)
        signal = problem.clip.signal(self.part.modality)
        return self.part.project(signal, point * per_clip(stretch, point), eps, problem.masks[0])

    def result(self) -> NearestResult:
        """The kept points; of clips that stand, the nearest or else the last point inside the budget."""
        broken = self._first >= 0
        closest = torch.where(per_clip(self._distance.isfinite(), self._last), self._nearest, self._last)
        closest = self._at_the_edge(self._all, closest)
        found = conclude(
            self._all,
            (torch.where(per_clip(broken, closest), self._kept, closest),),
            first_success_step=torch.where(broken, self._first, self.trace.shape[1]),
            loss_trace=self.trace,
            forward_passes=self._passes[0],
            backward_passes=self._passes[1],
        )
        return _with_distance(found, self._distance)


def onto_hyperplane(point: Tensor, weight: Tensor, gap: Tensor, box: tuple[float, float], euclidean: bool) -> Tensor:
    """The smallest displacement d with ``<weight, d> = gap`` that keeps ``point + d`` inside the box.

    Where the box does not reach the hyperplane, d goes to the box's nearest corner; a zero weight gives zero. Both
    norms have the solution ``d_i = sign(gap * w_i) * min(t * v_i, room_i)``, with ``v_i = 1`` in Linf and
    ``v_i = |w_i|`` in L2. ``<weight, d>`` is concave and piecewise linear in t, so Newton's method from t = 0 rises
    to the solution without passing it, and ends there exactly, in a few passes over the clip. (The authors sort all
    values instead; the result is the same.)

    Args:
        point: (B, ...) inside the box.
        weight: (B, ...) normal of the hyperplane.
        gap: (B,).
        box: least and greatest value.
        euclidean: the smallest in L2; otherwise in Linf.
    """
    flat, here = weight.flatten(1), point.flatten(1)
    scale = flat.abs().amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # squares of tiny gradients must not underflow
    flat, wanted = flat / scale, gap[:, None] / scale
    direction = flat.sign() * wanted.sign()
    room = torch.where(direction > 0, box[1] - here, here - box[0]).clamp_min(0)
    size, wanted = flat.abs(), wanted.abs()
    speed = size if euclidean else torch.ones_like(size)
    rate, full = size * speed, size * room
    meets = torch.where(rate > 0, room / speed, 0.0)  # the t at which a value is at the box
    time = torch.zeros_like(wanted)
    closed = meets <= time
    while True:
        gained = torch.where(closed, full, 0.0).sum(1, keepdim=True)
        slope = torch.where(closed, 0.0, rate).sum(1, keepdim=True)
        time = torch.maximum(time, (wanted - gained) / slope.clamp_min(torch.finfo(slope.dtype).tiny))
        met = meets <= time
        if torch.equal(met, closed):
            break
        closed = met
    return (direction * torch.where(closed, room, time * speed)).view_as(point)


def _with_distance(result: AttackResult, nearest: Tensor) -> NearestResult:
    return NearestResult(**{f.name: getattr(result, f.name) for f in fields(AttackResult)}, nearest=nearest)


def _norm(part: object, variable: Tensor) -> Tensor:
    """(B,) norm of a perturbation, in the part's own norm."""
    flat = variable.flatten(1)
    return flat.abs().amax(1) if isinstance(part, Linf) else flat.norm(dim=1)
