"""From records to a table's cells, and from two rows to a verdict. A clip is one statistical unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from robustvideo.attacks import Attack
from robustvideo.evaluation.metrics import CONFIDENCE, Interval, is_recognised, wilson
from robustvideo.evaluation.records import CLEAN, Record

Recognised = Mapping[str, float]
"""Clip -> share of a column's attacks after which it is recognised."""

_RESAMPLES = 10_000


def recognised(records: Iterable[Record], attacks: Sequence[Attack]) -> Recognised:
    """What a column says of every usable clip.

    Args:
        records: of a run.
        attacks: the column's attacks; none for the undisturbed clips.
    """
    wanted = {(attack.label, attack.threat.parts[0].eps) for attack in attacks} or {(CLEAN, 0.0)}
    verdicts: dict[str, list[bool]] = {}
    for record in records:
        if record.status == "ok" and (record.attack, record.eps) in wanted:
            verdicts.setdefault(record.sample_id, []).append(is_recognised(record))
    return {clip: fmean(own) for clip, own in verdicts.items()}


def share(clips: Recognised) -> Interval:
    """The accuracy of a cell: the mean over clips, with Wilson's interval."""
    return wilson(min(sum(clips.values()), len(clips)), len(clips))


def compared(better: Sequence[Recognised], worse: Sequence[Recognised]) -> Interval:
    """How much more accurate one row is than another, averaged over columns, on the clips that both have.

    The interval is a bootstrap over clips (10,000 resamples, percentiles, fixed seed), widened to at least what one
    clip more or less would change: a bootstrap of clips that all agree would claim certainty.
    """
    clips = sorted(set.intersection(*(set(column) for column in (*better, *worse))))
    if not clips:
        return Interval(-1.0, float("nan"), 1.0)
    gains = np.array([fmean(b[c] for b in better) - fmean(w[c] for w in worse) for c in clips])
    draws = np.random.default_rng(0).integers(0, len(clips), (_RESAMPLES, len(clips)))
    means = gains[draws].mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    estimate, least = float(gains.mean()), 1 / len(clips)
    low, high = min(float(low), estimate - least), max(float(high), estimate + least)
    return Interval(max(-1.0, low), estimate, min(1.0, high))
