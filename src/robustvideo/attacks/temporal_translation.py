"""Temporal translation: gradients gathered from clips that are shifted along time, so that they transfer.

A video network tells classes apart by patterns at certain places in time, and networks disagree about the places.
Gradients of the same clip, rolled along time and rolled back, blur that out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.averaged import Averaged, Copies
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import GradientEstimator
from robustvideo.attacks.updates import MomentumStep, Position, State, SteepestStep, UpdateRule, over_mean
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown

Shifts = Literal["adjacent", "remote", "random"]
Kernel = Literal["uniform", "linear", "gaussian"]
Normalisation = Literal["frame", "clip"]


@attacks.register("temporal_translation")
@dataclass(frozen=True)
class TemporalTranslation(GradientAttack):
    """Temporal translation, with momentum TT-MI (Wei et al. 2022).

    ``g = sum_k w_k grad J(roll(x, s_k))`` for k = -reach..reach, the gradient taken with respect to x, so that each
    term is rolled back by exactly the shift it was taken at; then a step of ``eps / steps`` along the steepest
    direction of g. (The authors' code rolls back by k also where s_k is not k: the gradients of their remote and
    random shifts are out of step with the clip. This is the corrected method.) With reach 0 it is I-FGSM.

    The paper's own settings are ``temporal_translation(eps=16/255)`` and, for TT-MI,
    ``temporal_translation(eps=16/255, momentum=1)``. One step costs ``2 * reach + 1`` passes. It is made to
    transfer: on the very model that it differentiates it need not be stronger than I-FGSM.

    Attributes:
        reach: L, the largest k. Default 7, i.e. 15 shifts.
        shifts: in frames, cyclic, for any length T of clip; s_0 = 0. "adjacent": s_k = k. "remote":
            ``sign(k) * ((|k| + T // 2 - 1) mod T)``. "random": ``sign(k)`` times a uniform draw from 0..T-1, anew for
            every clip, k and step. Default "adjacent".
        kernel: the weights w_k, which sum to 1: "uniform"; "linear", ``1 - |k| / (reach + 1)``; or "gaussian", of
            standard deviation ``reach / 3``. Default "gaussian".
        momentum: decay factor of the momentum; 0 for none. Default 0.
        normalise: what the gradient's mean absolute value is taken over before it enters the momentum: every
            "frame" alone, which lets all frames move alike, or the whole "clip". Sound is always normalised as a
            whole. Default "frame", the authors'. Without momentum nothing is normalised.
        roll_sound: roll the sound along with the video, by the same share of its length. By default it stays where
            it is: the video slides along its own sound.
        copies_per_pass: shifts of every clip that go through the model at once. Default: as many as make up
            8 clips, at least one.

    Raises:
        InputError: a value out of its range.
    """

    reach: int = 7
    shifts: Shifts = "adjacent"
    kernel: Kernel = "gaussian"
    momentum: float = 0.0
    normalise: Normalisation = "frame"
    roll_sound: bool = False
    copies_per_pass: int | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        for name, value, known in (
            ("shifts", self.shifts, get_args(Shifts)),
            ("kernel", self.kernel, get_args(Kernel)),
            ("normalise", self.normalise, get_args(Normalisation)),
        ):
            if value not in known:
                raise unknown(f"value of {name}=", value, known)
        if self.reach < 0:
            raise InputError(f"The largest shift is not negative, got reach={self.reach}.")
        if self.momentum < 0:
            raise InputError(f"A decay factor is not negative, got momentum={self.momentum:g}.")
        self.estimator()  # refuses what no average can be made of

    def update(self) -> UpdateRule:
        if self.momentum == 0:
            return SteepestStep(self.relative_step)
        rule = FrameMomentumStep if self.normalise == "frame" else MomentumStep
        return rule(self.relative_step, self.momentum)

    def estimator(self) -> GradientEstimator:
        return Averaged(
            transform=Translation(self.reach, self.shifts, self.roll_sound),
            weights=kernel_weights(self.kernel, self.reach),
            copies_per_pass=self.copies_per_pass,
            origin=self.reach,
        )


@dataclass(frozen=True)
class Translation:
    """Copy number r of a clip is rolled along time by the shift of ``k = r - reach`` (see `TemporalTranslation`)."""

    reach: int
    shifts: Shifts = "adjacent"
    roll_sound: bool = False

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        shifts = self.drawn(copies, clip.frames)
        rolled = clip.with_signal("video", roll_frames(clip.video, shifts))
        if clip.audio is None or not self.roll_sound:
            return rolled
        samples = clip.audio.shape[2]
        # whole numbers: rounding half up, exactly
        return replace(rolled, audio=roll_frames(clip.audio, (2 * shifts * samples + clip.frames) // (2 * clip.frames)))

    def drawn(self, copies: Copies, frames: int) -> Tensor:
        """(rows,) shifts in frames, on the CPU."""
        k = torch.tensor(copies.numbers) - self.reach
        if self.shifts == "adjacent":
            return k
        if self.shifts == "remote":
            return k.sign() * ((k.abs() + frames // 2 - 1) % frames)
        return k.sign() * copies.random("shift").integers(0, frames)[:, 0]


@dataclass(frozen=True)
class FrameMomentumStep(MomentumStep):
    """`MomentumStep` in which every frame of a video's gradient is divided by its own mean absolute value."""

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        momentum = self.decay * state["momentum"] + over_frame_mean(here.gradient)
        return here.steepest(momentum, self.size), {"momentum": momentum}


def over_frame_mean(gradient: Tensor) -> Tensor:
    """A video's gradient (B, C, T, H, W), each frame divided by its mean absolute value; a zero frame stays zero.

    Sound (B, channels, samples) is divided as a whole, see `over_mean`.
    """
    if gradient.ndim != 5:
        return over_mean(gradient)
    mean = gradient.abs().mean((1, 3, 4), keepdim=True)
    return gradient / mean.clamp_min(torch.finfo(gradient.dtype).tiny)


def roll_frames(signal: Tensor, shifts: Tensor) -> Tensor:
    """Each row rolled along dimension 2 by its own number of places: ``out[b, :, t] = signal[b, :, (t - s_b) mod T]``.

    Args:
        signal: video (B, C, T, H, W), or sound (B, channels, samples).
        shifts: (B,) int64, of any sign and size.
    """
    batch, channels, length = signal.shape[:3]
    shifts = shifts.to(signal.device)
    source = (torch.arange(length, device=signal.device) - shifts[:, None]) % length
    series = torch.arange(batch * channels, device=signal.device).view(batch, channels, 1)
    places = (series * length + source[:, None]).flatten()
    return signal.flatten(0, 2).index_select(0, places).view(signal.shape)


def kernel_weights(kernel: Kernel, reach: int) -> tuple[float, ...]:
    """Weights of the shifts -reach..reach, which sum to 1 (see `TemporalTranslation`)."""
    distances = [abs(k) for k in range(-reach, reach + 1)]
    if kernel == "uniform" or reach == 0:
        weights = [1.0] * len(distances)
    elif kernel == "linear":
        weights = [1 - d / (reach + 1) for d in distances]
    else:
        weights = [math.exp(-0.5 * (3 * d / reach) ** 2) for d in distances]
    total = math.fsum(weights)
    return tuple(w / total for w in weights)
