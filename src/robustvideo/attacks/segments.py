"""Efficient crafting: one perturbation per segment of a clip, found on few of its time steps (AV section 5.3, eq. 6).

A clip is cut into segments. All steps of a segment share one perturbation, optimised on the steps that are drawn anew
before every gradient; what was found is then added to every step. Forward passes see only the drawn steps, which is
what makes it cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, Variables, attacks
from robustvideo.attacks.audio_visual import AudioVisualLoss, DropoutTarget, FusionDropout
from robustvideo.attacks.search import conclude
from robustvideo.attacks.tma import TMA
from robustvideo.attacks.updates import Position, State
from robustvideo.clip import Clip, Modality, per_clip
from robustvideo.errors import InputError
from robustvideo.model import frames_per_step
from robustvideo.support import Everywhere
from robustvideo.threat import Linf, Part


@attacks.register("tma_segments")
@dataclass(frozen=True)
class SegmentTMA(TMA):
    """TMA with one perturbation per segment, found on a share of its time steps (Zhang et al. 2025, equation 6).

    Segments end at random cuts, drawn once per clip. Each gradient step draws which time steps it looks at,
    ``max(2, ceil(ratio * T))`` in all: at least one of every segment, the rest shared out by the segments' lengths.
    Where there are more segments than that, they take turns, one step of each, in an order drawn anew every round; the
    momentum moves those that are not looked at. (The paper leaves all of this open. The number of steps is the same
    for all clips, so that a batch of sub-clips has one shape.) With as many segments as steps every step has a
    perturbation of its own, found on few of them at a time. The
    sign step is one on the segment's perturbation; the box is met when it is added. A time step is as many frames as
    the model takes for one, see `AudioVisualModel.span`, and so is the perturbation that all steps of a segment share:
    one still picture for all its frames would not touch the motion within a step. A rest of frames and samples that
    fills no step stays clean.

    Passes are counted by the share of the clip that they see, rounded up. All steps are taken.

    Attributes:
        ratio: share of the time steps that a gradient looks at. Default 0.25. The "scale factor" 1 to 5 of AV figure 9
            is a ratio of 0.2 to 1 (our reading).
        segments: K, at most T. None is a quarter of the T steps, and at least 2.
        dropout: share of the fusion layer that is dropped while crafting, anew at every step; see `FusionDropout`.
        dropped: "neurons" or "parameters" of it.
        lam1, lam2, copies, ...: see `TMA`.

    Raises:
        InputError: a ratio outside (0, 1], no segment, or a threat model that is not Linf everywhere.
    """

    ratio: float = 0.25
    segments: int | None = None
    dropout: float = 0.0
    dropped: DropoutTarget = "neurons"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not 0 < self.ratio <= 1:
            raise InputError(f"The share of the time steps to look at is in (0, 1], got ratio={self.ratio:g}.")
        if self.segments is not None and self.segments < 1:
            raise InputError(f"A clip has at least one segment, got segments={self.segments}.")
        for part in self.threat.parts:
            if type(part) is not Linf or part.parametrisation != "dense" or not isinstance(part.support, Everywhere):
                raise InputError("Perturbations by segment are bounded by linf everywhere: use another threat model.")

    def loss(self) -> AudioVisualLoss:
        kept = None if self.dropout == 0 else FusionDropout(self.dropout, self.dropped)
        return replace(super().loss(), dropout=kept)

    def solve(self, problem: Problem) -> AttackResult:
        found = self._found(problem)
        rows = torch.full((len(problem.clip),), self.steps, device=problem.clip.device)
        return conclude(
            problem,
            found.variables,
            first_success_step=rows,
            loss_trace=found.trace,
            forward_passes=torch.full_like(rows, math.ceil(found.forwards)),
            backward_passes=torch.full_like(rows, math.ceil(found.backwards)),
        )

    def solve_unjudged(self, problem: Problem) -> Clip:
        return problem.threat.store(problem.clip, self._found(problem).variables, problem.masks, problem.eps)

    def _found(self, problem: Problem) -> _Found:
        loss = self.loss()
        problem = replace(problem, reference=loss.reference(problem), seed=(self.seed, 0))
        plan = Plan.of(problem, self.segments, self.ratio)
        rule, estimate_by = self.update(), self.estimator()
        variables = [plan.zeros(problem.clip.signal(part.modality), part.modality) for part in self.threat.parts]
        states: list[State] = [rule.init(v) for v in variables]
        trace = torch.full((len(problem.clip), self.steps), torch.nan, device=problem.clip.device)
        forwards = backwards = 0.0
        for step in range(self.steps):
            chosen = plan.draw(problem, step)
            seen = replace(problem, clip=plan.sub_clip(problem.clip, chosen), masks=(None,) * len(variables))
            point = plan.on_steps(seen, variables, chosen)
            objective = loss if loss.dropout is None else replace(loss, dropout=replace(loss.dropout, salt=step))
            estimate = estimate_by(seen, objective, point, step)
            trace[:, step] = estimate.objective.to(trace.dtype)
            forwards += estimate.forwards * chosen.shape[1] / plan.steps
            backwards += estimate.backwards * chosen.shape[1] / plan.steps
            gradients = plan.summed(estimate.gradients, chosen)
            for i, part in enumerate(self.threat.parts):
                here = Position(
                    part=part,
                    signal=variables[i],
                    eps=problem.eps[i],
                    mask=None,
                    variable=variables[i],
                    gradient=gradients[i],
                    value=estimate.objective,
                    step=step,
                    steps=self.steps,
                )
                moved, states[i] = rule.step(here, states[i])
                bound = per_clip(problem.eps[i], moved)
                variables[i] = moved.clamp(-bound, bound)
        return _Found(plan.everywhere(problem, variables), trace, forwards, backwards)


@dataclass(frozen=True, eq=False)
class _Found:
    """Where the climb ended: the perturbation of the whole clips, the objective at each step, passes per clip."""

    variables: Variables
    trace: Tensor
    forwards: float
    backwards: float


@dataclass(frozen=True, eq=False)
class Plan:
    """Which segment every time step of every clip belongs to, and how many of each are looked at.

    Attributes:
        number: (B, T) segment of each step, rising from 0.
        counts: (B, K) steps to look at, at least 1 of each; where segments take turns, of those whose turn it is.
        looks: n, how many steps a gradient looks at.
        span: frames of a step.
        parts: of the threat model.
    """

    number: Tensor
    counts: Tensor
    looks: int
    span: int
    parts: Sequence[Part]

    @classmethod
    def of(cls, problem: Problem, segments: int | None, ratio: float) -> Plan:
        """Segments and counts of all clips; each clip's cuts are its own."""
        span = frames_per_step(problem.gradient_model)
        steps = problem.clip.frames // span
        if steps < 2:
            raise InputError(f"A clip of {problem.clip.frames} frames has fewer than two time steps to choose from.")
        looks = max(2, math.ceil(ratio * steps - 1e-9))
        count = min(steps, max(2, steps // 4) if segments is None else segments)
        lengths = cut_lengths(problem.random("cuts").uniform(torch.empty(len(problem.clip), steps)), count)
        counts = torch.tensor([shared_out(row, max(count, looks)) for row in lengths.tolist()])
        number = torch.stack([torch.arange(count).repeat_interleave(row) for row in lengths])
        device = problem.clip.device
        return cls(number.to(device), counts.to(device), looks, span, problem.threat.parts)

    @property
    def steps(self) -> int:
        """T, time steps of a clip."""
        return self.number.shape[1]

    def width(self, signal: Tensor, modality: Modality) -> int:
        """Frames, or samples, of one time step."""
        return self.span if modality == "video" else max(1, signal.shape[2] // self.steps)

    def zeros(self, signal: Tensor, modality: Modality) -> Tensor:
        """No perturbation of a step: (B, K, channels, span, H, W) of a video, (B, K, channels, width) of sound."""
        batch, channels, _, *places = signal.shape
        return signal.new_zeros(batch, self.counts.shape[1], channels, self.width(signal, modality), *places)

    def draw(self, problem: Problem, step: int) -> Tensor:
        """(B, n) rising numbers of the time steps to look at; another draw for another ``step``."""
        random = problem.random("steps", step).uniform(torch.empty(self.number.shape, device=self.number.device))
        order = (self.number + random).argsort(1)  # segment by segment, shuffled within each
        starts = F.one_hot(self.number).sum(1).cumsum(1).roll(1, 1)
        starts[:, 0] = 0
        segment = self.number.gather(1, order)  # the same as number, whose segments stand in order
        place = torch.arange(self.steps, device=order.device) - starts.gather(1, segment)
        wanted = place < self._counts_at(problem, step).gather(1, segment)
        return order[wanted].view(len(order), -1).sort(1).values

    def _counts_at(self, problem: Problem, step: int) -> Tensor:
        """(B, K) steps of each segment that one gradient looks at."""
        segments = self.counts.shape[1]
        if segments <= self.looks:
            return self.counts
        turn, within = divmod(step, math.ceil(segments / self.looks))
        random = problem.random("turns", turn).uniform(torch.empty(self.counts.shape, device=self.counts.device))
        first = within * self.looks  # a round's last gradient begins the order anew, so that all look at as many steps
        places = torch.arange(first, first + self.looks, device=self.counts.device) % segments
        return torch.zeros_like(self.counts).scatter(1, random.argsort(1)[:, places], 1)

    def sub_clip(self, clip: Clip, chosen: Tensor) -> Clip:
        """The chosen time steps (B, n) of the clips, in order."""
        video = _taken(clip.video, self._places(clip.video, chosen, "video"))
        audio = None if clip.audio is None else _taken(clip.audio, self._places(clip.audio, chosen, "audio"))
        return Clip(video, audio, clip.sample_rate, clip.ids)

    def on_steps(self, seen: Problem, variables: Sequence[Tensor], chosen: Tensor) -> Variables:
        """Perturbations of the chosen steps, as variables of the sub-clips' problem ``seen``: moved into the box."""
        return tuple(
            part.project(signal, self._spread(variable, chosen), eps, None)
            for part, variable, eps, signal in zip(self.parts, variables, seen.eps, _signals(seen), strict=True)
        )

    def summed(self, gradients: Variables, chosen: Tensor) -> list[Tensor]:
        """Gradients of the segments' perturbations: the sums over the chosen steps of each."""
        return [self._gathered(gradient, chosen) for gradient in gradients]

    def everywhere(self, problem: Problem, variables: Sequence[Tensor]) -> Variables:
        """The segments' perturbations at every step, as variables of the whole clips: moved into the box."""
        every = torch.arange(self.steps, device=self.number.device).expand(len(problem.clip), -1)
        whole = []
        for part, variable, eps, signal in zip(self.parts, variables, problem.eps, _signals(problem), strict=True):
            spread = self._spread(variable, every)
            dense = torch.zeros_like(signal)
            dense[:, :, : spread.shape[2]] = spread[:, :, : signal.shape[2]]
            whole.append(part.project(signal, dense, eps, None))
        return tuple(whole)

    def _places(self, signal: Tensor, chosen: Tensor, modality: Modality) -> Tensor:
        """(B, n * width) frames or samples of the chosen steps."""
        width = self.width(signal, modality)
        within = torch.arange(width, device=chosen.device)
        return (chosen[:, :, None] * width + within).flatten(1).clamp(max=signal.shape[2] - 1)

    def _spread(self, variable: Tensor, chosen: Tensor) -> Tensor:
        """Segments' perturbations (B, K, ...) at chosen steps, in the shape of a video or waveform."""
        index = self.number.gather(1, chosen)
        own = variable[torch.arange(len(variable), device=index.device)[:, None], index]  # (B, n, channels, width, ...)
        return own.movedim(1, 2).flatten(2, 3)

    def _gathered(self, gradient: Tensor, chosen: Tensor) -> Tensor:
        """The adjoint of `_spread`."""
        index = self.number.gather(1, chosen)
        steps = gradient.reshape(*gradient.shape[:2], chosen.shape[1], -1, *gradient.shape[3:])
        own = steps.movedim(2, 1)  # (B, n, channels, width, ...)
        share = F.one_hot(index, self.counts.shape[1]).to(own)  # a sum in a fixed order, on any device
        return torch.einsum("bnk,bn...->bk...", share, own)


def cut_lengths(uniform: Tensor, count: int) -> Tensor:
    """(B, K) lengths of the segments of T steps, at least ``min(2, T // K)`` each.

    Args:
        uniform: (B, T) random numbers; the K - 1 smallest of the admissible places are the cuts.
        count: K.
    """
    steps = uniform.shape[1]
    least = min(2, steps // count)
    spare = steps - count * least
    cuts = uniform[:, : spare + count - 1].argsort(1)[:, : count - 1].sort(1).values  # stars and bars: all cuts alike
    edges = torch.cat([torch.full((len(cuts), 1), -1), cuts, torch.full((len(cuts), 1), spare + count - 1)], dim=1)
    return edges.diff(dim=1) - 1 + least


def shared_out(lengths: Sequence[int], total: int) -> list[int]:
    """``total`` steps shared out over segments by their lengths: at least 1 each, none more than it has."""
    counts = [1] * len(lengths)
    while sum(counts) < total:
        rest = [total * n / sum(lengths) - c if c < n else -math.inf for n, c in zip(lengths, counts, strict=True)]
        counts[rest.index(max(rest))] += 1
    return counts


def _taken(signal: Tensor, places: Tensor) -> Tensor:
    """Frames or samples (B, n) of a signal (B, channels, T or samples, ...)."""
    shape = (len(signal), 1, places.shape[1], *([1] * (signal.ndim - 3)))
    return signal.gather(2, places.view(shape).expand(-1, signal.shape[1], -1, *signal.shape[3:]))


def _signals(problem: Problem) -> list[Tensor]:
    return [problem.clip.signal(part.modality) for part in problem.threat.parts]
