"""Learning rates as a function of the share of training done, so that there is nothing to save or restore."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "onecycle"]

_RISE = 0.3  # share of the training in which onecycle rises
_START, _END = 1 / 25, 1 / 250_000  # of the peak


def rate(schedule: Schedule, progress: float) -> float:
    """The learning rate as a fraction of its peak.

    ``constant`` is 1. ``cosine`` falls from 1 to 0 along half a cosine. ``onecycle`` rises from 1/25 to 1 in the
    first 30 % and falls to 1/250000, both along half a cosine (Smith & Topin 2018, with PyTorch's defaults).

    Args:
        schedule: its name.
        progress: share of the training done, in [0, 1].
    """
    match schedule:
        case "constant":
            return 1.0
        case "cosine":
            return _cosine(1.0, 0.0, progress)
        case "onecycle":
            if progress < _RISE:
                return _cosine(_START, 1.0, progress / _RISE)
            return _cosine(1.0, _END, (progress - _RISE) / (1 - _RISE))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
