"""Attacks inside a region of the picture: a patch, or a border around it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.attack import Attack, Problem, Variables, attacks
from robustvideo.attacks.gradients import Estimate, GradientEstimator, plain
from robustvideo.attacks.objectives import Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.errors import InputError, RobustVideoWarning, unknown
from robustvideo.support import Border, Patch, Support
from robustvideo.threat import Linf, ThreatModel


def within(problem: Problem, mask: Tensor) -> Problem:
    """A problem on one video part, narrowed to ``mask`` on top of what its threat model's support allows.

    Args:
        problem: the clips.
        mask: 1 where a change is allowed, broadcastable to the video (B, C, T, H, W).
    """
    (known,) = problem.masks
    return replace(problem, masks=(mask if known is None else mask * known,))


def require_one_video_part(attack: Attack) -> None:
    """Refuse a threat model that does anything but change the video in one way.

    Raises:
        InputError: a joint threat model, or one on sound.
    """
    if len(attack.threat.parts) != 1 or attack.threat.parts[0].modality != "video":
        raise InputError(f"{attack.registered_name} needs a threat model with one part, on the video.")


@dataclass(frozen=True)
class _RegionAttack(PGD):
    """PGD within a region that its parameters describe."""

    threat: ThreatModel = field(default=Linf(1.0))
    steps: int = 100
    step_size: float | None = 0.02
    ratio: float = 0.1
    start: Literal["clean", "random"] = "clean"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_one_video_part(self)
        if self.start not in ("clean", "random"):
            raise unknown("start", self.start, ("clean", "random"))
        if self.restarts > 1 and self.start == "clean":
            raise InputError(f"{self.registered_name} starts at the clean clip: restarts need start=random.")
        self.region()

    @abstractmethod
    def region(self) -> Support:
        """Where changes are allowed."""

    def estimator(self) -> GradientEstimator:
        return _plain_and_seen

    def ascent(self, restart: int = 0) -> Ascent:
        return replace(super().ascent(restart), random_start=self.start == "random")

    def restrict(self, problem: Problem) -> Problem:
        mask = self.region().mask(problem.clip.video, problem.random("region"))
        return problem if mask is None else within(problem, mask)


@attacks.register("masked_pgd")
@dataclass(frozen=True)
class MaskedPGD(_RegionAttack):
    """PGD inside one patch, at the same place in every frame: a physical sticker or screen, with a free hand.

    ``z <- P(m * (z + alpha * sign(g)))`` with m = 1 on a rectangle of the frame's aspect ratio and ``ratio`` of its
    area, from the clean clip. Source: the masked PGD of GARD's Armory, which Kinfu and Vidal (2022) evaluate.

    Defaults: budget 1 (anything inside the patch), ratio 0.1, 100 steps of 0.02 are Armory's; Kinfu and Vidal train
    with ratio 0.15 and 300 steps of 0.005. There the patch's place is drawn once per call and never reaches the last
    row and column; here every clip draws its own, from all places. The region narrows the threat model's own support.
    Where the model's gradient is zero on the whole patch of all clips, a warning says so: a model that crops its
    input may never see the patch.

    Attributes:
        ratio: share of the frame's area, in (0, 1].
        corner: (row, column) of the patch's upper left corner, e.g. ``[0, 0]``; default: drawn for each clip.
        start: "clean" (default) or "random", which may start far from the clip at this budget.
        step_size: absolute, in pixels' range, whatever the budget.
    """

    corner: tuple[int, int] | None = None

    def region(self) -> Support:
        return Patch(self.ratio, self.corner)


@attacks.register("frame_border")
@dataclass(frozen=True)
class FrameBorder(_RegionAttack):
    """PGD on a border of constant thickness around every frame; the picture itself is untouched.

    As `MaskedPGD`, with m = 1 on the outermost b pixels, b the largest whole number with
    ``2b(W+H) - 4b^2 <= ratio * W * H``. The realised share is therefore somewhat below ``ratio`` (0.138 instead of
    0.15 at 112x112). Source and defaults: the frame border attack of GARD's Armory.

    Attributes:
        ratio: share of the picture's area, in (0, 1).
        start: "clean" (default) or "random".
        step_size: absolute, in pixels' range, whatever the budget.
    """

    def region(self) -> Support:
        return Border(self.ratio)


def _plain_and_seen(problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
    """The plain gradient, and a warning where the first one says that the model does not look at the region."""
    estimate = plain(problem, objective, variables, step)
    if step == 0 and not any(bool(gradient.any()) for gradient in estimate.gradients):
        warnings.warn(
            "The model's gradient is zero on the whole attacked region of every clip: if the model crops its input, "
            "it never sees the attack.",
            RobustVideoWarning,
            stacklevel=2,
        )
    return estimate
