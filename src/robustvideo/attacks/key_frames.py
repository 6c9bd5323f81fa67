"""Key frames: which k frames of each clip to attack.

A selector asks a `FrameSearch` what a short attack on some frames would leave of the loss, for many clips at once, and
chooses the frames with the least. All draws come from the clips' own streams, and no clip sees another's losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.frame_saliency import saliency
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.registry import Registry, allow_nested
from robustvideo.threat import Linf

Probe = Callable[[Tensor, Tensor], Tensor]
Promise = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class FrameSearch:
    """The clips whose key frames are wanted.

    Attributes:
        problem: the clips, whole.
        places: (B, A) numbers of the frames that may be chosen, rising. What is chosen and probed are positions in
            this list, from 0 to A - 1.
        k: how many to choose; fewer than A.
        probe: losses (N,) after a short attack on the frames at positions (N, k) of the clips at rows (N,), N of any
            size; the lower, the better for the attacker. Never NaN.
        random: one stream per clip.
        climb: the attack's own ascent, for a selector that makes steps of its own.
        forecast: by how much the first step on each frame lowers the loss, to first order, (B, A); and the loss (B,) of
            the clean clips. One forward and one backward pass through the whole clips.
    """

    problem: Problem
    places: Tensor
    k: int
    probe: Probe
    random: ClipRandom
    climb: Ascent
    forecast: Promise

    @property
    def frames(self) -> int:
        """How many frames there are to choose from."""
        return self.places.shape[1]

    @property
    def rows(self) -> Tensor:
        """(B,) all clips."""
        return torch.arange(len(self.problem.clip), device=self.problem.clip.device)

    def alike(self, frames: list[int] | tuple[int, ...]) -> Tensor:
        """(B, k) the same frames for every clip."""
        return torch.tensor(frames, device=self.problem.clip.device).expand(len(self.problem.clip), -1)

    def drawn(self, count: int = 1) -> Tensor:
        """(B, count, k) random choices, each rising."""
        draw = self.random.uniform(torch.empty(len(self.problem.clip), count, self.frames))
        chosen = draw.argsort(2)[:, :, : self.k].sort(2).values
        return chosen.to(self.problem.clip.device)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a selector chose.

    Attributes:
        frames: (B, k) positions among the frames that may be chosen, rising.
        tried: (B, n, k) choices that were probed, in order; -1 where a clip was not asked about any more.
        losses: (B, n) theirs; NaN likewise.
        forwards, backwards: passes per clip besides those of the probes.
    """

    frames: Tensor
    tried: Tensor
    losses: Tensor
    forwards: int = 0
    backwards: int = 0


class Trials:
    """The probes of a search, and the best of them."""

    def __init__(self, search: FrameSearch):
        self._search = search
        self._tried: list[Tensor] = []
        self._losses: list[Tensor] = []

    def ask(self, frames: Tensor, rows: Tensor | None = None) -> Tensor:
        """Losses (N, m) of m choices (N, m, k) of each of some clips (default: all); they are remembered."""
        rows = self._search.rows if rows is None else rows
        count, batch = frames.shape[1], len(self._search.problem.clip)
        losses = self._search.probe(rows.repeat_interleave(count), frames.flatten(0, 1)).view(len(rows), count)
        tried = frames.new_full((batch, count, frames.shape[2]), -1)
        known = torch.full((batch, count), math.nan, dtype=losses.dtype, device=losses.device)
        self._tried.append(tried.index_copy(0, rows, frames))
        self._losses.append(known.index_copy(0, rows, losses))
        return losses

    @property
    def tried(self) -> Tensor:
        """See `Choice`."""
        return torch.cat(self._tried, dim=1)

    @property
    def losses(self) -> Tensor:
        """See `Choice`."""
        return torch.cat(self._losses, dim=1)

    def best(self) -> Choice:
        """The frames with the lowest loss; of several, those tried first."""
        tried, losses = self.tried, self.losses
        first = losses.nan_to_num(nan=math.inf).argmin(1)
        return Choice(tried[torch.arange(len(tried), device=tried.device), first], tried, losses)


@dataclass(frozen=True)
class Selector(ABC):
    """A way to choose key frames."""

    @abstractmethod
    def choose(self, search: FrameSearch) -> Choice:
        """The key frames of every clip."""


selectors: Registry[Selector] = Registry("choice of frames", "selectors", "robustvideo.attacks")
allow_nested(Selector, selectors)


def unprobed(search: FrameSearch, frames: Tensor, forwards: int = 0, backwards: int = 0) -> Choice:
    """Frames (B, k) that were chosen without a probe."""
    nothing = search.problem.clip.video.new_empty(len(frames), 0)
    ordered = frames.sort(1).values
    return Choice(ordered, ordered[:, None][:, :0], nothing, forwards, backwards)


@selectors.register("first")
@dataclass(frozen=True)
class First(Selector):
    """The first frames: DeepSAVA "without BO"."""

    def choose(self, search: FrameSearch) -> Choice:
        return unprobed(search, search.alike(tuple(range(search.k))))


@selectors.register("last")
@dataclass(frozen=True)
class Last(Selector):
    """The last frames: those that matter most to a model which predicts the next one."""

    def choose(self, search: FrameSearch) -> Choice:
        return unprobed(search, search.alike(tuple(range(search.frames - search.k, search.frames))))


@selectors.register("random")
@dataclass(frozen=True)
class RandomFrames(Selector):
    """Random frames, each clip its own."""

    def choose(self, search: FrameSearch) -> Choice:
        return unprobed(search, search.drawn()[:, 0])


@selectors.register("saliency")
@dataclass(frozen=True)
class Salient(Selector):
    """The frames with the largest gradient at the clean clip; one forward and one backward pass.

    Attributes:
        least: take those with the smallest instead. DeepSAVA's appendix D reports that these are the better ones.
    """

    least: bool = False

    def choose(self, search: FrameSearch) -> Choice:
        importance, seen = saliency(replace(search.problem, threat=Linf(1.0)))
        order = importance.gather(1, search.places).argsort(dim=1, descending=not self.least, stable=True)
        return unprobed(search, order[:, : search.k], seen.forwards, seen.backwards)


@selectors.register("brute")
@dataclass(frozen=True)
class BruteForce(Selector):
    """Every choice there is; the upper bound of all others.

    Attributes:
        most: refuse where there are more choices than this. Default 2000.
    """

    most: int = 2000

    def choose(self, search: FrameSearch) -> Choice:
        count = math.comb(search.frames, search.k)
        if count > self.most:
            raise InputError(
                f"There are {count} ways to choose {search.k} of {search.frames} frames, more than most={self.most}: "
                "use select=bo."
            )
        trials = Trials(search)
        everything = torch.tensor(list(combinations(range(search.frames), search.k)), device=search.rows.device)
        trials.ask(everything.expand(len(search.rows), -1, -1))
        return trials.best()


@dataclass(frozen=True)
class _Budgeted(Selector):
    """A search that stops after so many probes."""

    evaluations: int = 20

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise InputError(f"A search needs at least one probe, got evaluations={self.evaluations}.")


@selectors.register("sa")
@dataclass(frozen=True)
class Annealing(_Budgeted):
    """Simulated annealing: a neighbour has one frame swapped, a worse one is taken with ``exp(-gain / temperature)``.

    The temperature starts at the standard deviation of a few random probes and falls by a factor per probe. (The
    annealing in DeepSAVA's released code shuffles a random vector of 0 and 1, however many frames that are.)

    Attributes:
        evaluations: probes per clip. Default 20, as many as ``bo`` may make.
        warmup: random probes. Default 5.
        cooling: the factor. Default 0.9.
    """

    warmup: int = 5
    cooling: float = 0.9

    def choose(self, search: FrameSearch) -> Choice:
        trials = Trials(search)
        starts = search.drawn(min(self.warmup, self.evaluations))
        losses = trials.ask(starts)
        temperature = losses.std(1, unbiased=False)
        everyone = search.rows
        best = losses.argmin(1)
        here, loss = starts[everyone, best], losses[everyone, best]
        for _ in range(self.evaluations - starts.shape[1]):
            luck = search.random.uniform(torch.empty(len(here), search.frames + 1)).to(losses)
            there = swapped(here, luck[:, 1:])
            proposed = trials.ask(there[:, None])[:, 0]
            chance = torch.exp((loss - proposed) / temperature.clamp_min(torch.finfo(loss.dtype).tiny))
            taken = (proposed <= loss) | (luck[:, 0] < chance)
            here, loss = torch.where(taken[:, None], there, here), torch.where(taken, proposed, loss)
            temperature = temperature * self.cooling
        return trials.best()


@selectors.register("ga")
@dataclass(frozen=True)
class Genetic(_Budgeted):
    """Genetic search: uniform crossover, repaired to k frames, and one swapped frame as mutation.

    Parents win tournaments of two; the best of a generation live on.

    Attributes:
        evaluations: probes per clip. Default 20, as many as ``bo`` may make.
        population: choices per generation. Default 10.
        elite: how many of them live on. Default 2.
        mutation: chance that a child has a frame swapped. Default 0.3.
    """

    population: int = 10
    elite: int = 2
    mutation: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.elite < self.population or self.population < 2:
            raise InputError(f"elite={self.elite} must leave room for children in population={self.population}.")

    def choose(self, search: FrameSearch) -> Choice:
        trials = Trials(search)
        people = search.drawn(min(self.population, self.evaluations))
        losses = trials.ask(people)
        left = self.evaluations - people.shape[1]
        while left > 0:
            children = self._children(search, people, losses)[:, :left]
            born = trials.ask(children)
            left -= children.shape[1]
            elite = losses.argsort(dim=1, stable=True)[:, : self.elite]
            old = people.gather(1, elite[:, :, None].expand(-1, -1, search.k))
            people = torch.cat([old, children], dim=1)
            losses = torch.cat([losses.gather(1, elite), born], dim=1)
        return trials.best()

    def _children(self, search: FrameSearch, people: Tensor, losses: Tensor) -> Tensor:
        count = self.population - self.elite
        batch, size, frames = len(people), people.shape[1], search.frames
        luck = search.random.uniform(torch.empty(batch, count, 2 * frames + 5)).to(losses)
        pairs = (luck[:, :, :4] * size).long().clamp(max=size - 1)
        first, second = (
            torch.where(losses.gather(1, a) <= losses.gather(1, b), a, b)
            for a, b in ((pairs[:, :, 0], pairs[:, :, 1]), (pairs[:, :, 2], pairs[:, :, 3]))
        )
        masks = torch.zeros(batch, size, frames, device=people.device).scatter_(2, people, 1)
        father, mother = (masks.gather(1, who[:, :, None].expand(-1, -1, frames)) for who in (first, second))
        coins = luck[:, :, 5 : 5 + frames]
        crossed = torch.where(coins < 0.5, father, mother)
        # what was inherited comes first, then what either parent has, then chance: k frames in any case
        wish = 2 * crossed + torch.maximum(father, mother) + coins.remainder(0.5)
        children = wish.argsort(dim=2, descending=True)[:, :, : search.k].sort(2).values
        mutants = swapped(children.flatten(0, 1), luck[:, :, 5 + frames :].flatten(0, 1)).view_as(children)
        return torch.where(luck[:, :, 4:5] < self.mutation, mutants, children)


def swapped(frames: Tensor, luck: Tensor) -> Tensor:
    """Choices (N, k) with one frame each exchanged for another; ``luck`` (N, T) uniform numbers decide which."""
    held = torch.zeros_like(luck).scatter_(1, frames, 1)
    out, new = (luck + 2 * held).argmax(1, keepdim=True), (luck - 2 * held).argmax(1, keepdim=True)
    return torch.where(frames == out, new, frames).sort(1).values
