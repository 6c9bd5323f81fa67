"""`ThreatModel` and `Part`: the contract between an attack and what it may change."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor

from robustvideo.clip import Clip, Modality
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.registry import Registry, allow_nested
from robustvideo.support import Everywhere, Support
from robustvideo.threat.box import into_box

GRID: dict[Modality, int] = {"video": 255, "audio": 32768}
"""Steps per unit that a file can store: 8-bit pixels, 16-bit sound."""


class ThreatModel(ABC):
    """What the adversary may change. Either one part, or a `Joint` of several."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The single-modality parts, in the order in which they are applied."""

    def perturb(self, clip: Clip, variables: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Clip:
        """The clip under the perturbation; differentiable in ``variables`` (one tensor per part)."""
        shared = len({part.modality for part in self.parts}) < len(self.parts)
        for part, variable, mask in zip(self.parts, variables, masks, strict=True):
            changed = part.apply(clip.signal(part.modality), variable, mask)
            # a part's projection keeps to the box around the clean signal, not around what another part made of it
            clip = clip.with_signal(part.modality, into_box(changed, *part.box) if shared else changed)
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
                ok &= clean is None and changed is None
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
        if not isinstance(self.eps, Real):
            raise InputError(f"A budget is a number, such as 8 / 255, got {self.eps!r}.")
        if not 0 < self.eps < math.inf:
            raise InputError(f"A budget must be positive, got eps={self.eps:g}: there is nothing to attack at 0.")
        if self.modality == "audio" and not isinstance(self.support, Everywhere):
            raise InputError("Supports are places in a picture: sound is attacked everywhere.")

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
    def steepest(self, gradient: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """The direction of norm 1 (in the part's own norm) along which a linear function rises fastest.

        A zero gradient yields a zero direction; its scale does not matter.
        """

    def of_norm_one(self, direction: Tensor, signal: Tensor, mask: Tensor | None) -> Tensor:
        """A direction scaled to about one budget per unit step, keeping its proportions (for looking ahead)."""
        return self.steepest(direction, signal, mask)

    @abstractmethod
    def within_budget(self, clean: Tensor, changed: Tensor, eps: Tensor) -> Tensor:
        """(B,) bool: is the difference inside the ball?"""

    def quantise(self, signal: Tensor, variable: Tensor, mask: Tensor | None, eps: Tensor) -> Tensor:
        """The changed signal, rounded onto the grid without leaving the ball."""
        changed = self.apply(signal, variable, mask).detach().clamp(*self.box)
        return torch.where(changed == signal, signal, self._round(changed)) if self.stored else changed

    def within_box_and_grid(self, clean: Tensor, changed: Tensor) -> Tensor:
        """(B,) bool: values inside the box; on the grid, or where the clean value is untouched."""
        low, high = self.box
        ok = (changed >= low).logical_and_(changed <= high)
        if self.stored:
            ok.logical_and_(self._round(changed) == changed)
        return ok.logical_or_(changed == clean).flatten(1).all(1)

    def within_support(self, clean: Tensor, changed: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) bool: nothing changed outside the mask."""
        if mask is None:
            return torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        return ((changed == clean) | (mask > 0)).flatten(1).all(1)

    def _round(self, signal: Tensor) -> Tensor:
        levels = GRID[self.modality]
        return (signal * levels).round_().div_(levels)


threats: Registry[ThreatModel] = Registry("threat model", "threats", "robustvideo.threat")
allow_nested(ThreatModel, threats)
