"""A decision-based attack: it sees the model's class and nothing else (HopSkipJump)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks, judge
from robustvideo.attacks.masked import require_one_video_part
from robustvideo.attacks.queries import (
    VISIBLE,
    Space,
    ask,
    asks_on_grid,
    check_queries,
    check_space,
    directions,
)
from robustvideo.clip import per_clip
from robustvideo.distances import l2, linf
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.threat import L2, Linf, NormBall

_STARTS = 25
_COARSENESS = (1, 4, 16)
_HALVINGS = 15
_PROBE = 1e-3  # root mean square of the smallest probe off the grid: well above the tolerance
_TOLERANCE = 0.1 / 255  # largest difference, in any value, between two ends of a finished bisection


@attacks.register("boundary")
@dataclass(frozen=True)
class Boundary(Attack):
    """HopSkipJump: walk along the decision boundary, towards the clip, on decisions alone (Chen et al. 2020).

    From a misclassified start (noise), repeat for t = 1, 2, ...: (1) bisect between clip and point down to the
    boundary; (2) estimate the boundary's normal by ``n_t = min(100 sqrt(t), 10000)`` probes u,
    ``g = mean (phi - mean phi) u`` with phi = 1 for a misclassified probe, else -1; (3) step along g (L2) or its sign
    (Linf) by ``distance / sqrt(t)``, halved until the point is misclassified. It seeks the nearest misclassified clip;
    a clip is done at the first one within the budget (``early_stop=False``: it uses all queries, and the nearest
    counts). ``loss_trace`` is minus the distance of the nearest after each t.

    Decisions: norms, probes and steps are each clip's own (Foolbox normalises the direction over the batch). A
    bisection ends where its ends differ by less than 0.1/255 in every value, or at the paper's ``theta = d^-1.5`` (L2)
    or ``d^-2`` (Linf) if that is coarser: for a video theta is below what numbers can resolve. Probes of queries on the
    grid change values by 2/255 (root mean square) at least, others by 0.001. Starts: up to 25 pictures of uniform
    noise, fine and coarse in turn; a clip that none of them fools is reported as standing. Targets would need a clip
    of the target's class to start from, so ``targeted`` is refused.

    Attributes:
        queries: forward passes per clip, at most; the last confirms the result. Default 5000.
        space: where probes are drawn: "lowres" (default), "pixel", "frame" or "flicker"; see `NES`.
        query_grid: show the model only clips that a file could hold. Default: if the verdict is on stored clips.
    """

    queries: int = 5000
    space: Space = "lowres"
    query_grid: bool | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        check_queries(self, self.queries)
        check_space(self.space)
        require_one_video_part(self)
        if not isinstance(self.threat, Linf | L2) or self.threat.parametrisation != "dense":
            raise InputError("boundary needs a linf or l2 budget on every pixel.")
        if self.targeted:
            raise InputError("boundary cannot be targeted: it has no clip of the target's class to start from.")

    def solve(self, problem: Problem) -> AttackResult:
        walk = _Walk(self, replace(problem, seed=self.seed))
        walk.start()
        for t in range(1, walk.iterations + 1):
            rows = walk.under_way.nonzero()[:, 0]
            if len(rows) == 0:
                break
            walk.to_boundary(rows)
            walk.step(rows, t)
            walk.trace[rows, t - 1] = -walk.nearest[rows].to(walk.trace.dtype)
        return walk.result()


def noise(like: Tensor, coarseness: int, random: ClipRandom) -> Tensor:
    """Pictures of uniform noise in the shape of a video, constant on cubes of ``coarseness`` values a side."""
    size = like.shape[2:]
    coarse = like.new_empty(*like.shape[:2], *(math.ceil(n / coarseness) for n in size))
    return F.interpolate(random.uniform(coarse), size=size, mode="nearest")


def probes(t: int) -> int:
    """``n_t = min(100 sqrt(t), 10000)``: how many queries the estimate of iteration t takes."""
    return int(min(100 * math.sqrt(t), 10_000))


class _Walk:
    """Every clip's current point, its nearest misclassified one, and its queries.

    ``point`` is a misclassified change of the clip, of norm ``distance``; ``best`` the nearest one seen, as it was
    shown to the model, of norm ``nearest`` (infinite where there is none). ``found`` is the iteration in which a clip
    first succeeded, else -1, and ``kept`` its nearest success, as a file holds it.
    """

    def __init__(self, attack: Boundary, problem: Problem):
        video = problem.clip.video
        (part,) = problem.threat.parts
        assert isinstance(part, NormBall)
        self.attack, self.problem, self.part = attack, problem, part
        self.on_grid = asks_on_grid(problem.threat, attack.query_grid)
        # kept back: a query for the result, and off the grid one for a success that storing may undo
        self.limit = attack.queries - (1 if self.on_grid else 2)
        self.measure = linf if isinstance(part, Linf) else l2
        self.point, self.best = part.zeros(video), part.zeros(video)
        self.kept = video.clone()
        self.distance = video.new_full((len(video),), torch.inf)
        self.nearest = self.distance.clone()
        self.asked = torch.zeros(len(video), dtype=torch.long, device=video.device)
        self.found = torch.full_like(self.asked, -1)
        self.iterations = 1
        while sum(probes(t) for t in range(1, self.iterations + 1)) < attack.queries:
            self.iterations += 1
        self.trace = torch.full((len(video), self.iterations), torch.nan, device=video.device)
        self.round = 0

    @property
    def under_way(self) -> Tensor:
        """(B,) which clips have a misclassified point, can ask, and are not done."""
        going = self.distance.isfinite() & (self.asked < self.limit) & (self.nearest > 0)
        return going & (self.found < 0) if self.attack.early_stop else going

    def fools(self, rows: Tensor, change: Tensor) -> Tensor:
        """One query for each of ``rows``: is the clip under ``change`` misclassified? The nearest is remembered."""
        problem = self.problem.select(rows)
        verdict = ask(problem, (change,), self.on_grid, bounded=False)
        self.asked[rows] += 1
        shown = verdict.clip.video - problem.clip.video
        distance = self.measure(verdict.clip.video, problem.clip.video)
        nearer = verdict.success & (distance < self.nearest[rows])
        (eps,) = problem.eps
        inside = nearer & self.part.within_budget(problem.clip.video, verdict.clip.video, eps)
        stored = verdict.clip.video
        if not self.on_grid and bool(inside.any()):
            stored, confirmed = self._confirmed(problem, shown, inside, rows)
            nearer, inside = nearer & (confirmed | ~inside), confirmed
        self.nearest[rows[nearer]] = distance[nearer]
        self.best[rows[nearer]] = shown[nearer]
        self.kept[rows[inside]] = stored[inside]
        self.found[rows[inside & (self.found[rows] < 0)]] = self.round
        return verdict.success

    def start(self) -> None:
        """Try the clip itself, then pictures of noise, until one is misclassified."""
        video = self.problem.clip.video
        wrong = ask(self.problem, (self.point,), self.on_grid).success
        self.asked += 1
        self.found[wrong] = self.round
        self.nearest[wrong] = self.distance[wrong] = 0
        random = self.problem.random("start")
        for attempt in range(_STARTS):
            rows = (self.distance.isinf() & (self.asked < self.limit)).nonzero()[:, 0]
            if len(rows) == 0:
                return
            picture = noise(video, _COARSENESS[attempt % len(_COARSENESS)], random)
            change = self.in_box(rows, (picture - video)[rows])
            fooled = self.fools(rows, change)
            self.point[rows[fooled]] = change[fooled]
            self.distance[rows[fooled]] = self._norm(change)[fooled]

    def to_boundary(self, rows: Tensor) -> None:
        """Bisect between each clip and its point, and move the point to the misclassified side of the boundary."""
        far, high = self.point[rows], self.distance[rows].clone()
        low = torch.zeros_like(high)
        values = far[0].numel()
        theta = high / (values**2 if isinstance(self.part, Linf) else values**1.5)
        peak = far.flatten(1).abs().amax(1)
        tolerance = torch.maximum(theta, _TOLERANCE * high / peak.clamp_min(torch.finfo(peak.dtype).tiny))
        while True:
            middle = (low + high) / 2
            wide = (high - low > tolerance) & (middle > low) & (middle < high)
            index = (wide & self.under_way[rows]).nonzero()[:, 0]
            if len(index) == 0:
                break
            fooled = self.fools(rows[index], self.shrunk(rows[index], far[index], middle[index]))
            high[index] = torch.where(fooled, middle[index], high[index])
            low[index] = torch.where(fooled, low[index], middle[index])
        self.point[rows] = self.shrunk(rows, far, high)
        self.distance[rows] = self._norm(self.point[rows])

    def step(self, rows: Tensor, t: int) -> None:
        """Step along the estimated normal, by a length that keeps the point misclassified."""
        self.round = t
        normal = self._normal(rows, t)
        if isinstance(self.part, Linf):
            normal = normal.sign()
        length = self.distance[rows] / math.sqrt(t)
        index = torch.arange(len(rows), device=rows.device)
        for _ in range(_HALVINGS):
            index = index[self.under_way[rows[index]]]
            if len(index) == 0:
                return
            here = rows[index]
            change = self.in_box(here, self.point[here] + per_clip(length[index], normal) * normal[index])
            fooled = self.fools(here, change)
            self.point[here[fooled]] = change[fooled]
            self.distance[here[fooled]] = self._norm(change)[fooled]
            length /= 2
            index = index[~fooled]

    def in_box(self, rows: Tensor, change: Tensor) -> Tensor:
        """A change kept to box and support, whatever its norm."""
        return self.shrunk(rows, change, torch.full_like(self.distance[rows], torch.inf))

    def shrunk(self, rows: Tensor, change: Tensor, norm: Tensor) -> Tensor:
        """A change of at most a given norm (B,): scaled in L2, clipped in Linf."""
        (mask,) = self.problem.masks
        mask = None if mask is None else mask[rows]
        return self.part.project(self.problem.clip.video[rows], change, norm, mask)

    def result(self) -> AttackResult:
        """The nearest points: those within the budget as they were found, the others drawn back into it."""
        everyone = torch.arange(len(self.best), device=self.best.device)
        problem = self.problem
        stored = problem.threat.store(
            problem.clip, (self.shrunk(everyone, self.best, problem.eps[0]),), problem.masks, problem.eps
        )
        video = torch.where(per_clip(self.found >= 0, stored.video), self.kept, stored.video)
        verdict = judge(problem.model, replace(problem.clip, video=video), problem.labels)
        # drawing back may make a success of what was none: then the search had ended
        rounds = (~self.trace.isnan()).sum(1)
        first = torch.where(self.found < 0, rounds, self.found)
        return AttackResult(
            clip=verdict.clip,
            success=verdict.success,
            first_success_step=torch.where(verdict.success, first, -1),
            steps=rounds,
            loss_trace=self.trace,
            forward_passes=self.asked + 1,
            backward_passes=torch.zeros_like(self.asked),
            logits=verdict.logits,
            margin=verdict.margin,
        )

    def _normal(self, rows: Tensor, t: int) -> Tensor:
        """Unit normals of the boundary at the points of ``rows``."""
        point = self.point[rows]
        size = self._probe_size(rows, t)
        weighted, plain = torch.zeros_like(point), torch.zeros_like(point)
        decisions, counts = torch.zeros_like(size), torch.zeros_like(size)
        problem = self.problem.select(rows)
        (mask,) = problem.masks
        random = problem.random("probes", t)
        for _ in range(probes(t)):
            drawn = directions(point, self.attack.space, random)
            drawn = drawn if mask is None else drawn * mask
            index = self.under_way[rows].nonzero()[:, 0]
            if len(index) == 0:
                break
            unit = drawn[index] / per_clip(self._norm2(drawn[index]), drawn)
            change = self.in_box(rows[index], point[index] + per_clip(size[index], unit) * unit)
            moved = change - point[index]
            sign = torch.where(self.fools(rows[index], change), 1.0, -1.0).to(moved)
            weighted[index] += per_clip(sign, moved) * moved
            plain[index] += moved
            decisions[index] += sign
            counts[index] += 1
        mean = decisions / counts.clamp_min(1)
        mean = torch.where(mean.abs() == 1, 0, mean)  # all probes on one side: the paper keeps what they say
        normal = weighted - per_clip(mean, plain) * plain
        return normal / per_clip(self._norm2(normal), normal)

    def _probe_size(self, rows: Tensor, t: int) -> Tensor:
        """(B,) Euclidean length of the probes."""
        (mask,) = self.problem.masks
        values = self.point[0].numel()
        free = values if mask is None else mask[rows].expand_as(self.point[rows]).flatten(1).sum(1)
        root = torch.as_tensor(free, dtype=self.distance.dtype, device=rows.device).expand(len(rows)).sqrt()
        # the paper's sqrt(d) theta (L2) and d theta (Linf) are both 1 / d
        size = torch.full_like(root, 0.1) if t == 1 else self.distance[rows] / values
        return torch.maximum(size, (VISIBLE if self.on_grid else _PROBE) * root)

    def _confirmed(self, problem: Problem, change: Tensor, claimed: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Videos as stored, and which of those that claim to be within the budget are misclassified then, too."""
        index = claimed.nonzero()[:, 0]
        verdict = problem.select(index).verdict((change[index],))
        self.asked[rows[index]] += 1
        stored, confirmed = problem.clip.video.clone(), torch.zeros_like(claimed)
        stored[index], confirmed[index] = verdict.clip.video, verdict.success
        return stored, confirmed

    def _norm(self, change: Tensor) -> Tensor:
        return self.measure(change, torch.zeros_like(change))

    @staticmethod
    def _norm2(change: Tensor) -> Tensor:
        return l2(change, torch.zeros_like(change)).clamp_min(torch.finfo(change.dtype).tiny)
