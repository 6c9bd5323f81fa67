"""Square: random search with boxes of pixels. It needs no gradient, so a masked gradient does not stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks
from robustvideo.attacks.search import conclude
from robustvideo.clip import per_clip
from robustvideo.errors import InputError
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
            raise InputError("square changes boxes of pixels: its threat model is a dense linf or l2 ball of the video.")
        if self.queries < 2:
            raise InputError(f"square needs at least two queries, got queries={self.queries}.")
        if not 0 < self.p_init <= 1:
            raise InputError(f"p_init is a share of the clip in (0, 1], got p_init={self.p_init:g}.")
        if self.extent not in ("cube", "tube", "frame"):
            raise InputError(f"extent is cube, tube or frame, got {self.extent!r}.")
        if self.init not in ("stripes", "stripes_per_frame"):
            raise InputError(f"init is stripes or stripes_per_frame, got {self.init!r}.")

    def solve(self, problem: Problem) -> AttackResult:
        hunt = _Hunt(replace(problem, seed=self.seed), self.queries - 1)
        euclidean = isinstance(problem.threat.parts[0], L2)
        start, propose = (self._bumps, self._moved_mass) if euclidean else (self._stripes, self._set_box)
        for query in range(self.queries - 1):
            hunt.ask(propose(hunt, query) if query else start(hunt), query)
            if self.early_stop:
                hunt.leave()
            if len(hunt.rows) == 0:
                break
        return hunt.result()

    def _share(self, query: int) -> float:
        return changed_share(query, self.p_init, self.queries if self.rescale else _NOMINAL)

    def _stripes(self, hunt: _Hunt) -> Tensor:
        channels, frames, _, columns = hunt.delta.shape[1:]
        shape = (channels, frames if self.init == "stripes_per_frame" else 1, 1, columns)
        return hunt.project((hunt.reach * _signs(hunt.random, shape, hunt.delta)).expand_as(hunt.delta))

    def _set_box(self, hunt: _Hunt, query: int) -> Tensor:
        frames, side = box_extent(self._share(query), hunt.shape, self.extent)
        rows, columns = (min(max(round(side), 1), most) for most in hunt.shape[1:])
        box = inside(hunt.corners((frames, rows, columns)), (frames, rows, columns), hunt.shape)

        def candidate(signs: Tensor) -> Tensor:
            return hunt.project(torch.where(box, hunt.reach * signs, hunt.delta))

        def unchanged(signs: Tensor) -> Tensor:
            return ~(candidate(signs) != hunt.delta).flatten(1).any(1)

        channels = hunt.delta.shape[1]
        return candidate(_drawn(hunt.random, lambda r: _signs(r, (channels, 1, 1, 1), hunt.delta), unchanged))

    def _bumps(self, hunt: _Hunt) -> Tensor:
        channels, frames, height, width = hunt.delta.shape[1:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        pattern = _turned(bump(side).to(hunt.delta), hunt.random, (down, across))
        signs = _signs(hunt.random, (channels, frames, down, across, 1, 1), hunt.delta)
        tiles = (pattern[:, None, None] * signs).transpose(5, 6).flatten(5, 6).flatten(3, 4)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        margins = (left, width - across * side - left, top, height - down * side - top)
        return hunt.project(hunt.filled(F.pad(tiles, margins)))

    def _moved_mass(self, hunt: _Hunt, query: int) -> Tensor:
        frames, side = box_extent(self._share(query), hunt.shape, self.extent)
        ...
