"""Cells and verdicts: clips are the unit, columns average attacks, intervals cover."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest

from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.reproduction.outcomes import MEASURES, cell, compared, measured

ACCURACY, SECONDS = MEASURES["accuracy"], MEASURES["seconds"]


def column(*values: float) -> dict[str, float]:
    return {f"clip{i}": value for i, value in enumerate(values)}


def test_a_cell_is_the_mean_over_clips() -> None:
    assert cell(column(1, 0.5, 0, 1), ACCURACY) == wilson(2.5, 4)


def test_a_difference_is_paired_and_averaged_over_columns() -> None:
    better, worse = [column(1, 1, 0), column(1, 0, 0)], [column(0, 1, 0), column(0, 0, 0)]
    assert compared(better, worse, ACCURACY).estimate == pytest.approx(1 / 3)
    assert compared(better, worse, ACCURACY).estimate == -compared(worse, better, ACCURACY).estimate


def test_clips_that_all_agree_do_not_claim_certainty() -> None:
    same = compared([column(*[1] * 8)], [column(*[1] * 8)], ACCURACY)
    assert (same.low, same.estimate, same.high) == (-0.125, 0, 0.125)


def test_five_clips_decide_nothing_and_six_that_agree_do() -> None:
    five, six = (compared([column(*[1] * n)], [column(*[0] * n)], ACCURACY) for n in (5, 6))
    assert (five.low, five.estimate, five.high) == (-1, 1, 1)
    assert six.low > 0


def test_only_clips_that_both_have_count() -> None:
    assert compared([{"a": 1, "b": 0}], [{"a": 0, "c": 1}], ACCURACY).estimate == 1
    assert math.isnan(compared([{"a": 1}], [{"b": 1}], ACCURACY).estimate)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        better = column(*(random.random(40) < 0.7).astype(float))
        worse = column(*(random.random(40) < 0.5).astype(float))
        interval = compared([better], [worse], ACCURACY)
        hits += interval.low <= 0.2 <= interval.high
    assert hits >= 180


def record(**own: Any) -> Record:
    plain = {f.name: 0 for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING}
    return Record(**{**plain, "attack": CLEAN, "sample_id": "a", **own})


def test_a_fooling_rate_is_of_clips_that_were_recognised() -> None:
    rows = [
        record(sample_id="fooled", success=True, adversarial_prediction=1),
        record(sample_id="stands", success=False),
        record(sample_id="wrong before", clean_prediction=1, adversarial_prediction=1, success=True),
    ]
    assert measured(rows, [], MEASURES["fooling_rate"]) == {"fooled": 1, "stands": 0}
    assert measured(rows, [], ACCURACY) == {"fooled": 0, "stands": 1, "wrong before": 0}


def test_distances_are_of_clips_that_were_fooled() -> None:
    rows = [record(sample_id="fooled", success=True, linf=4 / 255), record(sample_id="stands", success=False, linf=1)]
    assert measured(rows, [], MEASURES["linf"]) == {"fooled": 4}
    assert math.isnan(cell({}, MEASURES["linf"]).estimate)


def test_a_cost_is_better_when_it_is_smaller_and_certain_when_all_clips_agree() -> None:
    quick, slow = column(1, 2, 3), column(3, 4, 5)
    assert compared([quick], [slow], SECONDS) == Interval(2, 2, 2)
    assert compared([slow], [quick], SECONDS).estimate == -2


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(2).normal(5, 1, 400)
    interval = cell(column(*values), SECONDS)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_average_absolute_perturbation_is_the_papers_formula() -> None:
    """DeepSAVA, section 4.2.2: the largest distance for clips that stand; clips not recognised before do not count."""
    fooled = {"success": True, "adversarial_prediction": 1}
    rows = [
        record(sample_id="a", **fooled, l21=0.02, ssim=0.99, frame_rms=(0.0,) * 4),
        record(sample_id="b", **fooled, l21=0.04, ssim=0.98, frame_rms=(0.0,) * 4),
        record(sample_id="stands", success=False, l21=0.5, ssim=0.5, frame_rms=(0.0,) * 4),
        record(sample_id="wrong before", clean_prediction=1, **fooled, l21=9.0),
    ]
    for name, own, largest in (("aap_l21", (0.02, 0.04), 0.1), ("aap_ssim", (0.04, 0.08), 0.08)):
        expected = 2 / 3 * (own[0] + own[1]) / 2 + 1 / 3 * largest
        found = measured(rows, [], MEASURES[name])
        assert cell(found, MEASURES[name]).estimate == pytest.approx(expected)
    assert measured(rows, [], MEASURES["dissimilarity"]) == pytest.approx({"a": 0.04, "b": 0.08})
