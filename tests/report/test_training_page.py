"""The page of a training run: from what real runs log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustvideo.errors import InputError
from robustvideo.report.training import build_training_page, charts, read_training

FIRST = {"epoch": 1, "loss": 2.0, "robust_accuracy": 0.3, "val_accuracy": 0.5, "val_robust_accuracy": 0.2, "p_0": 0.5}
SECOND = {"epoch": 2, "loss": 1.0, "robust_accuracy": 0.7, "val_accuracy": 0.6, "val_robust_accuracy": 0.3, "p_0": 0.2}
EPOCHS = [{**epoch, "p_1": 1 - epoch["p_0"], "seconds": 3.0} for epoch in (FIRST, SECOND)]


def training(folder: Path, finished: bool = True) -> Path:
    recipe: dict[str, object] = {
        "title": "<b>mine</b>",
        "training": "at",
        "epochs": 2,
        "model": "m",
        "data": {"train": "d"},
        "validation": {"attack": None},
    }
    manifest = {"schema_version": 1, "robustvideo": "0", "torch": "2", "recipe": recipe}
    (folder / "training.json").write_text(json.dumps(manifest))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in EPOCHS))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"test": {"correct": 3, "clips": 4}}))
    return folder


def test_accuracies_gap_loss_and_what_the_adversary_draws_each_have_a_chart() -> None:
    found = {chart.title: chart for chart in charts(EPOCHS)}
    assert list(found) == ["Accuracy", "Generalisation gap", "Loss", "What the adversary draws"]
    assert [line.name for line in found["Accuracy"].lines] == [
        "training clips, under attack",
        "validation clips, undisturbed",
        "validation clips, under attack",
    ]
    (gap,) = found["Generalisation gap"].lines
    assert [mark.text.split(": ")[1] for mark in gap.marks] == ["10\u202f%", "40\u202f%"]
    assert [mark.y for mark in gap.marks] == [0, 100]
    probabilities = {line.name: [mark.y for mark in line.marks] for line in found["What the adversary draws"].lines}
    assert probabilities == {"p_0": [50, 20], "p_1": [50, 80]}


def test_a_constant_and_a_single_epoch_can_be_drawn() -> None:
    (accuracy, loss) = charts([{"epoch": 1, "loss": 1.0, "accuracy": 1.0}])
    assert accuracy.lines[0].marks[0].y == 100
    assert loss.lines[0].marks[0].y == 50
    assert charts([]) == []


def test_text_from_a_recipe_is_escaped_and_an_unfinished_run_says_so(tmp_path: Path) -> None:
    page = build_training_page(training(tmp_path, finished=False)).read_text(encoding="utf-8")
    assert "<b>mine</b>" not in page
    assert "2 of 2 epochs are trained" in page
    training(tmp_path)
    assert "Trained for 2 epochs" in build_training_page(tmp_path).read_text(encoding="utf-8")


def test_what_is_no_training_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training run"):
        read_training(tmp_path)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_training(tmp_path)
