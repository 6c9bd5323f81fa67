"""Square: random search with boxes of pixels. It needs no gradient, so a masked gradient does not stop it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks
from robustvideo.attacks.search import conclude
from robustvideo.clip import per_clip
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import ClipRandom
from robustvideo.threat import L2, Linf

Extent = Literal["cube", "tube", "frame"]
Init = Literal["stripes", "stripes_per_frame"]
BoxSize = tuple[int, int, int]
"""Frames, rows and columns of a box."""

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_NOMINAL = 10_000
_REDRAWS = 10


@attacks.register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Random search with space-time boxes, no gradient (Andriushchenko et al. 2020, generalised to video).

    Linf: the clip starts under vertical stripes of plus and minus eps, constant in time. Each query sets a random box
    to plus or minus eps, one sign per channel, and keeps the change where the margin grows or the clip breaks. L2:
    the clip starts under a tiling of bumps; each query moves the mass of one box, slice by slice, into another box
    of the same frames. Every clip has its own boxes and signs; the size of the boxes follows one schedule.

    Every query is a verdict on what a file would store, so a clip that has succeeded once has succeeded.

    Attributes:
        queries: forward passes per clip, at most; the last confirms the result. Default 5000.
        p_init: share of the values that the first boxes cover, in (0, 1]; it halves on a schedule. Default 0.8.
        extent: "cube" shrinks boxes in time as in space (the default), "tube" keeps them over all frames, "frame"
            changes one frame at a time.
        init: "stripes" over the whole clip (the default), or drawn anew for each frame (Linf only).
        rescale: squeeze the schedule, made for 10000 queries, into ``queries``. Off by default, as in AutoAttack.

    Raises:
        InputError: a value out of its range, or a threat model other than a dense Linf or L2 ball of the video.
    """

    queries: int = 5000
    p_init: float = 0.8
    extent: Extent = "cube"
    init: Init = "stripes"
    rescale: bool = False

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        threat = self.threat
        if not isinstance(threat, Linf | L2) or threat.modality != "video" or threat.parametrisation != "dense":
            raise InputError(
                "square changes boxes of pixels: its threat model is a dense linf or l2 ball of the video."
            )
        if self.queries < 2:
            raise InputError(f"square needs at least two queries, got queries={self.queries}.")
        if not 0 < self.p_init <= 1:
            raise InputError(f"p_init is a share of the clip in (0, 1], got p_init={self.p_init:g}.")
        if self.extent not in get_args(Extent):
            raise unknown("extent of square", self.extent, get_args(Extent))
        if self.init not in get_args(Init):
            raise unknown("init of square", self.init, get_args(Init))

    def solve(self, problem: Problem) -> AttackResult:
        hunt = _Hunt(replace(problem, seed=self.seed), self.queries - 1)
        euclidean = isinstance(problem.threat.parts[0], L2)
        start, propose = (_bumps, self._moved_mass) if euclidean else (self._stripes, self._set_box)
        for query in range(self.queries - 1):
            hunt.ask(propose(hunt, query) if query else start(hunt), query)
            if self.early_stop:
                hunt.leave()
            if len(hunt.rows) == 0:
                break
        return hunt.result()

    def _extent(self, hunt: _Hunt, query: int) -> tuple[int, float]:
        share = changed_share(query, self.p_init, self.queries if self.rescale else _NOMINAL)
        return box_extent(share, hunt.shape, self.extent)

    def _stripes(self, hunt: _Hunt) -> Tensor:
        """Vertical stripes of plus and minus eps."""
        channels, frames, _, columns = hunt.delta.shape[1:]
        shape = (channels, frames if self.init == "stripes_per_frame" else 1, 1, columns)
        return hunt.project((hunt.eps * _signs(hunt.random, shape, hunt.delta)).expand_as(hunt.delta))

    def _set_box(self, hunt: _Hunt, query: int) -> Tensor:
        """Each clip with one box set to plus or minus eps, by channel (Linf)."""
        frames, side = self._extent(hunt, query)
        rows, columns = (min(max(round(side), 1), most) for most in hunt.shape[1:])
        size = (frames, rows, columns)
        box = inside(hunt.corners(size), size, hunt.shape)

        def candidate(signs: Tensor) -> Tensor:
            return hunt.project(torch.where(box, hunt.eps * signs, hunt.delta))

        def draw(random: ClipRandom) -> Tensor:
            return _signs(random, (hunt.delta.shape[1], 1, 1, 1), hunt.delta)

        return candidate(_drawn(hunt.random, draw, lambda s: (candidate(s) == hunt.delta).flatten(1).all(1)))

    def _moved_mass(self, hunt: _Hunt, query: int) -> Tensor:
        """Each clip with the mass of one box moved into another box of the same frames (L2)."""
        frames, wanted = self._extent(hunt, query)
        side = odd_side(wanted, min(hunt.shape[1:]))
        size = (frames, side, side)
        first = hunt.corners(size)
        second = torch.cat([first[:, :1], hunt.corners(size)[:, 1:]], dim=1)
        pattern = _turned(bump(side).to(hunt.delta), hunt.random, (1, 1))
        signs = _signs(hunt.random, (hunt.delta.shape[1], 1 if self.extent == "tube" else frames, 1, 1), hunt.delta)
        moved = move_mass(hunt.delta, first, second, size, pattern * signs, hunt.eps, hunt.problem.masks[0])
        return hunt.project(_filled(moved, hunt))


class _Hunt:
    """The state of a search: the clips under way, and what is known of every clip.

    Attributes:
        problem, rows, random, delta: the clips under way, their places in the batch, their random streams, and the
            best perturbation of each so far.
    """

    def __init__(self, problem: Problem, queries: int):
        count, device = len(problem.clip), problem.clip.device
        self._all = problem
        self.problem = problem
        self.rows = torch.arange(count, device=device)
        self.random = problem.random("square")
        self.delta = problem.threat.parts[0].zeros(problem.clip.video)
        self._margin = torch.full((count,), -torch.inf, dtype=self.delta.dtype, device=device)
        self._left = self.delta.clone()
        self._first = torch.full((count,), -1, device=device)
        self._queries = torch.zeros(count, dtype=torch.long, device=device)
        self._trace = torch.full((count, queries), torch.nan, device=device)

    @property
    def shape(self) -> BoxSize:
        """Frames, rows and columns of a clip."""
        frames, rows, columns = self.delta.shape[2:]
        return frames, rows, columns

    @property
    def eps(self) -> Tensor:
        """The clips' budgets, shaped to broadcast over them."""
        return per_clip(self.problem.eps[0], self.delta)

    def project(self, delta: Tensor) -> Tensor:
        """Perturbations moved into budget, box and support."""
        problem = self.problem
        return problem.threat.parts[0].project(problem.clip.video, delta, problem.eps[0], problem.masks[0])

    def corners(self, size: BoxSize) -> Tensor:
        """(n, 3) least frame, row and column of a box per clip, uniform over all places; it meets the support."""
        mask = self.problem.masks[0]

        def draw(random: ClipRandom) -> Tensor:
            ends = (random.integers(0, most - length + 1) for most, length in zip(self.shape, size, strict=True))
            return torch.cat(list(ends), dim=1).to(self.delta.device)

        def misses(corners: Tensor) -> Tensor:
            if mask is None:
                return torch.zeros(len(corners), dtype=torch.bool, device=corners.device)
            return ~(inside(corners, size, self.shape) & (mask > 0)).flatten(1).any(1)

        return _drawn(self.random, draw, misses)

    def ask(self, candidate: Tensor, query: int) -> None:
        """One query per clip; a change is kept where the margin grows or the clip breaks."""
        verdict = self.problem.verdict((candidate,))
        margin = verdict.margin.to(self._margin.dtype)
        broken = verdict.success & (self._first[self.rows] < 0)
        kept = broken | (margin > self._margin[self.rows])
        self.delta = torch.where(per_clip(kept, candidate), candidate, self.delta)
        self._margin[self.rows[kept]] = margin[kept]
        self._first[self.rows[broken]] = query
        self._queries[self.rows] += 1
        self._trace[self.rows, query] = self._margin[self.rows].to(self._trace.dtype)

    def leave(self) -> None:
        """Clips that are broken go."""
        staying = (self._first[self.rows] < 0).nonzero()[:, 0]
        if len(staying) < len(self.rows):
            self._left[self.rows] = self.delta
            self.problem, self.random = self.problem.select(staying), self.random.select(staying.tolist())
            self.rows, self.delta = self.rows[staying], self.delta[staying]

    def result(self) -> AttackResult:
        """The best perturbation of every clip, with its verdict."""
        self._left[self.rows] = self.delta
        return conclude(
            self._all,
            (self._left,),
            first_success_step=self._first,
            loss_trace=self._trace,
            forward_passes=self._queries,
            backward_passes=torch.zeros_like(self._queries),
        )


def changed_share(query: int, p_init: float, horizon: int) -> float:
    """The share of a clip's values that query number ``query`` changes: halved after 10, 50, 200, 500, 1000, ...

    Args:
        query: from 0, the start.
        p_init: the first share.
        horizon: the number of queries that the schedule is stretched to; 10000 leaves it as published.
    """
    at = query * _NOMINAL // horizon
    return p_init / (1 << sum(at > halving for halving in _HALVINGS))


def box_extent(share: float, shape: BoxSize, extent: Extent) -> tuple[int, float]:
    """Frames and (real) side of a box that holds ``share`` of a clip of ``shape`` (frames, rows, columns).

    A cube shrinks by the cube root of the share in time, and its side makes up the volume. For one frame this is the
    rule of the 2-D attack: ``side = sqrt(share * rows * columns)``.
    """
    frames, rows, columns = shape
    covered = {
        "cube": min(max(round(frames * share ** (1 / 3)), 1), frames),
        "tube": frames,
        "frame": 1,
    }[extent]
    return covered, (share * frames * rows * columns / covered) ** 0.5


def odd_side(side: float, most: int) -> int:
    """The odd side, at least 3 where there is room, nearest above ``side`` rounded."""
    return min(max(round(side), 3) | 1, most - 1 + most % 2)


def inside(corners: Tensor, size: BoxSize, shape: BoxSize) -> Tensor:
    """(B, 1, T, H, W) bool: the box of ``size`` at each clip's corner."""
    axes = []
    for axis, (length, most) in enumerate(zip(size, shape, strict=True)):
        offset = torch.arange(most, device=corners.device) - corners[:, axis, None]
        axes.append((offset >= 0) & (offset < length))
    frames, rows, columns = axes
    return frames[:, None, :, None, None] & rows[:, None, None, :, None] & columns[:, None, None, None, :]


@cache
def bump(side: int) -> Tensor:
    """The L2 attack's (side, side) pattern of norm 1: two half pyramids of ``sum 1 / r^2``, of opposite signs."""
    pattern = torch.cat([_pyramid(side // 2, side), -_pyramid(side - side // 2, side)])
    return _unit(pattern, (0, 1))


def move_mass(
    delta: Tensor, first: Tensor, second: Tensor, size: BoxSize, pattern: Tensor, eps: Tensor, mask: Tensor | None
) -> Tensor:
    """Empty two boxes of each clip, and fill the first with the mass of both and with the budget that is left.

    Per channel c and frame t of the boxes the new content is ``pattern + old / |old|`` of the first box, scaled to
    the norm ``sqrt(m_ct + q)``: m_ct is the squared norm of the slice over both boxes, and
    ``q = (eps^2 - |delta|^2) / (C * frames)`` its part of what is left. Mass never moves between channels or frames,
    and the norm of the whole becomes eps (without a mask; a slice whose place in the first box is masked loses it).

    Args:
        delta: (B, C, T, H, W) of norm at most eps.
        first, second: (B, 3) corners of the boxes, both in the same frames.
        size: frames, rows and columns of the boxes.
        pattern: what to add, of norm 1 per slice, broadcastable to (B, C, *size).
        eps: (B, 1, 1, 1, 1) budgets.
        mask: where changes are allowed.
    """
    channels = delta.shape[1]
    target, source = (_window(corners, size, channels) for corners in (first, second))
    left = (eps.square() - _norm(delta, (1, 2, 3, 4)).square()).clamp_min(0) / (channels * size[0])
    moved = delta.clone()
    old = moved[target]
    mass = _norm(old, (3, 4)).square()
    moved[target] = 0
    mass = mass + _norm(moved[source], (3, 4)).square()
    moved[source] = 0
    content = pattern + _unit(old, (3, 4))
    if mask is not None:
        content = content * mask.expand_as(delta)[target]
    moved[target] = _unit(content, (3, 4)) * (mass + left).sqrt()
    return moved


def _bumps(hunt: _Hunt) -> Tensor:
    """The L2 start: every frame tiled with bumps of a fifth of its shorter side, signs and directions at random."""
    channels, frames, height, width = hunt.delta.shape[1:]
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    pattern = _turned(bump(side).to(hunt.delta), hunt.random, (down, across))
    signs = _signs(hunt.random, (channels, frames, down, across, 1, 1), hunt.delta)
    tiles = (pattern[:, None, None] * signs).transpose(4, 5).flatten(5, 6).flatten(3, 4)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    tiles = F.pad(tiles, (left, width - across * side - left, top, height - down * side - top))
    return hunt.project(_filled(tiles, hunt))


def _filled(delta: Tensor, hunt: _Hunt) -> Tensor:
    """A perturbation scaled to the whole L2 budget, inside the support."""
    mask = hunt.problem.masks[0]
    return _unit(delta if mask is None else delta * mask, (1, 2, 3, 4)) * hunt.eps


def _pyramid(rows: int, columns: int) -> Tensor:
    """(rows, columns) of norm 1: centred boxes of side 1, 3, 5, ... added up, the r-th with weight ``1 / r^2``."""
    pattern = torch.zeros(rows, columns, dtype=torch.float64)
    row, column = rows // 2, columns // 2
    for ring in range(max(rows, columns) // 2 + 1):
        low, left = max(row - ring, 0), max(column - ring, 0)
        pattern[low : row + ring + 1, left : column + ring + 1] += 1 / (ring + 1) ** 2
    return _unit(pattern, (0, 1))


def _turned(pattern: Tensor, random: ClipRandom, shape: tuple[int, int]) -> Tensor:
    """(B, *shape, side, side): copies of a pattern, each transposed with probability one half."""
    turn = random.integers(0, 2, shape[0] * shape[1]).view(-1, *shape, 1, 1).to(pattern.device)
    return torch.where(turn > 0, pattern.T, pattern)


def _window(corners: Tensor, size: BoxSize, channels: int) -> tuple[Tensor, ...]:
    """The index that reads or writes a (B, C, *size) box at each clip's corner of a (B, C, T, H, W) tensor."""
    device = corners.device
    clips = torch.arange(len(corners), device=device).view(-1, 1, 1, 1, 1)
    colours = torch.arange(channels, device=device).view(1, -1, 1, 1, 1)
    at = (corners[:, axis, None] + torch.arange(length, device=device) for axis, length in enumerate(size))
    frames, rows, columns = at
    return clips, colours, frames[:, None, :, None, None], rows[:, None, None, :, None], columns[:, None, None, None, :]


def _signs(random: ClipRandom, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """(B, *shape) of plus and minus one, equally likely."""
    return random.integers(0, 2, math.prod(shape)).view(-1, *shape).to(like) * 2 - 1


def _drawn(random: ClipRandom, draw: Callable[[ClipRandom], Tensor], useless: Callable[[Tensor], Tensor]) -> Tensor:
    """A draw per clip, repeated up to ten times for the clips (B,) to which it is useless."""
    drawn = draw(random)
    for _ in range(_REDRAWS):
        again = useless(drawn).nonzero()[:, 0]
        if len(again) == 0:
            break
        drawn[again] = draw(random.select(again.tolist()))
    return drawn


def _norm(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=axes, keepdim=True)
    return norm


def _unit(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Values over their norm; zeros stay zero."""
    return values / _norm(values, axes).clamp_min(torch.finfo(values.dtype).tiny)
