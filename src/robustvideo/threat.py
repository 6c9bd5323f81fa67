"""Threat models: what an adversary may change, and the check that it changed nothing else.

A threat model owns a *variable* z per clip (usually the perturbation itself) in a norm ball. It can draw a start,
turn z into a clip, project z back into the ball, round the result onto the grid of what a file can store, and
verify a finished adversarial clip. Attacks hold no knowledge of norms, boxes or masks.

`Linf`, `L2` and `L21` bound a perturbation of the pixels (or of the sound); `FlowField` bounds how far each pixel
may be moved; `Joint` combines several, for instance one per modality.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.clip import Clip, Modality, per_clip
from robustvideo.distances import frame_rms, l2, l21
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.registry import Registry, allow_nested
from robustvideo.support import Everywhere, Support

GRID: dict[Modality, int] = {"video": 255, "audio": 32768}
"""Steps per unit that a file can store: 8-bit pixels, 16-bit sound."""

_TOLERANCE = 1e-5  # of the budget: the rounding error of fp32 sums, never of the grid


class ThreatModel(ABC):
    """What the adversary may change. Either one part, or a `Joint` of several."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The single-modality parts, in the order in which they are applied."""

    def perturb(self, clip: Clip, variables: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Clip:
        """The clip under the perturbation; differentiable in ``variables`` (one tensor per part)."""
        for part, variable, mask in zip(self.parts, variables, masks, strict=True):
            signal = clip.signal(part.modality)
            clip = clip.with_signal(part.modality, part.apply(signal, variable, mask))
        return clip

    def store(
        self, clip: Clip, variables: Sequence[Tensor], masks: Sequence[Tensor | None], eps: Sequence[Tensor]
    ) -> Clip:
        """The perturbed clip as a file holds it: on the grid, in the box, and still within the budget.

        Args:
            clip: the clean clips.
            variables: one tensor per part.
            masks: one mask or None per part.
            eps: one (B,) tensor of budgets per part.
        """
        stored = clip
        for part, variable, mask, budget in zip(self.parts, variables, masks, eps, strict=True):
            signal = stored.signal(part.modality)
            stored = stored.with_signal(part.modality, part.quantise(signal, variable, mask, budget))
        return stored

    def verify(self, clip: Clip, adversarial: Clip, masks: Sequence[Tensor | None], eps: Sequence[Tensor]) -> Tensor:
        """(B,) bool: does each adversarial clip keep to the box, the grid, the support and the budget?

        Where several parts change the same modality, no single part's norm can be read off the result; box and
        grid are then checked, and the parts vouch for their own variables.
        """
        ok = torch.ones(len(clip), dtype=torch.bool, device=clip.device)
        for modality in ("video", "audio"):
            own = [i for i, part in enumerate(self.parts) if part.modality == modality]
            clean, changed = (c.video if modality == "video" else c.audio for c in (clip, adversarial))
            if clean is None or changed is None:
                continue
            if not own:
                ok &= (clean == changed).flatten(1).all(1)
                continue
            for i in own:
                ok &= self.parts[i].within_box_and_grid(clean, changed)
            if len(own) == 1:
                i = own[0]
                ok &= self.parts[i].within_support(clean, changed, masks[i])
                ok &= self.parts[i].within_budget(clean, changed, eps[i])
        return ok


@dataclass(frozen=True)
class Part(ThreatModel):
    """One modality's share of a threat model.

    Attributes:
        eps: the budget. Its unit is the subclass's.
        modality: "video" or "audio".
        support: where changes are allowed.
        stored: verdicts count on the grid of what a file holds (8-bit video, 16-bit sound). False is for
            mathematics in continuous space only.
    """

    eps: float
    modality: Modality = "video"
    support: Support = field(default_factory=Everywhere)
    stored: bool = True

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise InputError(f"A budget must be positive, got eps={self.eps:g}: there is nothing to attack at 0.")

    @property
    def parts(self) -> Sequence[Part]:
        return (self,)

    @property
    def box(self) -> tuple[float, float]:
        """Least and greatest value of the signal; +1.0 does not exist in 16-bit sound."""
        if self.modality == "video":
            return 0.0, 1.0
        return -1.0, (1.0 - 1.0 / GRID["audio"] if self.stored else 1.0)

    @abstractmethod
    def zeros(self, signal: Tensor) -> Tensor:
        """The variable of "no change", of shape (B, ...)."""

    @abstractmethod
    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        """A random variable inside the ball, of shape (B, ...)."""

    @abstractmethod
    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        """The changed signal; differentiable in ``variable``."""

    @abstractmethod
    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        """The variable moved back into ball and box."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 (in the part's own norm) along which a linear function rises fastest.

        A zero gradient yields a zero direction.
        """

    @abstractmethod
    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        """(B,) bool: is the difference inside the ball?"""

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """The changed signal, rounded onto the grid without leaving the ball."""
        changed = self.apply(signal, variable, mask).detach().clamp(*self.box)
        return self._round(changed) if self.stored else changed

    def within_box_and_grid(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(B,) bool: values inside the box; on the grid, or where the clean value is untouched."""
        low, high = self.box
        ok = (changed == clean) | ((changed >= low) & (changed <= high))
        if self.stored:
            ok &= (changed == clean) | (self._round(changed) == changed)
        return ok.flatten(1).all(1)

    def within_support(self, clean: Tensor, changed: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) bool: nothing changed outside the mask."""
        if mask is None:
            return torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        return ((changed == clean) | (mask > 0)).flatten(1).all(1)

    def _round(self, signal: Tensor) -> Tensor:
        levels = GRID[self.modality]
        return (signal * levels).round() / levels


Parametrisation = Literal["dense", "frame_colour"]


@dataclass(frozen=True)
class NormBall(Part):
    """An additive perturbation in a norm ball.

    Attributes:
        parametrisation: "dense" gives every value its own variable; "frame_colour" one colour offset per frame
            (flickering): the variable is (B, C, T, 1, 1), and the ball is still that of the resulting pixels.
    """

    parametrisation: Parametrisation = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parametrisation == "frame_colour" and self.modality == "audio":
            raise InputError("Sound has no colour: parametrisation='frame_colour' is for video.")

    def zeros(self, signal: Tensor) -> Tensor:
        if self.parametrisation == "frame_colour":
            return torch.zeros(*signal.shape[:3], 1, 1, dtype=signal.dtype, device=signal.device)
        return torch.zeros_like(signal)

    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            variable = variable * mask
        changed = signal + variable
        # a dense variable is projected into the box already; a shared offset can only be clipped
        return changed if self.parametrisation == "dense" else changed.clamp(*self.box)

    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        dense = self.parametrisation == "dense"
        if mask is not None and dense:
            variable = variable * mask
        variable = self._into_ball(variable, eps, signal, mask)
        return (signal + variable).clamp_(*self.box) - signal if dense else variable

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """Round to the nearest grid point; where that leaves the ball, shrink the perturbation until it does not.

        The share of the perturbation that is kept is found by bisection (12 halvings), clip by clip.
        """
        stored = super().quantise(signal, variable, mask, eps)
        kept = torch.ones(len(signal), dtype=signal.dtype, device=signal.device)
        high, low = kept.clone(), torch.zeros_like(kept)
        over = ~self.within_budget(signal, stored, eps)
        if not over.any():
            return stored
        for _ in range(12):
            kept = torch.where(over, (low + high) / 2, kept)
            trial = super().quantise(signal, variable * per_clip(kept, variable), mask, eps)
            ok = self.within_budget(signal, trial, eps)
            low, high = torch.where(ok, kept, low), torch.where(ok, high, kept)
        shrunk = super().quantise(signal, variable * per_clip(low, variable), mask, eps)
        fits = self.within_budget(signal, shrunk, eps)
        shrunk = torch.where(per_clip(fits, signal), shrunk, signal)  # an off-grid clean clip may not round at all
        return torch.where(per_clip(over, signal), shrunk, stored)

    @abstractmethod
    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """The nearest variable whose perturbation is inside the norm ball."""

    def _pixels_per_value(self, variable: Tensor, signal: Tensor) -> float:
        """How many values of the signal one value of the variable moves."""
        return signal[0].numel() / variable[0].numel()


threats: Registry[ThreatModel] = Registry("threat model", "threats", "robustvideo.threat")
allow_nested(ThreatModel, threats)


@threats.register("linf")
@dataclass(frozen=True)
class Linf(NormBall):
    """Every value may change by at most ``eps``, a fraction of the range [0, 1] (sound: of [-1, 1]'s unit).

    Raises:
        InputError: ``eps`` outside (0, 1], or below the smallest change that a file can hold (1/255; 1/32768).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            raise InputError(
                f"A budget is a fraction of the range [0, 1], got eps={self.eps:g}: write eps={self.eps:g}/255 "
                "for grey levels."
            )
        levels = GRID[self.modality]
        if self.stored and self.eps * levels < 1 - _TOLERANCE:
            raise InputError(
                f"eps={self.eps:g} is below 1/{levels}, the smallest change that a stored {self.modality} can hold."
            )

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.uniform(self.zeros(signal)) * 2 - 1
        return self.project(signal, draw * per_clip(eps, draw), eps, mask)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """Round to the nearest grid point inside the ball."""
        changed = self.apply(signal, variable, mask).detach().clamp(*self.box)
        if not self.stored:
            return changed
        levels = GRID[self.modality]
        reach = per_clip(eps, signal)
        slack = 1e-3  # of one level: the representation error of x * 255, far below any real step
        least = torch.ceil((signal - reach) * levels - slack)
        most = torch.floor((signal + reach) * levels + slack)
        rounded = (changed * levels).round().clamp(least, most) / levels
        return torch.where(variable * (1 if mask is None else mask) == 0, signal, rounded)

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        slack = 2e-3 / GRID[self.modality] if self.stored else 1e-6
        return (changed - clean).flatten(1).abs().amax(1) <= eps + slack

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        bound = per_clip(eps, variable)
        return variable.clamp(-bound, bound)


@threats.register("l2")
@dataclass(frozen=True)
class L2(NormBall):
    """The Euclidean norm of the perturbation over the whole clip is at most ``eps``.

    Not a fraction of anything: a change of 8/255 at every value of a 3x16x112x112 clip has norm 24.3.
    """

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.normal(self.zeros(signal))
        length = random.uniform(eps[:, None])[:, 0] * eps
        if mask is not None and self.parametrisation == "dense":
            draw = draw * mask
        return self.project(signal, self._scaled_to(draw, length, signal), eps, mask)

    def steepest(self, gradient: Tensor) -> Tensor:
        norm = gradient.flatten(1).norm(dim=1)
        return gradient / per_clip(norm.clamp_min(torch.finfo(norm.dtype).tiny), gradient)

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        return l2(changed, clean) <= eps * (1 + _TOLERANCE)

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        return self._scaled_to(variable, torch.minimum(self._norm(variable, signal), eps), signal)

    def _norm(self, variable: Tensor, signal: Tensor) -> Tensor:
        return variable.flatten(1).norm(dim=1) * self._pixels_per_value(variable, signal) ** 0.5

    def _scaled_to(self, variable: Tensor, norm: Tensor, signal: Tensor) -> Tensor:
        now = self._norm(variable, signal).clamp_min(torch.finfo(variable.dtype).tiny)
        return variable * per_clip(norm / now, variable)


@threats.register("l21")
@dataclass(frozen=True)
class L21(NormBall):
    """The sum over frames of each frame's root mean square perturbation is at most ``eps`` (see `distances.l21`).

    A fraction of the range: one frame changed everywhere by 0.1 costs 0.1. The ball prefers few frames: its
    steepest direction changes only the frame with the largest gradient.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality == "audio":
            raise InputError("The L2,1 norm is over frames: use linf or l2 for sound.")

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.normal(self.zeros(signal))
        if mask is not None and self.parametrisation == "dense":
            draw = draw * mask
        length = random.uniform(eps[:, None])[:, 0] * eps
        norm = frame_rms(draw).sum(1).clamp_min(torch.finfo(draw.dtype).tiny)
        return self.project(signal, draw * per_clip(length / norm, draw), eps, mask)

    def steepest(self, gradient: Tensor) -> Tensor:
        sizes = frame_rms(gradient)
        best = sizes.argmax(1, keepdim=True)
        chosen = torch.zeros_like(sizes).scatter_(1, best, 1.0)
        scale = chosen / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
        return gradient * scale[:, None, :, None, None]

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        return l21(changed, clean) <= eps * (1 + _TOLERANCE)

    def _into_ball(self, variable: Tensor, eps: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        sizes = frame_rms(variable)
        kept = _onto_simplex(sizes, eps)
        scale = kept / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
        return variable * scale[:, None, :, None, None]


@threats.register("flow")
@dataclass(frozen=True)
class FlowField(Part):
    """Every pixel may be fetched from at most ``eps`` pixels away, per axis (a spatial warp, bilinear).

    The variable is a displacement (B, 2, T, H, W) in pixels: channel 0 moves along columns, 1 along rows. Output
    pixel (r, c) reads the input at (r + dy, c + dx); beyond the border the border's value is repeated. Zero
    displacement is the identity. Source: DeepSAVA section 3.3.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality == "audio":
            raise InputError("A flow field moves pixels: it is for video only.")

    def zeros(self, signal: Tensor) -> Tensor:
        batch, _, frames, height, width = signal.shape
        return torch.zeros(batch, 2, frames, height, width, dtype=signal.dtype, device=signal.device)

    def random_start(self, signal: Tensor, eps: Tensor, mask: Tensor | None, random: ClipRandom) -> Tensor:
        draw = random.uniform(self.zeros(signal)) * 2 - 1
        return self.project(signal, draw * per_clip(eps, draw), eps, mask)

    def apply(self, signal: Tensor, variable: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return warp(signal, variable)
        return torch.where(mask > 0, warp(signal, variable * mask), signal)

    def project(self, signal: Tensor, variable: Tensor, eps: Tensor, mask: Tensor | None) -> Tensor:
        bound = per_clip(eps, variable)
        variable = variable.clamp(-bound, bound)
        return variable if mask is None else variable * mask

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        """A displacement cannot be read off the pixels; `project` has bounded it."""
        return torch.ones(len(clean), dtype=torch.bool, device=clean.device)


@threats.register("joint")
@dataclass(frozen=True)
class Joint(ThreatModel):
    """Several parts at once: one per modality, or several on one (a warp, then noise), applied in order.

    Example:
        ``Joint((Linf(8 / 255), Linf(0.012, modality="audio")))``
    """

    members: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("A joint threat model needs at least one part.")

    @property
    def parts(self) -> Sequence[Part]:
        return self.members


def with_budget(threat: ThreatModel, eps: float) -> ThreatModel:
    """The same threat model with another budget.

    Raises:
        InputError: a `Joint`, whose parts each have their own.
    """
    if not isinstance(threat, Part):
        raise InputError("A joint threat model has one budget per part: give them in its parts, not as eps.")
    return replace(threat, eps=eps)


def warp(video: Tensor, flow: Tensor) -> Tensor:
    """Fetch every pixel from where ``flow`` points, bilinearly, repeating the border.

    Args:
        video: (B, C, T, H, W).
        flow: displacement (B, 2, T, H, W) in pixels; channel 0 along columns, 1 along rows.
    """
    batch, channels, frames, height, width = video.shape
    columns = torch.arange(width, dtype=video.dtype, device=video.device)
    rows = torch.arange(height, dtype=video.dtype, device=video.device)
    x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    y = 2 * (rows[:, None] + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack([x, y], dim=-1).flatten(0, 1)
    images = video.transpose(1, 2).flatten(0, 1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return moved.view(batch, frames, channels, height, width).transpose(1, 2)


def _onto_simplex(sizes: Tensor, total: Tensor) -> Tensor:
    """Nearest non-negative (B, T) rows whose sum is at most ``total`` (B,): soft thresholding (Duchi et al. 2008)."""
    ordered, _ = sizes.sort(dim=1, descending=True)
    ranks = torch.arange(1, sizes.shape[1] + 1, dtype=sizes.dtype, device=sizes.device)
    thresholds = (ordered.cumsum(1) - total[:, None]) / ranks
    active = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1)
    threshold = thresholds.gather(1, active - 1).clamp_min(0)
    return torch.where(sizes.sum(1, keepdim=True) <= total[:, None], sizes, (sizes - threshold).clamp_min(0))
