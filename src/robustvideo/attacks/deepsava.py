"""DeepSAVA: a warp and noise on a few key frames that leave the picture alike (Mu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, attacks
from robustvideo.attacks.chosen_frames import Backdrop
from robustvideo.attacks.forecast_frames import Forecast
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import autocast, plain
from robustvideo.attacks.key_frames import Choice, FrameSearch, Selector
from robustvideo.attacks.objectives import CrossEntropy, Evasion, Margin, Objective
from robustvideo.attacks.updates import AdamStep, Position, State
from robustvideo.clip import Clip, per_clip
from robustvideo.distances import ssim_per_frame
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, at_rest
from robustvideo.threat import Linf, ThreatModel, WarpAndNoise

Loss = Literal["evasion", "ce", "margin"]
Constraint = Literal["hard", "stop"]

_LOSSES: Mapping[str, Objective] = {"evasion": Evasion(), "ce": CrossEntropy(), "margin": Margin()}


@attacks.register("deepsava")
@dataclass(frozen=True)
class DeepSAVA(GradientAttack):
    """DeepSAVA: warp and noise on key frames found by Bayesian optimisation, kept alike by SSIM (Mu et al. 2024).

    Adam maximises ``log(1 - p_y) - lam * sum_t (1 - SSIM_t)`` over a displacement U and noise N of the k chosen frames
    (eqs. 2 and 3; the argmax that the paper prints in Algorithm 2 is an argmin), towards a target ``log p_target``.
    The frames are chosen first (Algorithm 1), by the same climb, cut short after ``probe_steps``. Nothing but the
    chosen frames is computed, and a model that encodes frames one by one encodes no others again.

    The budget is a true constraint, of the clip as it is stored. The paper's and its code's is a stopping rule, which
    the returned clip exceeds: ``constraint=stop`` reads it so, to report both. The paper's "iterations" mode, with no
    budget but 100 steps, is ``eps=2`` per frame.

    Defaults: 100 steps (Table 3); noise rate 0.001 and warp rate 0.255 pixels, those of the released code in our units
    (the paper's "0.01" has none); ``lam`` 1, the paper's for I3D and Inception-v3 (1.5 for CNN+LSTM, section 4.1);
    eps 0.08, the paper's largest, 1 - 0.92. Ours: it starts at the clean clip (the code at N = 0.01/255), a clip stops
    at its first success, and the logarithm keeps its gradient where p_y rounds to 1, see `Evasion`.

    Attributes:
        threat: a `WarpAndNoise`, bounded by SSIM, or a `WarpAndNoiseL21`: ``norm=warp_noise_l21, eps=0.1``.
        step_size: Adam's rate for the noise, as a fraction of the range. Default 0.001.
        warp_step: Adam's rate for the displacement, in pixels.
        lam: weight of the dissimilarity, at least 0.
        k: number of frames, at least 1; none means all.
        select: which: "bo_gradient" (default: Bayesian optimisation on top of a gradient's forecast, ours), "bo" (the
            paper's, without it), "brute", "random", "first", "last", "saliency", "relaxed", "sa" or "ga", with
            parameters as in ``bo(guided=5)``. In a clip whose support leaves out frames, only the others count.
        frames: frame numbers from 0 (negative counts from the end) instead of ``k`` and ``select``.
        warp, noise: which of the two to use: both (the paper's D + S), noise alone (D) or warp alone (S).
        loss: "evasion" (default), "ce", the cross-entropy, which never saturates, or "margin", which a regression
            error is read from (`robustvideo.models.next_frame`).
        constraint: "hard" (default), or "stop": a clip stays where it first exceeded the budget, and may succeed there.
        probe_steps: Adam steps of a probe. Default 3 (ours; the paper gives no number).

    Raises:
        InputError: another threat model, an unknown name, or a number out of range.
    """

    threat: ThreatModel = field(default=WarpAndNoise(0.08))
    steps: int = 100
    warp_step: float = 0.255
    lam: float = 1.0
    k: int | None = 1
    select: Selector = field(default=Forecast())
    frames: tuple[int, ...] = ()
    warp: bool = True
    noise: bool = True
    loss: Loss = "evasion"
    constraint: Constraint = "hard"
    probe_steps: int = 3

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not isinstance(self.threat, WarpAndNoise):
            raise InputError("deepsava warps and adds noise: its threat model is warp_noise or warp_noise_l21.")
        for name, choices in (("loss", Loss), ("constraint", Constraint)):
            if getattr(self, name) not in get_args(choices):
                raise unknown(f"{name} of deepsava:", getattr(self, name), get_args(choices))
        if not 0 <= self.lam < float("inf"):
            raise InputError(f"A penalty's weight is finite and not negative, got lam={self.lam:g}.")
        if self.k is not None and self.k < 1:
            raise InputError(f"deepsava needs at least one frame, got k={self.k}.")
        if len(set(self.frames)) < len(self.frames):
            raise InputError(f"Each frame can be chosen once, got frames={list(self.frames)}.")
        if not (self.warp or self.noise):
            raise InputError("Without warp and without noise there is no attack: set one of them.")
        if not self.warp_step > 0 or self.probe_steps < 1:
            raise InputError(
                f"A step is positive and a probe makes one, got {self.warp_step:g} and {self.probe_steps}."
            )

    def objective(self) -> Objective:
        return AlikeScore(_LOSSES[self.loss], self.lam)

    def update(self) -> WarpAndNoiseStep:
        rate = 0.001 if self.step_size is None else self.step_size
        limit = self.threat.parts[0].eps if self.constraint == "stop" else None
        return WarpAndNoiseStep(self.warp_step if self.warp else 0.0, rate if self.noise else 0.0, limit)

    def restrict(self, problem: Problem) -> Problem:
        if self.constraint == "hard":
            return problem
        nothing_bound = tuple(2.0 * problem.clip.frames * torch.ones_like(eps) for eps in problem.eps)
        return replace(problem, eps=nothing_bound)

    def solve(self, problem: Problem) -> AttackResult:
        backdrop = Backdrop.of(problem)
        choice, forwards, backwards = self._chosen(backdrop)
        result = super().solve(backdrop.narrowed(choice.frames))
        result = backdrop.widened(result, choice.frames)
        return replace(
            result,
            forward_passes=result.forward_passes + forwards + backdrop.forwards,
            backward_passes=result.backward_passes + backwards,
        )

    def key_frames(self, model: Model, clip: Clip, labels: Tensor) -> Choice:
        """The frames that an attack would choose, with all that were probed and their losses, by their numbers."""
        with (
            at_rest(model),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(clip.device.type, enabled=False),
        ):
            return self._chosen(Backdrop.of(self.problem(model, clip.detach(), labels)))[0]

    def _chosen(self, backdrop: Backdrop) -> tuple[Choice, Tensor, Tensor]:
        """The frames, and the passes (B,) per clip that the choice cost."""
        problem = backdrop.problem
        places = self._places(problem)
        k = places.shape[1] if self.k is None or self.frames else self.k
        if k > places.shape[1]:
            raise InputError(f"Cannot choose k={k} frames of {places.shape[1]}.")
        search = FrameSearch(
            problem=problem,
            places=places,
            k=k,
            probe=lambda rows, chosen: self._probe(backdrop, rows, places[rows].gather(1, chosen)),
            random=replace(problem, seed=self.seed).random("key frames"),
            climb=self.ascent(),
            forecast=lambda: self._forecast(problem, places),
        )
        if k == places.shape[1]:
            nothing = torch.zeros(len(places), dtype=torch.long, device=places.device)
            return Choice(places, places[:, None][:, :0], nothing[:, None][:, :0].float()), nothing, nothing
        choice = self.select.choose(search)
        probes = choice.losses.isfinite().sum(1)
        tried = places[:, None].expand(-1, choice.tried.shape[1], -1).gather(2, choice.tried.clamp_min(0))
        return (
            replace(
                choice,
                frames=places.gather(1, choice.frames),
                tried=torch.where(choice.tried < 0, -1, tried),
            ),
            probes * (self.probe_steps + 1) + choice.forwards,
            probes * self.probe_steps + choice.backwards,
        )

    def _places(self, problem: Problem) -> Tensor:
        """(B, A) the frames that may be chosen, rising: those given, or those that the support leaves."""
        batch, total = len(problem.clip), problem.clip.frames
        if self.frames:
            if any(not -total <= i < total for i in self.frames):
                raise InputError(f"Frames {list(self.frames)} do not all exist in a clip of {total} frames.")
            given = torch.tensor(sorted({i % total for i in self.frames}), device=problem.clip.device)
            return given.expand(batch, -1)
        (mask,) = problem.masks
        allowed = torch.ones(batch, total, dtype=torch.bool, device=problem.clip.device)
        if mask is not None:
            allowed &= (mask > 0).amax((1, 3, 4))
        counts = allowed.sum(1)
        if counts.min() != counts.max() or counts.min() == 0:
            raise InputError("deepsava needs a support that leaves as many frames, and at least one, of every clip.")
        return allowed.nonzero()[:, 1].view(batch, -1)

    def _forecast(self, problem: Problem, places: Tensor) -> tuple[Tensor, Tensor]:
        """What Adam's first step on each frame gains to first order, and the loss at the clean clips.

        That step moves every value by its rate, along the sign of its gradient. The dissimilarity has no slope there,
        and a displacement fetches a pixel's neighbour to the right or below (`threat.flow.warp`).
        """
        video, rule = problem.clip.video, self.update()
        seen = plain(replace(problem, threat=Linf(1.0)), _LOSSES[self.loss], (torch.zeros_like(video),))
        (slope,) = seen.gradients
        moved = [
            (slope.narrow(axis, 0, video.shape[axis] - 1) * video.diff(dim=axis)).sum(1).abs().sum((2, 3))
            for axis in (3, 4)
        ]
        gains = rule.warp_rate * (moved[0] + moved[1]) + rule.noise_rate * slope.abs().sum((1, 3, 4))
        return gains.gather(1, places), -seen.objective

    def _probe(self, backdrop: Backdrop, rows: Tensor, frames: Tensor) -> Tensor:
        """Losses (N,) of short climbs on frames (N, k), no more at once than the caller's batch takes."""
        whole = 1 if backdrop.features is None else max(1, backdrop.problem.clip.frames // frames.shape[1])
        size = len(backdrop.problem.clip) * whole
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        return torch.cat([self._short_climb(backdrop.narrowed(frames[part], rows[part])) for part in parts])

    def _short_climb(self, problem: Problem) -> Tensor:
        objective, rule = self.objective(), self.update()
        (part,), (mask,), (eps,) = problem.threat.parts, problem.masks, problem.eps
        variable = part.zeros(problem.clip.video)
        state = rule.init(variable)
        for step in range(self.probe_steps):
            seen = plain(problem, objective, (variable,), step)
            here = Position(
                part, problem.clip.video, eps, mask, variable, seen.gradients[0], seen.objective, step, self.probe_steps
            )
            moved, state = rule.step(here, state)
            variable = here.project(moved)
        with torch.no_grad(), autocast(problem):
            value, _ = objective(problem, problem.threat.perturb(problem.clip, (variable,), problem.masks))
        return -value


@dataclass(frozen=True)
class AlikeScore:
    """``score - lam * sum_t (1 - SSIM_t)`` (DeepSAVA, eq. 3).

    Attributes:
        score: the adversarial loss.
        lam: weight of the dissimilarity.
    """

    score: Objective
    lam: float

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return self.score.reference(problem)

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        value, logits = self.score(problem, adversarial)
        with torch.autocast(adversarial.device.type, enabled=False):  # a quotient of small differences
            unlike = (1 - ssim_per_frame(problem.clip.video, adversarial.video)).sum(1)
        return value - self.lam * unlike, logits


@dataclass(frozen=True)
class WarpAndNoiseStep:
    """Adam with a rate for the displacement and one for the noise of a `WarpAndNoise`.

    Attributes:
        warp_rate: in pixels; 0 leaves the displacement as it is.
        noise_rate: as a fraction of the range; 0 leaves the noise as it is.
        limit: a clip whose change measures more than this does not move on. None: no limit.
    """

    warp_rate: float
    noise_rate: float
    limit: float | None = None

    def init(self, variable: Tensor) -> State:
        return AdamStep(self.noise_rate).init(variable)

    def query(self, problem: Problem, variables: tuple[Tensor, ...], states: tuple[State, ...]) -> tuple[Tensor, ...]:
        return variables

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        moved, states = [], []
        for rate, rows in ((self.warp_rate, slice(0, 2)), (self.noise_rate, slice(2, None))):
            half = replace(here, variable=here.variable[:, rows], gradient=here.gradient[:, rows])
            at, after = AdamStep(rate).step(half, {name: value[:, rows] for name, value in state.items()})
            moved.append(at)
            states.append(after)
        there = torch.cat(moved, dim=1)
        if self.limit is not None:
            assert isinstance(here.part, WarpAndNoise)
            measure = here.part.measure(here.signal, here.part.apply(here.signal, here.variable, here.mask))
            there = torch.where(per_clip(measure > self.limit, there), here.variable, there)
        return there, {name: torch.cat([s[name] for s in states], dim=1) for name in state}
