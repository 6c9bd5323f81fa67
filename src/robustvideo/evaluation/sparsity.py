"""DeepSAVA's measures of sparse attacks (Mu et al. 2024, section 4), as functions of records.

The fooling rate and the average number of iterations are in `robustvideo.evaluation.metrics.AttackSummary`
(``fooling_rate`` and ``iterations``, of clips that were recognised without the attack, and of those fooled).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist, fmean, stdev

from robustvideo.evaluation.metrics import CONFIDENCE, Interval, is_recognised, needed_attack
from robustvideo.evaluation.records import Record

LARGEST_L21, LARGEST_SSIM = 0.1, 0.08
"""The paper's largest distances D_max."""

Distance = Callable[[Record], float]


def l21_of(record: Record) -> float:
    """The L2,1 norm of a record's change: the sum over frames of the root mean square (`distances.l21`).

    The paper justifies its largest, 0.1, as if this were a mean over the frames; its code takes the sum.
    """
    return record.l21


def dissimilarity_of(record: Record) -> float:
    """The sum over frames of 1 - SSIM of a record's change (`distances.structural_distance`)."""
    return (1 - record.ssim) * len(record.frame_rms)


def average_absolute_perturbation(
    records: Iterable[Record], distance: Distance, largest: float, confidence: float = CONFIDENCE
) -> Interval:
    """``AAP(D) = f * mean D + D_max (1 - f)``, f the fooling rate, the mean over the clips fooled (section 4.2.2).

    Equally, the mean over the clips recognised without the attack of D where they are fooled, and of D_max elsewhere:
    the interval is the normal one of that mean. Several seeds of a clip are averaged first.

    Args:
        records: rows of one attack at one budget.
        distance: `l21_of` or `dissimilarity_of`.
        largest: D_max, e.g. `LARGEST_L21` or `LARGEST_SSIM`.
        confidence: coverage in (0, 1). Default 0.95 (the paper: 0.99 over ten runs).
    """
    return mean_interval(
        _per_clip((r for r in records if needed_attack(r)), lambda r: largest if is_recognised(r) else distance(r)),
        confidence,
    )


def average_success_perturbation(records: Iterable[Record], confidence: float = CONFIDENCE) -> Interval:
    """ASP(SSIM), the mean of `dissimilarity_of` over the clips fooled (section 4.2.6), with its normal interval.

    The paper prints the SSIM of a difference of clips, which has no meaning.
    """
    fooled = (r for r in records if needed_attack(r) and not is_recognised(r))
    return mean_interval(_per_clip(fooled, dissimilarity_of), confidence)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """A mean with its normal interval; NaN without values, unbounded with a single one."""
    if not values:
        return Interval(-math.inf, math.nan, math.inf)
    mean = fmean(values)
    if len(values) == 1:
        return Interval(-math.inf, mean, math.inf)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * stdev(values) / math.sqrt(len(values))
    return Interval(mean - half, mean, mean + half)


def _per_clip(records: Iterable[Record], value: Callable[[Record], float]) -> list[float]:
    """One value per clip: the mean over its rows."""
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record.sample_id, []).append(value(record))
    return [fmean(found) for found in values.values()]
