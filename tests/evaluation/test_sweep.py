"""The step-size sweep: surfaces on a real attack, the law on surfaces with a known answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustvideo.data import load_data
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.sweep import Surface, fit_law, sweep
from robustvideo.models import load_model
from robustvideo.report.sweep import build_sweep_page


def surface(eps: float, best: float) -> Surface:
    sizes = [best / 2, best, best * 2]
    return Surface(eps, sizes, [[0.0, 0.2, 0.5], [0.0, 0.9, 1.0], [0.0, 0.1, 0.4]], [1.0, 0.0, 0.5], clips=4)


def test_the_law_of_exact_points_is_found_exactly() -> None:
    budgets = [level / 255 for level in (2, 4, 8, 12)]
    law = fit_law([surface(eps, 0.2 * eps + 0.2 / 255) for eps in budgets], steps=2)
    assert law.slope == pytest.approx(0.2)
    assert law.intercept == pytest.approx(0.2 / 255)
    assert law.r_squared == pytest.approx(1.0)
    with pytest.raises(InputError, match="two budgets"):
        fit_law([surface(8 / 255, 1 / 255)], steps=2)


def test_best_and_enough() -> None:
    one = surface(8 / 255, 2 / 255)
    assert one.best_step_size(2) == 2 / 255
    assert one.enough_steps() == 2
    assert one.enough_steps(share=0.9) == 1


def test_a_sweep_resumes_and_its_surface_makes_sense(network_file: Path, tmp_path: Path) -> None:
    model, data = load_model(f"file:{network_file}:build"), load_data("embedded:kinetic?split=val&clips=6")
    options = {"eps": [2 / 255, 8 / 255], "relative_steps": (0.05, 0.25), "steps": 4, "out": tmp_path, "quiet": True}
    surfaces = sweep(model, data, **options)
    for one in surfaces:
        assert all(len(row) == 5 for row in one.loss)
        assert all(row[-1] > row[0] for row in one.loss)  # steps help
        assert one.loss[1][-1] > one.loss[0][-1]  # four steps of 0.05 eps cannot cross the ball
    assert surfaces[1].loss[1][-1] > surfaces[0].loss[1][-1]  # so does the budget
    cells = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cell-*.json")}
    assert len(cells) == 4
    next(iter(cells)).unlink()
    assert sweep(model, data, **options) == surfaces
    assert sum(p.stat().st_mtime_ns != cells[p] for p in tmp_path.glob("cell-*.json")) == 1
    with pytest.raises(RunConflict, match="another configuration"):
        sweep(model, data, **{**options, "steps": 5})
    page = build_sweep_page(surfaces, fit_law(surfaces, 4), tmp_path / "sweep.html").read_text()
    for cell in tmp_path.glob("cell-*.json"):
        cell.unlink()
    assert all(len(row) == 6 for one in sweep(model, data, **{**options, "steps": 5}) for row in one.loss)
    assert "2/255" in page
    assert "0.2 (eps + 1)" in page
