"""AAP and ASP by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import summarise
from robustvideo.evaluation.records import Record
from robustvideo.evaluation.sparsity import (
    average_absolute_perturbation,
    average_success_perturbation,
    dissimilarity_of,
    l21_of,
    mean_interval,
)

BASE = Record(
    sample_id="a",
    label=1,
    attack="deepsava",
    eps=0.1,
    defense="none",
    seed=0,
    clean_prediction=1,
    adversarial_prediction=0,
    success=True,
    first_success_step=3,
    forward_passes=1,
    backward_passes=1,
    seconds=0.0,
    linf=0.0,
    l2=0.0,
    l21=0.04,
    ssim=0.99,
    frames_touched=1,
    frame_rms=[0.04, 0.0, 0.0, 0.0],
)


def row(name: str, l21: float, fooled: bool = True, **changes: object) -> Record:
    changed = {"sample_id": name, "l21": l21, "adversarial_prediction": 0 if fooled else 1, "success": fooled}
    return replace(BASE, **{**changed, "first_success_step": 3 if fooled else -1, **changes})  # type: ignore[arg-type]


def test_aap_mixes_what_was_needed_with_the_largest() -> None:
    rows = [row("a", 0.02), row("b", 0.04), row("c", 0.09, fooled=False), row("d", 0.5, clean_prediction=2)]
    aap = average_absolute_perturbation(rows, l21_of, 0.1)
    assert aap.estimate == pytest.approx((0.02 + 0.04 + 0.1) / 3)
    rate = summarise(Columns.of(rows))[0].fooling_rate.estimate
    assert aap.estimate == pytest.approx(rate * 0.03 + 0.1 * (1 - rate))
    assert summarise(Columns.of(rows))[0].iterations == 3
    assert aap.low < aap.estimate < aap.high


@pytest.mark.parametrize(("fooled", "expected"), [(True, 0.03), (False, 0.1)])
def test_aap_with_all_or_none_fooled(fooled: bool, expected: float) -> None:
    rows = [row("a", 0.02, fooled), row("b", 0.04, fooled)]
    assert average_absolute_perturbation(rows, l21_of, 0.1).estimate == pytest.approx(expected)


def test_seeds_of_a_clip_count_once() -> None:
    rows = [row("a", 0.02), row("a", 0.02, fooled=False, seed=1), row("b", 0.04)]
    aap = average_absolute_perturbation(rows, l21_of, 0.1)
    assert aap.estimate == pytest.approx(((0.02 + 0.1) / 2 + 0.04) / 2)


def test_dissimilarity_is_the_sum_over_frames() -> None:
    assert dissimilarity_of(BASE) == pytest.approx(0.04)
    rows = [row("a", 0.1), row("b", 0.1, ssim=0.98), row("c", 0.1, fooled=False, ssim=0.5)]
    assert average_success_perturbation(rows).estimate == pytest.approx((0.04 + 0.08) / 2)
    assert math.isnan(average_success_perturbation(rows[2:]).estimate)


def test_a_normal_interval_by_hand() -> None:
    interval = mean_interval([1.0, 3.0], 0.95)
    half = 1.959964 * math.sqrt(2.0) / math.sqrt(2.0)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((2 - half, 2, 2 + half), rel=1e-6)
    assert mean_interval([1.0]).high == math.inf
