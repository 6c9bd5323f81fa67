"""From records to a table's cells, and from two rows to a verdict. A clip is one statistical unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from robustvideo.attacks import Attack
from robustvideo.evaluation.metrics import CONFIDENCE, Interval, is_recognised, wilson
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.evaluation.sparsity import LARGEST_L21, LARGEST_SSIM, Distance, dissimilarity_of, l21_of

Values = Mapping[str, float]
"""Clip -> what a column measured of it, averaged over the column's attacks."""

_FEWEST = 6
"""Clips of a sign test that can reach 95 %."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Measure:
    """What a cell says.

    Attributes:
        value: of one clip under one attack. ``error_rate`` and ``fooling_rate`` are an attack's successes.
        counts: whether a clip counts: fooling rates are of clips recognised before, distances of those fooled.
        share: the values are shares of clips, else means with a unit.
        unit: printed behind the value; shares are printed in percent.
        larger_is_better: which way a claim goes.
    """

    value: Callable[[Record], float]
    counts: Callable[[Record], bool] = lambda record: True
    share: bool = False
    unit: str = ""
    larger_is_better: bool = False


def _was_recognised(record: Record) -> bool:
    return record.clean_prediction == record.label


def _was_fooled(record: Record) -> bool:
    return _was_recognised(record) and record.success


def _or_largest(distance: Distance, largest: float) -> Callable[[Record], float]:
    """A clip's part in DeepSAVA's average absolute perturbation; see `sparsity.average_absolute_perturbation`."""
    return lambda record: largest if is_recognised(record) else distance(record)


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(is_recognised, share=True, larger_is_better=True),
    "error_rate": Measure(lambda r: not is_recognised(r), share=True, larger_is_better=True),
    "fooling_rate": Measure(lambda r: r.success, _was_recognised, share=True, larger_is_better=True),
    "iterations": Measure(lambda r: r.first_success_step, _was_fooled),
    "linf": Measure(lambda r: 255 * r.linf, _was_fooled, unit="/255"),
    "l2": Measure(lambda r: r.l2, _was_fooled),
    "l21": Measure(lambda r: r.l21, _was_fooled),
    "ssim": Measure(lambda r: r.ssim, _was_fooled, larger_is_better=True),
    "dissimilarity": Measure(dissimilarity_of, _was_fooled),
    "aap_l21": Measure(_or_largest(l21_of, LARGEST_L21), _was_recognised),
    "aap_ssim": Measure(_or_largest(dissimilarity_of, LARGEST_SSIM), _was_recognised),
    "frames_touched": Measure(lambda r: r.frames_touched, _was_fooled),
    "gradients": Measure(lambda r: r.backward_passes),
    "seconds": Measure(lambda r: r.seconds, unit=" s"),
}
"""By name. Distances are of the stored clip, over the clips that were fooled; costs are per clip.

``dissimilarity`` (the sum over frames of 1 - SSIM), ``aap_l21`` and ``aap_ssim`` are DeepSAVA's: its average success
perturbation and its average absolute perturbations; see `robustvideo.evaluation.sparsity`.
"""


def measured(records: Iterable[Record], attacks: Sequence[Attack], measure: Measure) -> Values:
    """What a column says of every usable clip that counts.

    Args:
        records: of a run.
        attacks: the column's attacks; none for the undisturbed clips.
        measure: what to look at.
    """
    wanted = {(attack.label, attack.threat.parts[0].eps) for attack in attacks} or {(CLEAN, 0.0)}
    values: dict[str, list[float]] = {}
    for record in records:
        if record.status == "ok" and (record.attack, record.eps) in wanted and measure.counts(record):
            values.setdefault(record.sample_id, []).append(float(measure.value(record)))
    return {clip: fmean(own) for clip, own in values.items()}


def cell(clips: Values, measure: Measure) -> Interval:
    """The mean over clips: of shares with Wilson's interval, else with that of a bootstrap over clips."""
    if measure.share:
        return wilson(min(sum(clips.values()), len(clips)), len(clips))
    if not clips:
        return Interval(math.nan, math.nan, math.nan)
    values = np.array([clips[clip] for clip in sorted(clips)])
    low, high = _bootstrap(values)
    return Interval(low, float(values.mean()), high)


def in_common(better: Sequence[Values], worse: Sequence[Values]) -> list[str]:
    """The clips that all columns have: those a comparison rests on."""
    return sorted(set.intersection(*(set(column) for column in (*better, *worse))))


def compared(better: Sequence[Values], worse: Sequence[Values], measure: Measure) -> Interval:
    """How much better one row is than another, averaged over columns, on the clips that both have.

    The interval is a bootstrap over clips (10,000 resamples, percentiles, fixed seed). That of shares is at least as
    wide as what one clip more or less would change: a bootstrap of clips that all agree would claim certainty. Shares
    of fewer than six clips decide nothing: five that all agree do so by chance once in 16 times. The interval knows
    clips alone: of networks that were trained once, another seed may give another difference.
    """
    clips = in_common(better, worse)
    widest = 1.0 if measure.share else math.inf
    if not clips:
        return Interval(-widest, math.nan, widest)
    gains = np.array([fmean(b[c] for b in better) - fmean(w[c] for w in worse) for c in clips])
    gains = gains if measure.larger_is_better else -gains
    (low, high), estimate = _bootstrap(gains), float(gains.mean())
    if measure.share and len(clips) < _FEWEST:
        return Interval(-widest, estimate, widest)
    if measure.share:
        least = 1 / len(clips)
        low, high = max(-1.0, min(low, estimate - least)), min(1.0, max(high, estimate + least))
    return Interval(low, estimate, high)


def _bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of a mean."""
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[draws].mean(1), [tail, 1 - tail])
    return float(low), float(high)
