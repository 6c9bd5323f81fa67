"""The temporal step size: frames with a large gradient take small steps (video MoE, equations 5 to 7).

``V_t = beta * V_(t-1) + ||g_t||_2``, ``a_t = alpha * eps / (1 + log(1 + sqrt(V_t)))``, ``x <- P(x + a * sign(g))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustvideo.attacks.updates import Position, State, SteepestStep
from robustvideo.clip import per_clip

Momentum = Literal["frames", "steps"]


@dataclass(frozen=True)
class TemporalStep(SteepestStep):
    """A steepest step, smaller in frames whose gradients were large.

    Three decisions where the paper is silent or cannot be meant as printed:

    * The step starts from the current point (equation 7 prints the clean clip, with which many steps equal one).
    * t counts frames: the recursion runs along the clip, anew at every step ("frames"), since the frame is the only
      index that the paper defines. With equal gradients later frames then take smaller steps. In the other reading
      ("steps") every frame has an accumulator of its own that lasts from step to step.
    * ``V_1 = ||g_1||``: each frame counts its own gradient (read literally, the first would have none).

    Gradients are those of the sum over clips. Of a mean they would shrink with the batch, and V with them. Where V
    is far below 1 this is the plain step. In norms other than Linf the steepest direction takes the place of the
    sign. Sound has no frames and counts as one.

    Attributes:
        size: alpha, the step as a fraction of the budget.
        beta: what a frame (or a step) passes on to the next, in [0, 1). Default 0.9, our decision.
        momentum: "frames" or "steps".
    """

    beta: float = 0.9
    momentum: Momentum = "frames"

    def init(self, variable: Tensor) -> State:
        if self.momentum == "frames":
            return {}
        return {"accumulated": torch.zeros_like(frame_norms(variable))}

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        share, state = self.shares(here.gradient, state)
        share = share[:, None, :, None, None] if here.variable.ndim == 5 else share[:, :, None]
        step = per_clip(self.size * here.eps, here.variable) * share
        direction = here.part.steepest(here.gradient, here.signal, here.mask)
        return here.variable + step * direction, state

    def shares(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T) the share of the full step that every frame takes, and the state after this gradient."""
        norms = frame_norms(gradient)
        if self.momentum == "frames":
            return damping(along_frames(norms, self.beta)), state
        accumulated = self.beta * state["accumulated"] + norms
        return damping(accumulated), {"accumulated": accumulated}


def frame_norms(gradient: Tensor) -> Tensor:
    """(B, T) L2 norm of every frame of a (B, C, T, H, W) gradient; (B, 1) of any other."""
    frames = gradient.transpose(1, 2).flatten(2) if gradient.ndim == 5 else gradient.flatten(1)[:, None]
    norms: Tensor = torch.linalg.vector_norm(frames, dim=2)
    return norms


def along_frames(norms: Tensor, beta: float) -> Tensor:
    """``V_t = beta * V_(t-1) + G_t`` along the frames of (B, T) norms, V_0 = 0 (equation 5)."""
    frames = torch.arange(norms.shape[1], device=norms.device)
    age = frames[:, None] - frames[None, :]
    kept = torch.where(age >= 0, torch.tensor(beta, dtype=norms.dtype, device=norms.device) ** age.clamp_min(0), 0.0)
    return (norms[:, None, :] * kept).sum(2)


def damping(accumulated: Tensor) -> Tensor:
    """``1 / (1 + log(1 + sqrt(V)))``: the share of the full step that equation 6 leaves; in (0, 1]."""
    return 1 / (1 + torch.log1p(accumulated.sqrt()))
