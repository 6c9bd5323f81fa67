"""`Joint`: several parts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustvideo.errors import InputError
from robustvideo.threat.audio_visual import AudioVisual
from robustvideo.threat.part import Part, ThreatModel, threats


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
    """The same threat model with another budget; that of an `AudioVisual` is its pixels', the sound's is in proportion.

    Raises:
        InputError: a `Joint`, whose parts each have their own.
    """
    if isinstance(threat, AudioVisual):
        return threat.with_eps(eps)
    if not isinstance(threat, Part):
        raise InputError("A joint threat model has one budget per part: give them in its parts, not as eps.")
    return replace(threat, eps=eps)
