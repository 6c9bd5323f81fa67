"""PGD that turns the optical flow of a clip together with its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from robustvideo.attacks.attack import Problem, Variables, attacks
from robustvideo.attacks.gradients import Estimate, GradientEstimator
from robustvideo.attacks.objectives import CrossEntropy, Objective
from robustvideo.attacks.pgd import PGD
from robustvideo.errors import InputError, unknown
from robustvideo.flow.optical_flow import DIFFERENTIABLE, FlowSource, differentiable_flow, load_raft

_REFERENCE = "flow"
_LEAST = 1e-6  # under the root: at no error at all it would have no gradient


@dataclass(frozen=True, eq=False)
class FlowOf:
    """(B, 2, T - 1, H, W) flow of videos, differentiable.

    Attributes:
        source: see `robustvideo.flow.optical_flow`.
        network: RAFT, where it is the source.
    """

    source: FlowSource
    network: nn.Module | None

    def __call__(self, video: Tensor) -> Tensor:
        network = None if self.network is None else self.network.to(video.device)
        return differentiable_flow(video, self.source, network)


@dataclass(frozen=True, eq=False)
class BesideFlow(CrossEntropy):
    """The cross-entropy, with the flow of the clean clips for reference."""

    flow: FlowOf

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        if problem.clip.frames < 2:
            raise InputError("flow_pgd turns the motion between frames: it needs at least two.")
        with torch.no_grad():
            return {_REFERENCE: self.flow(problem.clip.video)}


@dataclass(frozen=True, eq=False)
class ClassAndFlow:
    """``n(grad J) + share n(grad EPE)``, n(g) the gradient over its mean absolute value in the clip.

    ``EPE = mean ||O(x + d) - O(x)||_2`` over frames and pixels. The two differ by orders of magnitude, so that it is
    the gradients that are added.

    Attributes:
        estimator: gives the gradient of J.
        flow: O.
        share: of the flow's gradient.
    """

    estimator: GradientEstimator
    flow: FlowOf
    share: float

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        estimate = self.estimator(problem, objective, variables, step)
        variables = tuple(v.detach().requires_grad_() for v in variables)
        video = problem.threat.perturb(problem.clip, variables, problem.masks).video
        error = end_point_error(self.flow(video), problem.reference[_REFERENCE])
        flowing = torch.autograd.grad(error.sum(), variables, allow_unused=True, materialize_grads=True)
        pairs = zip(estimate.gradients, flowing, strict=True)
        return replace(estimate, gradients=tuple(_evened(g) + self.share * _evened(f) for g, f in pairs))


@attacks.register("flow_pgd")
@dataclass(frozen=True)
class FlowPGD(PGD):
    """PGD on a network and on the optical flow at once (VideoPure, table VI; its objective is not given: ours).

    The steepest step of ``n(grad J) + share n(grad EPE)``; see `ClassAndFlow`. A purifier that follows the flow of the
    clip as it is given is misled by a clip whose flow is wrong.

    Attributes:
        share: of the flow's gradient, beside the class' own of 1. Default 1, ours. 0 is PGD.
        flow: what is differentiated: ``horn_schunck``, which needs no weights, or ``raft``. Take the defence's own.

    Raises:
        InputError: a negative share, an unknown flow or one that has no gradient, or RAFT's weights cannot be had.
    """

    share: float = 1.0
    flow: FlowSource = "horn_schunck"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not 0 <= self.share < float("inf"):
            raise InputError(f"share of flow_pgd is finite and at least 0, got {self.share:g}.")
        if self.flow not in DIFFERENTIABLE:
            raise unknown("flow with a gradient:", str(self.flow), DIFFERENTIABLE)

    def objective(self) -> Objective:
        return BesideFlow(self._flow)

    def estimator(self) -> GradientEstimator:
        return ClassAndFlow(super().estimator(), self._flow, self.share)

    @cached_property
    def _flow(self) -> FlowOf:
        return FlowOf(self.flow, load_raft() if self.flow == "raft" else None)


def end_point_error(flow: Tensor, truth: Tensor) -> Tensor:
    """(B,) mean Euclidean distance in pixels of two flows (B, 2, T - 1, H, W)."""
    return ((flow - truth).square().sum(1) + _LEAST).sqrt().flatten(1).mean(1)


def _evened(gradient: Tensor) -> Tensor:
    """A gradient over its mean absolute value in the clip; 0 stays 0."""
    scale = gradient.abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return torch.nan_to_num(gradient / scale.view(-1, *[1] * (gradient.ndim - 1)), nan=0.0, posinf=0.0, neginf=0.0)
