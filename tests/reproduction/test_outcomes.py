"""Cells and verdicts: clips are the unit, columns average attacks, intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustvideo.evaluation.metrics import wilson
from robustvideo.reproduction.outcomes import compared, share


def column(*values: float) -> dict[str, float]:
    return {f"clip{i}": value for i, value in enumerate(values)}


def test_a_cell_is_the_mean_over_clips() -> None:
    assert share(column(1, 0.5, 0, 1)) == wilson(2.5, 4)


def test_a_difference_is_paired_and_averaged_over_columns() -> None:
    better, worse = [column(1, 1, 0), column(1, 0, 0)], [column(0, 1, 0), column(0, 0, 0)]
    assert compared(better, worse).estimate == pytest.approx(1 / 3)
    assert compared(better, worse).estimate == -compared(worse, better).estimate


def test_clips_that_all_agree_do_not_claim_certainty() -> None:
    same = compared([column(1, 1, 1, 1)], [column(1, 1, 1, 1)])
    assert (same.low, same.estimate, same.high) == (-0.25, 0, 0.25)


def test_only_clips_that_both_have_count() -> None:
    assert compared([{"a": 1, "b": 0}], [{"a": 0, "c": 1}]).estimate == 1
    assert math.isnan(compared([{"a": 1}], [{"b": 1}]).estimate)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        better = column(*(random.random(40) < 0.7).astype(float))
        worse = column(*(random.random(40) < 0.5).astype(float))
        interval = compared([better], [worse])
        hits += interval.low <= 0.2 <= interval.high
    assert hits >= 180
