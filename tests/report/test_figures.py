from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import Foe

from robustvideo.report.figures import Tick, _spaced, budget_charts, confusion, loss_charts, standing_chart
from robustvideo.report.series import load_series

CHOSEN = ("linf", 8 / 255)


def numbers(path: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.\d+", path)]


def test_the_budget_chart_draws_every_attack_and_the_worst_case_on_top(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    (chart,) = budget_charts([series])
    assert [line.name for line in chart.lines][-1] == "worst case per clip"
    assert len(chart.lines) == 6
    worst = chart.lines[-1]
    xs, ys = numbers(worst.path)[::2], numbers(worst.path)[1::2]
    assert xs == [0, 6.25, 12.5, 25, 50, 100]
    accuracies = [series.clean, *(u.robust_accuracy for u in series.unions.values())]
    assert ys == [round(100 - 100 * a.estimate, 2) for a in accuracies]
    assert worst.band
    assert len(numbers(worst.band)) == 2 * len(numbers(worst.path))
    assert [t.text for t in chart.x_ticks] == ["0", "1", "2", "4", "8", "16"]


def test_everything_drawn_lies_inside_the_drawing_area(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    charts = [*budget_charts([series]), *loss_charts(series, CHOSEN)]
    standing = standing_chart(series, CHOSEN)
    assert standing is not None
    for chart in [*charts, standing]:
        assert chart.summary
        for line in chart.lines:
            assert all(-0.01 <= n <= 100.01 for n in numbers(line.path) + numbers(line.band))


def test_a_comparison_has_one_line_and_one_style_each(new_run: Callable[..., Path]) -> None:
    runs = [new_run(name, saved=0, toughness=t) for name, t in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    (chart,) = budget_charts(load_series(runs))
    assert [line.name for line in chart.lines] == ["a", "b", "c"]
    assert len({line.style for line in chart.lines}) == 3


def test_standing_curves_never_rise(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    chart = standing_chart(series, CHOSEN)
    assert chart is not None
    for line in chart.lines:
        ys = numbers(line.path)[1::2]
        assert ys == sorted(ys)  # measured from the top


def test_standing_curves_are_drawn_over_the_steps_that_the_attack_may_take(new_run: Callable[..., Path]) -> None:
    foes = (Foe("pgd", 0.3, 7), Foe("fgsm(eps=8/255)", 0.3, 1), Foe("of_another_version", 1.2, 9))
    (series,) = load_series([new_run(foes=foes, saved=0)])
    chart = standing_chart(series, CHOSEN)
    assert chart is not None
    names = {line.name.partition("(")[0].partition(",")[0]: line.name for line in chart.lines}
    lines = {line.name: numbers(line.path)[::2] for line in chart.lines}
    seen = re.fullmatch(r"pgd, at most (\d) of 10 steps taken", names["pgd"])
    assert seen
    assert names["fgsm"].endswith(", 1 step")
    assert re.search(r", at most \d steps? taken$", names["of_another_version"])
    assert max(lines[names["pgd"]]) == 100
    assert 10 * int(seen[1]) in lines[names["pgd"]]


def test_the_confusion_matrix_counts_every_recognised_clip_once(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    shown = confusion(series, CHOSEN)
    assert shown is not None
    assert sum(cell.count for row in shown.matrix for cell in row) == 38
    fooled = sum(m.count for m in shown.mistakes) + shown.others
    strongest = series.at(CHOSEN)[0]
    assert fooled == strongest.successes
    assert all(m.before != m.after and 0 < m.share <= 1 for m in shown.mistakes)


def test_many_classes_have_pairs_but_no_matrix(new_run: Callable[..., Path]) -> None:
    names = [f"class-{i}" for i in range(40)]
    (series,) = load_series([new_run(classes=names, saved=0, toughness=0.1)])
    shown = confusion(series, CHOSEN)
    assert shown is not None
    assert shown.matrix == ()
    assert len(shown.mistakes) == 10
    assert shown.others > 0


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30, unique=True))
def test_tick_labels_do_not_touch(places: list[float]) -> None:
    ticks = [Tick(0, "0"), *(Tick(at, f"{at}") for at in sorted(places))]
    kept = _spaced(ticks)
    assert kept[0] == ticks[0]
    assert all(b.at - a.at >= 4.5 for a, b in pairwise(kept))
