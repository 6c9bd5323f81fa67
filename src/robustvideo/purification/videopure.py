"""VideoPure: temporal DDIM inversion, spatial-temporal optimisation, and a vote over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal, get_args

from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.flow.optical_flow import FlowSource, load_raft, on_grid, optical_flow
from robustvideo.models.noise_schedule import Step
from robustvideo.models.video_diffusion import reflected
from robustvideo.purification.ddim_inversion import inverted
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_purifier import DiffusionPurifier, Passage
from robustvideo.purification.diffusion_steps import noised, predicted_clean
from robustvideo.purification.guidance import Sides, Warp, spatial_gradient, temporal_gradient
from robustvideo.purification.purifier import defenses
from robustvideo.purification.recomputation import recomputed

Inversion = Literal["temporal", "plain"]
Weight = Literal["log_variance", "constant"]
Border = Literal["zeros", "mask"]


@defenses.register("videopure")
@dataclass(frozen=True)
class VideoPure(DiffusionPurifier):
    """VideoPure: all frames get the first one's noise, and every step's guided prediction is a vote (Jiang et al.).

    Algorithm 1: up by eq. 11, down by eq. 8, and at each step the predicted clip (eq. 15) moved by
    ``strength |log sigma_t^2|`` down the gradient of ``temporal L_temp + spatial L_spa``: away from what was given,
    and towards frames that follow each other. (The paper prints a scale of -4, which a negative log-variance turns; the
    weight is the log of the variance in text and code, largest at the last steps.) No guidance changes the way down.
    The answers are the t* guided predictions, the highest step first, and the guided end: t* + 1 votes. The gradient
    that guides holds the predicted noise fixed; an attack's exact gradient does not, and takes the flow for a constant.
    Nothing is drawn: an average over draws has nothing to average.

    Table IV's rows without voting are ``candidate=0``; without optimisation ``temporal=0, spatial=0``; its first,
    with ``inversion=plain`` as well, is `ddim_inversion`. Table VIII is ``guided_way=true``.

    Attributes:
        model, steps, grid, substeps, precision: see the base.
        inversion: ``temporal`` (one frame's noise for all) or ``plain``.
        reference: whose noise, negative from the end. Default: the first frame's.
        temporal, spatial: lambda_1 and lambda_2; 0 switches a loss off. Default 5 and 800, at the paper's sizes; see
            `robustvideo.purification.guidance` for others.
        strength: minus the paper's alpha_s. Default 4; 0 switches the optimisation off.
        weight: ``log_variance``, or ``constant``: its mean over the steps at every one.
        sides: whether the temporal loss pulls the earlier frame alone (``one_sided``, released) or both (``two_sided``,
            whose last bits vary from run to run on CUDA; see `robustvideo.purification.guidance.Warp.transposed`).
        candidate: answer with the prediction z_0^t of this one step, from t* (the highest) to 0 (the end). Default:
            all of them. The surrogate of fewer steps has other numbers: but for 0 it answers with all of its own.
        guided_way: the guided state replaces the state on the way down.
        flow: ``dis`` (OpenCV), ``raft`` (torchvision's weights, as published), ``horn_schunck`` (no weights, of small
            motions), or ``none``: neighbouring frames are compared where they are. Of the clip as it is given.
        softness: h > 0 has the exact gradient take the signs in the temporal guidance, which are flat, for
            ``tanh(r / h)``, r in latent units; 0.01 is a value to try. An attack keeps the stronger of both. Default 0:
            the gradient as it is.
        border: what the warp fetches from outside the frame counts as ``zeros`` (released), or not at all (``mask``).

    Raises:
        InputError: an unknown name, a candidate that is none of the votes, or a weight that is negative.
    """

    gradient_only = (*DiffusionPurifier.gradient_only, "softness")

    inversion: Inversion = "temporal"
    reference: int = 0
    temporal: float = 5.0
    spatial: float = 800.0
    strength: float = 4.0
    weight: Weight = "log_variance"
    sides: Sides = "one_sided"
    candidate: int | None = None
    guided_way: bool = False
    flow: FlowSource | None = "dis"
    softness: float = 0.0
    border: Border = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (
            ("inversion", Inversion),
            ("weight", Weight),
            ("sides", Sides),
            ("border", Border),
        ):
            if getattr(self, name) not in get_args(kind):
                raise unknown(f"{name} of videopure:", getattr(self, name), get_args(kind))
        if self.flow is not None and self.flow not in get_args(FlowSource):
            raise unknown("flow of videopure:", self.flow, ("none", *get_args(FlowSource)))
        for name in ("temporal", "spatial", "strength", "softness"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}= of videopure is finite and at least 0, got {getattr(self, name):g}.")
        highest = self.substeps or self.steps
        if self.candidate is not None and not 0 <= self.candidate <= highest:
            raise InputError(f"candidate= of videopure is from 0 (the end) to {highest}, got {self.candidate}.")

    def network(self) -> nn.Module:
        """A ModuleDict with the ``diffusion`` model, and RAFT as ``flow`` where it is used."""
        return self.sharing(super().network())

    def sharing(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, nn.ModuleDict), "what network() returned"
        own = nn.ModuleDict({"diffusion": network["diffusion"]})
        if self.flow == "raft" and self._guides_time:
            own["flow"] = network["flow"] if "flow" in network else load_raft()
        return own

    def shortened(self, count: int) -> VideoPure:
        """The same in ``count`` steps, answering with all votes where a prediction before the end was chosen.

        Numbers of predictions belong to a number of steps, and the timestep of the chosen one need not be among the
        coarser ones; all votes together lie on both sides of it.
        """
        numbered = count == (self.substeps or self.steps) or self.candidate == 0
        return replace(self, gradient="exact", substeps=count, candidate=self.candidate if numbered else None)

    def single(self) -> VideoPure:
        """With the middle one of its predictions: alone it is the paper's best, the end its worst (table VII)."""
        middle = ((self.substeps or self.steps) + 1) // 2
        return replace(self, candidate=middle if self.candidate is None else self.candidate)

    @property
    def _guides_time(self) -> bool:
        return self.temporal > 0 and self.strength > 0

    def passage(
        self, diffusion: Diffusion, clip: Clip, seeds: Sequence[int], network: nn.ModuleDict, recorded: bool = False
    ) -> Passage:
        source = diffusion.encode(clip.video)
        warp = self._warp(diffusion, clip, source, network) if self._guides_time else None
        steps = self.taken(diffusion.schedule)
        frame = self._frame(clip.frames) if self.inversion == "temporal" else None
        way = inverted(diffusion, source, steps, frame, recorded)
        state, states, candidates = way[-1], [], []
        strengths = self._strengths(steps)
        for number, step, strength in zip(range(len(steps), 0, -1), steps, strengths, strict=True):
            state, candidate = recomputed(self._denoised, diffusion, state, source, warp, step, strength)
            if self.candidate in (None, number):
                candidates.append(candidate)
            if recorded:
                states.append(state)
        if self.candidate in (None, 0):
            candidates.append(state - strengths[-1] * self._gradient(state, source, warp))
        return Passage(tuple(candidates), tuple(states), tuple(way[-2::-1]))

    def _denoised(
        self, diffusion: Diffusion, state: Tensor, source: Tensor, warp: Warp | None, step: Step, strength: float
    ) -> tuple[Tensor, Tensor]:
        """The state below, and the guided prediction (lines 5 to 10 of Algorithm 1)."""
        noise = diffusion.noise(state, step)
        clean = predicted_clean(state, noise, step.upper)
        guided = state - strength * self._gradient(clean, source, warp) / sqrt(step.upper)
        candidate = predicted_clean(guided, noise, step.upper)
        return noised(candidate if self.guided_way else clean, noise, step.lower), candidate

    def _gradient(self, clean: Tensor, source: Tensor, warp: Warp | None) -> Tensor:
        """That of the weighted losses with respect to a predicted clip."""
        gradient = self.spatial * spatial_gradient(clean, source)
        return (
            gradient
            if warp is None
            else gradient + self.temporal * temporal_gradient(clean, warp, self.sides, self.softness)
        )

    def _strengths(self, steps: Sequence[Step]) -> list[float]:
        """How far each step's gradient is followed."""
        weights = [abs(step.log_variance) for step in steps]
        if self.weight == "constant":
            weights = [sum(weights) / len(weights)] * len(weights)
        return [self.strength * weight for weight in weights]

    def _warp(self, diffusion: Diffusion, clip: Clip, source: Tensor, network: nn.ModuleDict) -> Warp:
        pixels = reflected(clip.video.detach(), diffusion.codec.factor)
        flow = optical_flow(pixels, self.flow, network["flow"] if self.flow == "raft" else None)
        return Warp.along(on_grid(flow, *source.shape[3:]), masked=self.border == "mask")

    def _frame(self, frames: int) -> int:
        if not -frames <= self.reference < frames:
            raise InputError(f"reference={self.reference} is no frame of a clip of {frames} frames.")
        return self.reference % frames
