"""The trust checks at the head of the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_run import HOSTILE
from test_page import outline

from robustvideo.errors import InputError
from robustvideo.evaluation.trust import LINES, Check
from robustvideo.evaluation.trust.check import FILE, save_checks
from robustvideo.report import build_report
from robustvideo.report.series import load_series
from robustvideo.report.trust import trust_tables
from robustvideo.report.wording import NOTHING

CHECKS = [
    Check(LINES[0], "pass", -0.25, 0.01, "At linf 8/255, one step leaves 50%.", unit="%"),
    Check(LINES[1], "fail", 0.4, 0.01, f"Left over {HOSTILE}", "Fix the gradient.", "%"),
    Check(LINES[5], "warn", 0.853, 0.95, "A cosine.", "Look for detached parts.", bound="at least"),
    Check(LINES[8], "not applicable", None, None, "There is no defence."),
    Check(LINES[10], "pass", 0.0, 0.0, "5.0 passes per clip."),
]


def test_a_run_that_was_not_examined_has_no_trace_of_it(page: Path) -> None:
    assert 'id="trust"' not in page.read_text(encoding="utf-8")
    assert "#trust" not in outline(page).links


def test_the_lines_stand_between_the_headline_and_the_facts(new_run: Callable[..., Path]) -> None:
    run = new_run()
    save_checks(run, {"none": CHECKS})
    text = build_report([run]).read_text(encoding="utf-8")
    assert text.index("<h1>") < text.index('<section id="trust">') < text.index('<section class="runs"')
    assert "<script>window.hacked" not in text
    read = outline(text)
    assert "#trust" in read.links
    words = " ".join(" ".join(read.text).split())
    assert "2 pass, 1 warning, 1 failure" in words
    for check in CHECKS:
        assert check.name in words
        assert f" {check.grade} " in words
    assert "Fix the gradient." in words


def test_numbers_are_said_in_their_unit_with_the_side_that_passes(new_run: Callable[..., Path]) -> None:
    run = new_run()
    save_checks(run, {"none": CHECKS})
    (table,) = trust_tables(load_series([run]))
    assert table.verdict == "fail"
    said = [(line.symbol, line.number, line.threshold) for line in table.lines]
    assert said == [
        ("✓", "\u221225\u202f%", "≤\u202f1\u202f%"),
        ("✕", "40\u202f%", "≤\u202f1\u202f%"),
        ("!", "0.85", "≥\u202f0.95"),
        (NOTHING, NOTHING, NOTHING),
        ("✓", "0", "≤\u202f0"),
    ]


def test_a_comparison_shows_the_runs_that_were_examined(new_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = new_run("first"), new_run("second", model="embedded:r3d_at")
    save_checks(second, {"none": CHECKS[:1], "a defence of another run": CHECKS})
    (table,) = trust_tables(load_series([first, second]))
    assert (table.series.name, table.verdict, len(table.lines)) == ("embedded:r3d_at", "pass", 1)
    words = " ".join(" ".join(outline(build_report([first, second], tmp_path / "both.html")).text).split())
    assert "embedded:r3d_at: 1 pass" in words


def test_a_damaged_file_is_told(new_run: Callable[..., Path]) -> None:
    run = new_run()
    (run / FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        build_report([run])
