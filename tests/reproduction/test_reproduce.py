"""A small study from start to end: rows build on rows, gray-box rows use other gradients, nothing runs twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.metrics import Interval
from robustvideo.report.study import build_study_page
from robustvideo.report.study_text import study_text
from robustvideo.reproduction.outcomes import Values
from robustvideo.reproduction.reproduce import ClaimResult, _result, filled, reproduce
from robustvideo.reproduction.study import Claim, Study

STUDY: dict[str, Any] = {
    "title": "Small",
    "source": {"paper": "p", "place": "table 1"},
    "base": {
        "model": "embedded:r3d",
        "data": {"train": "embedded:kinetic?clips=16", "val": "embedded:kinetic?split=val&clips=8"},
        "epochs": 1,
        "batch_size": 8,
        "lr": 0.001,
    },
    "evaluation": {"data": "embedded:kinetic?split=test&clips=8", "batch_size": 8},
    "rows": {
        "benign": {"name": "Benign", "model": "embedded:r3d", "paper": [90.0, None]},
        "trained": {"name": "Trained", "recipe": {"training": "standard"}},
        "again": {"name": "Again", "recipe": {"model": "trained:{trained}", "training": "at(attack=fgsm(eps=2/255))"}},
        "gray": {"name": "Gray", "model": "trained:{again}", "crafted_on": "trained:{trained}"},
        "coarse": {"name": "Coarse", "model": "embedded:r3d", "defense": "bit_depth(bits=1)"},
    },
    "columns": [{"name": "clean"}, {"name": "attacked", "attacks": ["fgsm(eps=4/255)", "fgsm(eps=8/255)"]}],
    "claims": [{"text": "Clean is easier", "better": "benign", "worse": "gray", "columns": ["clean"]}],
}


def test_a_study_runs_and_runs_again_at_no_cost(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    outcome = reproduce(study, tmp_path / "out", quiet=True)
    assert list(outcome.rows) == list(study.rows)
    assert outcome.rows["benign"].epoch_seconds is None
    assert outcome.rows["again"].epochs == 1
    assert all(row.clips == 8 for row in outcome.rows.values())
    assert outcome.rows["coarse"].cells != outcome.rows["benign"].cells
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert files
    assert reproduce(study, tmp_path / "out", quiet=True) == outcome
    assert {path: path.stat().st_mtime_ns for path in files} == files
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["claims"][0]["verdict"] == outcome.claims[0].verdict
    page = build_study_page(study, "smoke", outcome, tmp_path / "page.html").read_text()
    assert "90.0 %" in page
    assert "Clean is easier†" in page
    assert "each trained once" in page
    assert "* *Clean is easier*†: " in study_text(study, outcome)
    assert "each trained once" in study_text(study, outcome)


def test_a_directory_of_another_study_is_left_alone(tmp_path: Path) -> None:
    one = Study.model_validate({**STUDY, "rows": {"benign": STUDY["rows"]["benign"]}, "claims": []})
    reproduce(one, tmp_path / "out", quiet=True)
    other = one.model_copy(update={"title": "Other"})
    with pytest.raises(RunConflict, match="another study or scale"):
        reproduce(other, tmp_path / "out", quiet=True)


def test_a_row_may_only_refer_to_rows_before_it() -> None:
    with pytest.raises(InputError, match="not trained before it"):
        filled("trained:{later}", {"earlier": "x"})


@pytest.mark.parametrize("where", ["recipe", "model", "attacks"])
def test_a_reference_to_a_later_row_is_refused_before_anything_is_trained(where: str) -> None:
    early: dict[str, Any] = {"name": "early", "model": "embedded:r3d"}
    early[where] = {"recipe": {"model": "trained:{late}"}, "model": "trained:{late}", "attacks": ["x(on='{late}')"]}[
        where
    ]
    late = {"name": "late", "recipe": {"model": "embedded:r3d"}}
    with pytest.raises(ValidationError, match="'late', which is not trained before it"):
        Study.model_validate({**STUDY, "rows": {"early": early, "late": late}, "claims": []})


def test_a_row_that_a_column_names_is_trained_before_all(tmp_path: Path) -> None:
    study = Study.model_validate(
        {
            **STUDY,
            "rows": {"one": {"name": "one", "attacks": ["fgsm(eps=4/255)"]}, "net": STUDY["rows"]["trained"]},
            "columns": [{"name": "accuracy", "model": "trained:{net}"}],
            "claims": [],
        }
    )
    assert study.asked_by_columns == ["net"]
    outcome = reproduce(study, tmp_path / "out", quiet=True)
    assert outcome.rows["net"].epochs == study.base["epochs"]
    clean, attacked = (outcome.rows[key].cells[0] for key in ("net", "one"))
    assert clean
    assert attacked
    assert clean.estimate >= attacked.estimate


def test_a_column_says_what_its_row_does_not(tmp_path: Path) -> None:
    study = Study.model_validate(
        {
            **{key: STUDY[key] for key in ("title", "source", "evaluation")},
            "rows": {
                "one": {"name": "FGSM", "attacks": ["fgsm"], "eps": "4/255"},
                "many": {"name": "PGD", "attacks": ["pgd(steps=2)"], "eps": "4/255", "paper": [50, 50, 1.5]},
            },
            "columns": [
                {"name": "white-box", "model": "embedded:r3d", "measure": "fooling_rate"},
                {"name": "from the other", "model": "embedded:r3d_at", "crafted_on": "embedded:r3d"},
                {"name": "cost", "model": "embedded:r3d", "measure": "gradients"},
            ],
            "claims": [{"text": "FGSM is cheap", "better": "one", "worse": "many", "columns": ["cost"]}],
        }
    )
    outcome = reproduce(study, tmp_path / "out", quiet=True)
    gradients = [row.cells[2].estimate for row in outcome.rows.values() if row.cells[2]]
    assert 0 < gradients[0] <= 1 < gradients[1] <= 2  # a clip that is misclassified anyhow is not attacked
    assert outcome.claims[0].difference.estimate == pytest.approx(gradients[1] - gradients[0])
    transferred, own = (outcome.rows["many"].cells[i] for i in (1, 0))
    assert transferred
    assert own
    assert transferred.estimate > 1 - own.estimate
    page = build_study_page(study, "smoke", outcome, tmp_path / "page.html").read_text()
    assert "50.0 %" in page
    text = study_text(study, outcome)
    assert text.splitlines()[0] == "| table 1 | white-box, fooling rate | from the other | cost, gradients |"
    assert f"| PGD | {100 * own.estimate:.1f} [" in text
    assert "* *FGSM is cheap*: reproduced, " in text
    assert text.endswith(", 8 clips.\n")
    assert ">1.5</small>" in page


def test_a_claim_is_about_one_measure() -> None:
    columns = [{"name": "clean"}, {"name": "cost", "measure": "seconds"}]
    claim = {"text": "?", "better": "benign", "worse": "gray", "columns": ["clean"], "against": ["cost"]}
    with pytest.raises(ValueError, match="different measures"):
        Study.model_validate(
            {
                **STUDY,
                "columns": columns,
                "claims": [claim],
                "rows": {"benign": {"name": "", "model": "x"}, "gray": {"name": "", "model": "x"}},
            }
        )


def test_studies_of_one_folder_share_a_training(tmp_path: Path) -> None:
    shared = {"name": "Shared", "recipe": {"training": "standard"}, "share": "plain"}
    base = {**STUDY, "claims": [], "columns": [{"name": "clean"}]}
    one = Study.model_validate({**base, "rows": {"a": shared, "unmeasured": {**shared, "skip": ["clean"]}}})
    first = reproduce(one, tmp_path / "one", quiet=True)
    assert first.rows["unmeasured"].clips == 0
    (weights,) = tmp_path.rglob("model.safetensors")
    assert weights.is_relative_to(tmp_path / "trained")
    written = weights.stat().st_mtime_ns
    two = Study.model_validate({**base, "title": "Another", "rows": {"b": shared}})
    assert reproduce(two, tmp_path / "two", quiet=True).rows["b"] == first.rows["a"]
    assert weights.stat().st_mtime_ns == written
    other = {**shared, "recipe": {"training": "standard", "lr": 0.002}}
    reproduce(Study.model_validate({**base, "rows": {"b": other}}), tmp_path / "three", quiet=True)
    assert len(list(tmp_path.rglob("model.safetensors"))) == 2


def test_a_claim_over_several_rows_averages_them() -> None:
    content = {
        **STUDY,
        "claims": [{"text": "t", "better": ["benign", "gray"], "worse": "coarse", "columns": ["clean"], "margin": 0.1}],
    }
    study = Study.model_validate(content)
    values: dict[str, dict[str, Values]] = {
        "benign": {"clean": {"c": 1.0, "d": 1.0}},
        "gray": {"clean": {"c": 0.0, "d": 1.0}},
        "coarse": {"clean": {"c": 0.5, "d": 1.0}},
    }
    assert _result(study, study.claims[0], values).difference.estimate == 0
    assert study.claims[0].model_dump(mode="json")["worse"] == "coarse"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.01, 0.1, "reproduced"), (-0.03, 0.1, "undecided"), (-0.2, -0.03, "contradicted"), (-0.2, -0.01, "undecided")],
)
def test_a_margin_says_how_much_worse_is_still_as_good(low: float, high: float, verdict: str) -> None:
    claim = Claim(text="t", better=["a"], worse=["b"], columns=["c"], margin=0.02)
    assert ClaimResult(claim, Interval(low, (low + high) / 2, high)).verdict == verdict


def test_what_is_given_stands_in_specs_and_a_column_decides_about_the_gradient(tmp_path: Path) -> None:
    study = Study.model_validate(
        {
            **{key: STUDY[key] for key in ("title", "source", "base")},
            "evaluation": {"data": "embedded:kinetic?split=test&clips=4", "batch_size": 4, "eps": "4/255"},
            "given": {"victim": {"recipe": {"training": "standard"}}, "bits": "3"},
            "rows": {"one": {"name": "One", "model": "{victim}", "defense": "bit_depth(bits={bits})"}},
            "columns": [
                {"name": "gray", "gradient": "none", "attacks": ["fgsm"]},
                {"name": "bpda", "attacks": ["fgsm"]},
            ],
        }
    )
    reproduce(study, tmp_path / "out", quiet=True)
    assert len(list((tmp_path / "out").glob("victim*/train/model.safetensors"))) == 1
    runs = {run.parent.name: json.loads(run.read_text()) for run in (tmp_path / "out").glob("one*/*/run.json")}
    assert len(runs) == 2
    written = json.dumps(list(runs.values()))
    assert "bit_depth(bits=3)" in written
    assert "bit_depth(gradient=none, bits=3)" in written
    assert str(4 / 255)[:8] in written or "4/255" in written


def test_a_study_that_failed_before_its_first_row_gives_way_to_the_corrected_one(tmp_path: Path) -> None:
    rows = {"one": {"name": "One", "model": "embedded:r3x"}}
    content = {**{key: STUDY[key] for key in ("title", "source", "evaluation")}, "columns": [{"name": "clean"}]}
    with pytest.raises(InputError, match="r3x"):
        reproduce(Study.model_validate({**content, "rows": rows}), tmp_path / "out", quiet=True)
    rows["one"]["model"] = "embedded:r3d"
    outcome = reproduce(Study.model_validate({**content, "rows": rows}), tmp_path / "out", quiet=True)
    assert outcome.rows["one"].clips == 8
    rows["one"]["model"] = "embedded:r3d_at"
    with pytest.raises(RunConflict, match="its rows differ"):
        reproduce(Study.model_validate({**content, "rows": rows}), tmp_path / "out", quiet=True)
