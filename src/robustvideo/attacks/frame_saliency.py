"""Frame saliency: which frames matter to the model, and an attack that changes as few of them as it can."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import AttackResult, Problem, attacks, judge
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import Estimate, plain
from robustvideo.attacks.masked import require_one_video_part, within
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.attacks.search import in_turn
from robustvideo.attacks.updates import SteepestStep, UpdateRule
from robustvideo.errors import InputError, unknown
from robustvideo.threat import FlowField, Linf, ThreatModel

Mode = Literal["one_shot", "iterative", "refresh"]


def saliency(problem: Problem) -> tuple[Tensor, Estimate]:
    """How much each frame of the unperturbed clips matters, and the gradient it was read from.

    ``s_t``, the mean absolute gradient of the cross-entropy over the values of frame t (Inkawhich et al. 2018), with
    respect to the threat model's variable: the pixels, unless it is a flow or a colour per frame.

    Returns:
        (B, T) saliency, 0 off the support; and an estimate that cost one forward and one backward pass.
    """
    (part,) = problem.threat.parts
    estimate = plain(problem, CrossEntropy(), (part.zeros(problem.clip.video),))
    return estimate.gradients[0].abs().mean((1, 3, 4)), estimate


@attacks.register("frame_saliency")
@dataclass(frozen=True)
class FrameSaliency(GradientAttack):
    """Attack the frames that matter most, as few as needed (Inkawhich et al. 2018).

    Frames are ordered by their saliency ``s_t = mean |grad_x CE|``, clip by clip, ties by number. The inner attack
    is iterated steepest ascent from the clean clip.

    * ``one_shot``: the inner attack on all frames at once, the variant that ART and Kinfu and Vidal (2022) report.
    * ``iterative``: the inner attack once on all frames, without stopping early; its frames then replace the clean
      ones in order of saliency until the model is wrong (at most T forward passes more).
    * ``refresh``: saliency anew after every frame, among the untouched ones; then the inner attack on the next frame
      alone, on top of the frames already changed. Every frame gets the whole budget, so the budget must be one per
      pixel: ``linf`` or ``flow``.

    The last two stop at the first success whatever ``early_stop`` says, for few frames are their aim; how many they
    needed is the record's ``frames_touched``. A clip that never succeeds keeps all frames.

    Defaults: budget 0.015, 100 steps of 1/15 of it, from GARD's Armory (0.015 and 0.001).

    Attributes:
        mode: "iterative" (default), "one_shot" or "refresh".
    """

    threat: ThreatModel = field(default=Linf(0.015))
    steps: int = 100
    mode: Mode = "iterative"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_one_video_part(self)
        if self.mode not in get_args(Mode):
            raise unknown("mode of frame_saliency", self.mode, get_args(Mode))
        if self.mode == "refresh" and not isinstance(self.threat, Linf | FlowField):
            raise InputError("mode=refresh spends the whole budget on every frame: it needs a linf or flow budget.")

    @property
    def default_step(self) -> float:
        return 1 / 15

    def update(self) -> UpdateRule:
        return SteepestStep(self.relative_step)

    def solve(self, problem: Problem) -> AttackResult:
        if self.mode == "one_shot":
            return super().solve(problem)
        search = self._paste if self.mode == "iterative" else self._refresh
        return in_turn(problem, (self._untouched, search))

    @property
    def _untouched(self) -> Ascent:
        """No frame at all: the fewest that can be."""
        return replace(self.ascent(), steps=0)

    def _paste(self, problem: Problem) -> AttackResult:
        importance, seen = saliency(problem)
        result = replace(self.ascent(), early_stop=False)(problem)
        rank = importance.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        video, logits, margins = result.clip.video.clone(), result.logits.clone(), result.margin.clone()
        forwards, success = result.forward_passes + seen.forwards, result.success.clone()
        rows = torch.arange(len(problem.clip), device=problem.clip.device)
        for frames in range(1, problem.clip.frames):
            here = problem.select(rows)
            pasted = (rank[rows] < frames)[:, None, :, None, None]
            mixed = replace(here.clip, video=torch.where(pasted, result.clip.video[rows], here.clip.video))
            verdict = judge(problem.model, mixed, here.labels, problem.targeted)
            forwards[rows] += 1
            fooled = rows[verdict.success]
            video[fooled] = mixed.video[verdict.success]
            logits[fooled] = verdict.logits[verdict.success]
            margins[fooled] = verdict.margin[verdict.success].to(margins.dtype)
            success[fooled] = True
            rows = rows[~verdict.success]
            if len(rows) == 0:
                break
        return replace(
            result,
            clip=replace(result.clip, video=video),
            success=success,
            first_success_step=torch.where(success, self.steps, -1),
            forward_passes=forwards,
            backward_passes=result.backward_passes + seen.backwards,
            logits=logits,
            margin=margins,
        )

    def _refresh(self, problem: Problem) -> AttackResult:
        count, frames = len(problem.clip), problem.clip.frames
        rows = torch.arange(count, device=problem.clip.device)
        here, used = problem, torch.zeros(count, frames, dtype=torch.bool, device=rows.device)
        inner = replace(self.ascent(), early_stop=True)
        found: AttackResult | None = None
        for _ in range(frames):
            importance, seen = saliency(here)
            following = importance.masked_fill(used, -1).argsort(dim=1, descending=True, stable=True)[:, :1]
            chosen = torch.zeros_like(importance).scatter_(1, following, 1)
            result = inner(within(here, chosen[:, None, :, None, None]))
            result = replace(
                result,
                forward_passes=result.forward_passes + seen.forwards,
                backward_passes=result.backward_passes + seen.backwards,
            )
            found = result if found is None else _after(found, result, rows)
            left = ~result.success
            rows, used = rows[left], (used | chosen.bool())[left]
            if len(rows) == 0:
                break
            here = replace(problem.select(rows), clip=result.clip.select(left.nonzero()[:, 0]))
        assert found is not None, "a clip has at least one frame"
        return found


def _after(known: AttackResult, new: AttackResult, rows: Tensor) -> AttackResult:
    """``known`` with its ``rows`` carried on by ``new``; counters add up."""
    trace = known.loss_trace.new_full((len(known.success), new.loss_trace.shape[1]), torch.nan)
    trace[rows] = new.loss_trace
    return AttackResult(
        clip=replace(known.clip, video=known.clip.video.index_copy(0, rows, new.clip.video)),
        success=known.success.index_copy(0, rows, new.success),
        first_success_step=known.first_success_step.index_copy(
            0, rows, torch.where(new.success, known.steps[rows] + new.first_success_step, -1)
        ),
        steps=known.steps.index_add(0, rows, new.steps),
        loss_trace=torch.cat([known.loss_trace, trace], dim=1),
        forward_passes=known.forward_passes.index_add(0, rows, new.forward_passes),
        backward_passes=known.backward_passes.index_add(0, rows, new.backward_passes),
        logits=known.logits.index_copy(0, rows, new.logits),
        margin=known.margin.index_copy(0, rows, new.margin),
    )
