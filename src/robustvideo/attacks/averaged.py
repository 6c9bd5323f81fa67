"""Gradients averaged over changed copies of every clip.

One mechanism for what the literature names apart: expectation over transformations, temporal translation, paths to
other pictures, masked copies, re-encoded copies. They differ in the `Transform` and in the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, Variables, margin
from robustvideo.attacks.gradients import Estimate, GradientEstimator, plain
from robustvideo.attacks.objectives import Objective
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for

_CLIPS_PER_PASS = 8  # fewer leave a processor idle, more overflow its caches (benchmarks/temporal_translation.py)


@dataclass(frozen=True, eq=False)
class Copies:
    """What is known of the rows that a transform is given.

    Attributes:
        problem: one row per copy: clip 0's copies of this pass, then clip 1's, and so on.
        numbers: which copy of its clip each row is, from 0.
        step: number of the climb's step.
    """

    problem: Problem
    numbers: tuple[int, ...]
    step: int

    def per_row(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Each row's own of one value per copy number, shaped to broadcast over a (rows, ...) tensor."""
        rows = torch.tensor([values[n] for n in self.numbers], dtype=like.dtype, device=like.device)
        return rows.view(-1, *([1] * (like.ndim - 1)))

    def random(self, *salt: object) -> ClipRandom:
        """One stream per row, fresh in every step.

        A function of the search's seed, the clip's id, the step, the copy's number and ``salt`` alone.
        """
        names = zip(self.problem.clip.ids, self.numbers, strict=True)
        return ClipRandom(seed_for(self.problem.seed, name, "copy", self.step, n, *salt) for name, n in names)


class Transform(Protocol):
    """How copies of a clip are changed before the model sees them."""

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        """The changed rows, each a function of itself and of what ``copies`` says of it, differentiable."""


@dataclass(frozen=True, eq=False)
class Averaged:
    """``sum_r w_r grad J(T_r(x))``: the weighted gradient of the objective over copies of a clip.

    The gradient is that of the *objective*, taken through the transform, before any normalisation or sign; averaging
    logits would be another objective (Athalye et al. 2018). Copies lie side by side in the batch. An objective that
    looks at the clean clip sees it untransformed.

    The logits of the estimate, from which a climb guesses whether a clip has succeeded, are those of the copy
    ``origin``. Where no copy is the clip itself, they are those of the copy that is furthest from success: a clip
    then leaves the batch when all of its copies succeed.

    Attributes:
        transform: what distinguishes the copies.
        weights: one weight per copy, used as they are.
        copies_per_pass: at most this many copies of every clip go through the model at once; memory grows with it,
            results do not change but for rounding. None: as many as make up 8 clips, at least one, so that a pass
            stays full while clips leave the batch, and needs little more memory than the batch itself.
        origin: number of the copy that the transform leaves as it is; None when there is none.

    Raises:
        InputError: no copy, or none per pass.
    """

    transform: Transform
    weights: tuple[float, ...]
    copies_per_pass: int | None = None
    origin: int | None = None

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("An average needs at least one copy.")
        if self.copies_per_pass is not None and self.copies_per_pass < 1:
            raise InputError(f"At least one copy goes through the model at once, got {self.copies_per_pass}.")

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        gradients = [torch.zeros_like(v) for v in variables]
        values, logits, forwards, backwards = [], [], 0, 0
        rows = problem
        for numbers in _passes(len(self.weights), len(problem.clip), self.copies_per_pass):
            count = len(numbers)
            if len(rows.clip) != len(problem.clip) * count:
                rows = repeat(problem, count)
            copies = Copies(rows, numbers * len(problem.clip), step)
            weights = tuple(self.weights[n] for n in numbers)
            estimate = plain(problem, _OverCopies(objective, self.transform, copies, weights), variables, step)
            for gradient, found in zip(gradients, estimate.gradients, strict=True):
                gradient += found
            values.append(estimate.objective)
            logits.append(estimate.logits)
            forwards += estimate.forwards * count
            backwards += estimate.backwards * count
        every = torch.cat(logits, 1)
        chosen = _furthest(problem, every) if self.origin is None else every[:, self.origin]
        return Estimate(tuple(gradients), torch.stack(values).sum(0), chosen, forwards, backwards)


@dataclass(frozen=True, eq=False)
class Expectation:
    """``(1/R) sum_r g(x; xi_r)``: the mean of any estimate over a model's own randomness (Athalye et al. 2018).

    A random model draws from the names of its clips, so that a result does not depend on the batch. R copies of
    every clip go through it under names of their own, other ones in every step, restart and for every seed, so it
    draws afresh. Gradients are averaged, before any normalisation or sign. The logits of the estimate are those of the
    copy furthest from success, as in `Averaged`.

    Attributes:
        estimator: what is estimated under each draw.
        copies: R.
        copies_per_pass: as in `Averaged`.
        noise: each copy's video also gets uniform noise from [-noise, noise], a fraction of the range: expectation
            over the input, which smooths a model that answers always the same, but ruggedly.

    Raises:
        InputError: no copy, none per pass, or a negative noise.
    """

    estimator: GradientEstimator
    copies: int
    copies_per_pass: int | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise InputError(f"An expectation needs at least one copy, got {self.copies}.")
        if self.copies_per_pass is not None and self.copies_per_pass < 1:
            raise InputError(f"At least one copy goes through the model at once, got {self.copies_per_pass}.")
        if not self.noise >= 0:
            raise InputError(f"The noise of an expectation is at least 0, got {self.noise:g}.")

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        objective = _Noisy(objective, self.noise) if self.noise else objective
        gradients = [torch.zeros_like(v) for v in variables]
        values, logits, forwards, backwards = [], [], 0, 0
        for numbers in _passes(self.copies, len(problem.clip), self.copies_per_pass):
            count = len(numbers)
            rows = repeat(problem, count)
            names = zip(rows.clip.ids, numbers * len(problem.clip), strict=True)
            fresh = tuple(f"{name}/{problem.seed}/{step}/{n}" for name, n in names)
            rows = replace(rows, clip=replace(rows.clip, ids=fresh))
            points = tuple(v.repeat_interleave(count, 0) for v in variables)
            estimate = self.estimator(rows, objective, points, step)
            for gradient, found in zip(gradients, estimate.gradients, strict=True):
                gradient += found.view(-1, count, *found.shape[1:]).sum(1) / self.copies
            values.append(estimate.objective.view(-1, count).sum(1) / self.copies)
            logits.append(estimate.logits.view(-1, count, estimate.logits.shape[1]))
            forwards += estimate.forwards * count
            backwards += estimate.backwards * count
        chosen = _furthest(problem, torch.cat(logits, 1))
        return Estimate(tuple(gradients), torch.stack(values).sum(0), chosen, forwards, backwards)


@dataclass(frozen=True, eq=False)
class _Noisy:
    """An objective of the clip with noise, other noise for every name of a clip."""

    objective: Objective
    half_width: float

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return self.objective.reference(problem)

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        draw = problem.random("noise").uniform(adversarial.video)
        noisy = adversarial.video + self.half_width * (2 * draw - 1)
        return self.objective(problem, adversarial.with_signal("video", noisy))


def _passes(copies: int, clips: int, together: int | None) -> Iterator[tuple[int, ...]]:
    """The numbers of the copies of every one of ``clips`` clips that go together, pass by pass."""
    passes = math.ceil(copies / (together or max(1, _CLIPS_PER_PASS // clips)))
    for i in range(passes):  # of even size: a single clip left over would be slow
        yield tuple(range(i * copies // passes, (i + 1) * copies // passes))


def _furthest(problem: Problem, logits: Tensor) -> Tensor:
    """(B, K) logits of the copy furthest from success, out of those of all copies (B, copies, K)."""
    count = logits.shape[1]
    labels = problem.labels.repeat_interleave(count)
    margins = margin(logits.flatten(0, 1), labels, problem.targeted).view(-1, count)
    everyone = torch.arange(len(logits), device=logits.device)
    return logits[everyone, margins.argmin(1)]


def repeat(problem: Problem, copies: int) -> Problem:
    """A problem with every clip, and all that is known of it, ``copies`` times in a row."""
    rows = torch.arange(len(problem.clip), device=problem.clip.device)
    return problem.select(rows.repeat_interleave(copies))


@dataclass(frozen=True, eq=False)
class _OverCopies:
    """The weighted sum of an objective over the copies of one pass; its logits are those of all copies (B, n, K)."""

    objective: Objective
    transform: Transform
    copies: Copies
    weights: tuple[float, ...]

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return self.objective.reference(problem)

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        rows = self.copies.problem
        repeated = Clip(
            video=_repeated(adversarial.video, len(self.weights)),
            audio=None if adversarial.audio is None else _repeated(adversarial.audio, len(self.weights)),
            sample_rate=adversarial.sample_rate,
            ids=rows.clip.ids,
        )
        value, logits = self.objective(rows, self.transform(repeated, self.copies))
        by_copy = value.view(-1, len(self.weights))
        weights = torch.tensor(self.weights, dtype=value.dtype, device=value.device)
        return (by_copy * weights).sum(1), logits.view(*by_copy.shape, -1)


def _repeated(signal: Tensor, copies: int) -> Tensor:
    """Every row ``copies`` times; going back, the copies' gradients are summed in a fixed order."""
    return signal[:, None].expand(-1, copies, *signal.shape[1:]).flatten(0, 1)
