"""Attacks on a few frames of a clip: the L2,1-penalised attack of Wei et al. 2019, and PGD on one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, Variables, attacks
from robustvideo.attacks.frame_saliency import saliency
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.masked import require_one_video_part, within
from robustvideo.attacks.objectives import Evasion, Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.attacks.updates import AdamStep, Position, State, UpdateRule
from robustvideo.clip import Clip, per_clip
from robustvideo.distances import frame_rms, l21
from robustvideo.errors import InputError, unknown
from robustvideo.support import Frames
from robustvideo.threat import Linf, NormBall, ThreatModel

Choice = Literal["first", "random", "saliency"]


@dataclass(frozen=True)
class _FrameAttack(GradientAttack):
    """A gradient attack on chosen frames; the others stay bit for bit."""

    k: int | None = 1
    select: Choice = "first"
    frames: tuple[int, ...] = ()

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_one_video_part(self)
        if self.select not in get_args(Choice):
            raise unknown("choice of frames", self.select, get_args(Choice))
        if self.k is not None and self.k < 1:
            raise InputError(f"{self.registered_name} needs at least one frame, got k={self.k}.")

    def solve(self, problem: Problem) -> AttackResult:
        mask, forwards, backwards = self._chosen(problem)
        result = super().solve(problem if mask is None else within(problem, mask))
        return replace(
            result,
            forward_passes=result.forward_passes + forwards,
            backward_passes=result.backward_passes + backwards,
        )

    def _chosen(self, problem: Problem) -> tuple[Tensor | None, int, int]:
        """The mask of the chosen frames, and the passes per clip that the choice cost."""
        video, random = problem.clip.video, replace(problem, seed=self.seed).random("frames")
        if self.frames:
            return Frames(self.frames).mask(video, random), 0, 0
        if self.k is None:
            return None, 0, 0
        if self.k > problem.clip.frames:
            raise InputError(f"Cannot choose k={self.k} frames of a clip of {problem.clip.frames}.")
        if self.select == "first":
            return Frames(tuple(range(self.k))).mask(video, random), 0, 0
        if self.select == "random":
            return Frames(k=self.k).mask(video, random), 0, 0
        importance, seen = saliency(problem)
        best = importance.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        mask = torch.zeros_like(importance).scatter_(1, best, 1)
        return mask[:, None, :, None, None], seen.forwards, seen.backwards


@attacks.register("one_frame")
@dataclass(frozen=True)
class OneFrame(_FrameAttack, PGD):
    """PGD on one frame, or on a few: what a single frame can do to a clip's class.

    ``z <- P(m * (z + alpha * d))``, m = 1 on the chosen frames; otherwise `PGD`, with its random start and step.

    Attributes:
        k: number of frames, at least 1; none means all. Default 1.
        select: which: the "first" ones (default), "random" ones for each clip, or those with the largest gradient
            at the clean clip ("saliency", one forward and one backward pass; see `FrameSaliency`).
        frames: frame numbers from 0 (negative counts from the end) instead of ``k`` and ``select``, e.g. ``[0, 8]``.
    """


@attacks.register("sparse")
@dataclass(frozen=True)
class Sparse(_FrameAttack):
    """Sparse video attack: few frames, changed little, by a penalty on the L2,1 norm (Wei et al. 2019).

    Adam maximises ``log(1 - p_y) - lam * sum_t rms(m_t E_t)`` over the perturbation E, m = 1 on the chosen frames
    (towards a target: ``log p_target - ...``); see `distances.l21`. The logarithm is taken in a form that keeps its
    gradient where p_y rounds to 1, where the authors' code has none.

    The paper's threat model is "some frames, any change": the default budget is 1. Give ``eps`` to compare it with
    other attacks. With all frames (``k=none``) and a large ``lam`` the sparsity over time emerges by itself; Adam
    reaches exact zeros only by way of the rounding to 8 bits, ``prox=true`` by itself.

    Defaults: rate 0.001, 100 steps and ``lam`` 1 are those of the authors' code; ``k`` 1 and the first frame are the
    baseline of DeepSAVA (Mu et al. 2024). Ours: it starts at the clean clip (theirs at 0.01/255, to avoid 0/0 in a
    norm whose gradient we define as 0 there), and a clip stops at its first success (theirs when the loss stalls).

    Attributes:
        k: number of frames, at least 1; none means all.
        select: which: "first" (default), "random" or "saliency"; see `OneFrame`.
        frames: frame numbers from 0 instead of ``k`` and ``select``.
        lam: weight of the penalty, at least 0.
        prox: replace Adam and the penalty's gradient by a proximal gradient step (ours): the frame with the
            largest gradient moves by ``step_size`` (root mean square), the others in proportion, and then every
            frame shrinks towards zero by the penalty's exact share. For budgets on pixels.
        step_size: Adam's learning rate, absolute: of the range [0, 1]. Default 0.001.
    """

    threat: ThreatModel = field(default=Linf(1.0))
    steps: int = 100
    lam: float = 1.0
    prox: bool = False

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not self.lam >= 0:
            raise InputError(f"A penalty's weight is not negative, got lam={self.lam:g}.")
        if self.prox and not isinstance(self.threat, NormBall):
            raise InputError("prox=true shrinks a change of the pixels: it needs a linf, l2 or l21 budget.")

    def objective(self) -> Objective:
        return SparseScore(self.lam, differentiable=not self.prox)

    def update(self) -> UpdateRule:
        rate = 0.001 if self.step_size is None else self.step_size
        return ProximalStep(rate, self.lam) if self.prox else AdamStep(rate)


@dataclass(frozen=True)
class SparseScore:
    """``log(1 - p_y) - lam * l21(change)``; towards a target ``log p_target - lam * l21(change)``.

    Attributes:
        lam: weight of the penalty.
        differentiable: False leaves the penalty out of the gradient, for an update rule that sees to it.
    """

    lam: float
    differentiable: bool = True

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        score, logits = Evasion()(problem, adversarial)
        penalty = self.lam * l21(adversarial.video, problem.clip.video)
        return score - (penalty if self.differentiable else penalty.detach()), logits


@dataclass(frozen=True)
class ProximalStep:
    """A gradient step, then the proximal operator of ``lam * sum_t rms(E_t)``, which sets weak frames to exactly 0.

    With ``eta = rate / max_t rms(g_t)`` and n values per frame:
    ``E_t <- V_t * max(0, 1 - tau / rms(V_t))``, ``V = E + eta g``, ``tau = eta * lam / n``. Whatever eta, an
    untouched frame stays untouched exactly where ``n * rms(g_t) <= lam``.

    Attributes:
        rate: how far the frame with the largest gradient moves (root mean square), absolute.
        lam: weight of the penalty.
    """

    rate: float
    lam: float

    def init(self, variable: Tensor) -> State:
        return {}

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        return variables

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        steepest = frame_rms(here.gradient).amax(1)
        eta = torch.where(steepest > 0, self.rate / steepest, 0)
        moved = here.variable + per_clip(eta, here.variable) * here.gradient
        sizes = frame_rms(moved)
        threshold = eta * self.lam * sizes.shape[1] / moved[0].numel()
        kept = (1 - threshold[:, None] / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).clamp_min(0)
        return moved * kept[:, None, :, None, None], state
