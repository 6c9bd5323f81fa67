"""The surrogate x target matrix: real transfer runs, read from their records."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustvideo.evaluation.evaluation import evaluate_suite
from robustvideo.evaluation.suite import make_suite
from robustvideo.report import build_report
from robustvideo.report.series import load_series
from robustvideo.report.tables import transfers

MODELS = ["embedded:r3d", "embedded:frame2d"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("transfer")
    suite = make_suite(
        {
            "models": MODELS,
            "data": "embedded:kinetic?split=test&clips=8",
            "attacks": ["fgsm"],
            "eps": ["8/255"],
            "transfer_from": MODELS,
            "save_clips": 0,
        },
        "test",
    )
    return [run.path for run in evaluate_suite(suite, out, quiet=True)]


def test_rows_are_surrogates_columns_targets_and_the_own_model_is_in_no_mean(runs: list[Path]) -> None:
    series = load_series(runs)
    (matrix,) = transfers(series, ("linf", 8 / 255))
    assert matrix.targets == tuple(MODELS)
    assert [row[0] for row in matrix.rows] == MODELS
    assert matrix.own == (0, 1)
    for place, (surrogate, cells, mean) in enumerate(matrix.rows):
        other = cells[1 - place]
        assert other is not None
        assert mean == other.estimate
        for one, cell in zip(series, cells, strict=True):
            rows = [r for r in one.rows.records() if r.surrogate == surrogate]
            attacked = [r for r in rows if r.clean_prediction == r.label]
            assert cell is not None
            assert cell.estimate == pytest.approx(sum(r.success for r in attacked) / len(attacked))


def test_no_surrogate_no_matrix(runs: list[Path]) -> None:
    assert transfers(load_series(runs), None) == []
    assert transfers(load_series(runs), ("l2", 1.0)) == []


def test_the_page_shows_it(runs: list[Path], tmp_path: Path) -> None:
    page = build_report(runs, tmp_path).read_text(encoding="utf-8")
    assert "Crafted on" in page
    assert 'href="#transfer"' in page
