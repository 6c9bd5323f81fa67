"""A run that is examined keeps its checks, and is not examined twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from robustvideo.attacks import PGD
from robustvideo.cli import app
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.records import comparable
from robustvideo.evaluation.run import Run
from robustvideo.evaluation.suite import Suite
from robustvideo.evaluation.trust import LINES, load_checks
from robustvideo.evaluation.trust.check import FILE, PROVENANCE
from robustvideo.purification import load_defense

DATA = "embedded:kinetic?split=test&clips=8"


def run(out: Path, **options: Any) -> Run:
    attack = PGD(eps=16 / 255, steps=3)
    defenses = [None, load_defense("bit_depth(bits=5)")]
    settings = {"defenses": defenses, "save_clips": 0, "quiet": True, **options}
    return evaluate("embedded:r3d", DATA, [attack], out=out, **settings)


def test_every_defence_is_examined_once_and_the_records_stay_as_they_are(tmp_path: Path) -> None:
    plain = run(tmp_path / "run")
    assert load_checks(plain.path) == {}
    before = comparable(plain.records())
    examined = run(tmp_path / "run", trust=True)
    found = load_checks(examined.path)
    assert list(found) == ["none", "bit_depth(bits=5)"]
    assert all([check.name for check in lines] == list(LINES) for lines in found.values())
    assert {check.name: check.grade for check in found["none"]}[PROVENANCE] == "pass"
    assert comparable(examined.records()) == before

    written = (plain.path / FILE).stat().st_mtime_ns
    run(tmp_path / "run", trust=True)
    assert (plain.path / FILE).stat().st_mtime_ns == written


def test_an_examination_that_was_cut_short_goes_on_with_the_next_defence(tmp_path: Path) -> None:
    from robustvideo.evaluation.trust.check import save_checks

    whole = load_checks(run(tmp_path / "run", trust=True).path)
    marked = [whole["none"][0]]
    save_checks(tmp_path / "run", {"none": marked})
    run(tmp_path / "run", trust=True)
    assert load_checks(tmp_path / "run") == {"none": marked, "bit_depth(bits=5)": whole["bit_depth(bits=5)"]}


@pytest.mark.parametrize(
    ("defenses", "trust", "examined"),
    [
        (["none"], None, False),
        (["none", "median"], None, True),
        (["median"], False, False),
        (["none"], True, True),
    ],
)
def test_suites_with_a_defence_are_examined(defenses: list[str], trust: bool | None, examined: bool) -> None:
    suite = Suite(models=["embedded:r3d"], data=DATA, attacks=["fgsm"], defenses=defenses, trust=trust)
    assert suite.examined is examined


@pytest.mark.parametrize(("option", "examined"), [("--trust", True), ("--no-trust", False)])
def test_the_command_line_decides(tmp_path: Path, option: str, examined: bool) -> None:
    arguments = ["--model", "embedded:r3d", "--data", DATA, "--attack", "pgd(eps=16/255, steps=3)", "--device", "cpu"]
    defended = [] if examined else ["--defense", "bit_depth(bits=5)"]
    out = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["evaluate", *arguments, *defended, "--save-clips", "0", "--out", str(out), option], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert (out / FILE).exists() is examined
    assert ("applicable checks pass" in done.output) is examined
    assert ("May these numbers be believed?" in (out / "report.html").read_text()) is examined


def test_json_holds_the_grades(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robustvideo.cli.evaluate import print_summary
    from robustvideo.evaluation.trust.check import Check, save_checks
    from robustvideo.report.series import load_series

    examined = run(tmp_path / "run")
    save_checks(examined.path, {"none": [Check(PROVENANCE, "warn", 1.0, 0.0, "One is missing.", "Add it.")]})
    print_summary(load_series([examined.path]), as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {row["defense"]: row["trust"] for row in rows} == {"none": {PROVENANCE: "warn"}, "bit_depth(bits=5)": None}
