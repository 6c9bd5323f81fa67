from __future__ import annotations

import math

import pytest

from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.report.wording import (
    MINUS,
    THIN,
    bounds,
    budget,
    changes,
    day,
    duration,
    figure,
    listed,
    magnitude,
    norm_name,
    number,
    percent,
    points,
    tenths,
)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0_%"),
        (1, "100_%"),
        (0.125, "13_%"),
        (0.625, "63_%"),
        (29 / 200, "15_%"),
        (-0.11, f"{MINUS}11_%"),
        (0.004, "0.4_%"),
        (0.9996, "99.9_%"),
        (0.0001, "<_0.1_%"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text.replace("_", THIN)


def test_halves_are_rounded_away_from_zero_whatever_the_decimals() -> None:
    half = Interval(0.125, 0.375, 0.625)
    assert bounds(half) == "[13, 63]"
    assert [points(value) for value in (0.125, -0.125, -0.001)] == ["+13", f"{MINUS}13", "+0"]
    assert [tenths(share) for share in (0.3125, 0.625, 1.0)] == ["31.3", "62.5", "100.0"]


def test_what_is_unknown_is_a_dash() -> None:
    assert percent(math.nan) == number(math.nan) == "–"  # noqa: RUF001
    assert number(math.inf) == "∞"


def test_intervals_are_in_percent() -> None:
    assert bounds(wilson(0, 20)) == "[0, 16]"


@pytest.mark.parametrize(
    ("eps", "norm", "text"),
    [(8 / 255, "linf", "8/255"), (0.01, "linf", "2.55/255"), (1.5, "l2", "1.5"), (0.012, "linf audio", "0.012")],
)
def test_budgets_have_their_own_unit(eps: float, norm: str, text: str) -> None:
    assert budget(eps, norm) == text
    assert text in changes(eps, norm)


def test_of_both_modalities_each_budget_is_told() -> None:
    norm = "audio_visual(audio=0.3825*eps)"
    assert budget(8 / 255, norm) == "8/255"
    assert changes(8 / 255, norm) == "changes of at most 8/255 per pixel and 0.012 per sound sample"
    assert norm_name(norm) == "L∞ (of sound 0.383 times as much)"


def test_numbers_are_readable() -> None:
    assert number(-12345.678) == f"−12{THIN}345.7"  # noqa: RUF001
    assert magnitude(11_200_000) == f"11.2{THIN}M"
    assert [figure(v) for v in (0.01234, 5.678, 0, 1234.5)] == ["0.0123", "5.68", "0", f"1{THIN}234"]
    assert [duration(s) for s in (0.414, 42, 600, 9000)] == [
        f"0.41{THIN}s",
        f"42{THIN}s",
        f"10{THIN}min",
        f"2.5{THIN}h",
    ]
    assert day("2026-11-20T05:48:24+00:00") == "20 November 2026, 05:48 UTC"
    assert day("yesterday") == "yesterday"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert listed(["a"]) == "a"
