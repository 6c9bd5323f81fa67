"""What the draws of a model make of the trust protocol's line on randomness, by hand."""

from __future__ import annotations

import pytest
import torch

from robustvideo.evaluation.trust.from_defense import flattery, flattery_grade

DRAWS = 8


def graded(stood: list[bool], right: list[float]) -> str:
    return flattery_grade(*flattery(torch.tensor(stood), torch.tensor(right, dtype=torch.float64), DRAWS))


@pytest.mark.parametrize(
    ("stood", "right", "grade"),
    [
        ([True] * 8, [1.0] * 8, "pass"),
        ([True] * 8, [0.875] * 8, "pass"),  # 43 % of honest models that are right nine times in ten do this
        ([True] * 8, [0.5] * 8, "fail"),  # one in 256 does
        ([True] * 8, [0.0] * 8, "fail"),
        ([True] * 4 + [False] * 4, [0.5] * 8, "pass"),
        ([False] * 8, [0.9] * 8, "pass"),  # less favourable
        ([True, True], [0.0, 0.0], "fail"),
        ([True, False, False, False], [0.0] * 4, "warn"),  # one clip is no trend
        ([True, True, False, False], [0.0] * 4, "fail"),
    ],
)
def test_verdicts_that_flatter_fail_only_where_draws_cannot_explain_them(
    stood: list[bool], right: list[float], grade: str
) -> None:
    assert graded(stood, right) == grade


def test_honest_verdicts_do_not_fail_by_the_luck_of_their_draws() -> None:
    stream = torch.Generator().manual_seed(0)
    grades = []
    for _ in range(400):
        p = torch.rand(8, generator=stream)[:, None].expand(8, DRAWS + 1)
        drawn = torch.bernoulli(p, generator=stream).bool()
        grades.append(graded(drawn[:, 0].tolist(), drawn[:, 1:].double().mean(1).tolist()))
    assert grades.count("fail") <= 8
    assert grades.count("pass") >= 320
