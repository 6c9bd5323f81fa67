"""What is noticed of a model's answers before anything is attacked."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import ConvNet, clips

from robustvideo.clip import Clip
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.answers import doubts
from robustvideo.evaluation.crafting import clean_verdict
from robustvideo.model import Model
from robustvideo.report.findings import cautions
from robustvideo.report.series import load_series

CLIPS = "embedded:kinetic?split=test&clips=4"


class Coupled(ConvNet):
    """Its batch norm uses the statistics of the batch."""

    def __init__(self) -> None:
        super().__init__(classes=8)
        self.norm.track_running_stats = False
        self.norm.running_mean = self.norm.running_var = None


class Alone(ConvNet):
    """Fails on a clip alone, as batch norm in training does without spatial axes."""

    def forward(self, clip: Clip) -> Tensor:
        if len(clip) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        return super().forward(clip)


class Random(ConvNet):
    """Dropout that stays on: no two answers are the same, in whatever batch."""

    def forward(self, clip: Clip) -> Tensor:
        return nn.functional.dropout(super().forward(clip), 0.5, training=True)


class Soft(ConvNet):
    """Probabilities instead of logits."""

    def forward(self, clip: Clip) -> Tensor:
        return super().forward(clip).softmax(1)


def found(model: Model, number: int = 4, dtype: torch.dtype = torch.float32) -> list[str]:
    model, clip = model.to(dtype), clips(number, low=0, high=255, dtype=dtype)
    labels = torch.zeros(number, dtype=torch.long)
    return doubts(model, clip, labels, clean_verdict(model, clip, labels))


def test_a_model_whose_answer_depends_on_the_batch_is_told() -> None:
    (said,) = found(Coupled())
    assert "clips share a batch" in said
    assert "--batch-size" in said
    (said,) = found(Alone())
    assert "fails on a clip alone" in said


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_honest_and_random_models_are_not(dtype: torch.dtype) -> None:
    assert found(ConvNet(), dtype=dtype) == []
    assert found(Random(), dtype=dtype) == []
    assert found(Coupled(), 1) == []


def test_probabilities_are_told_from_logits() -> None:
    (said,) = found(Soft())
    assert "probabilities" in said
    assert found(Soft(), 1) == []


def test_an_evaluation_warns_once_and_its_report_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="clips share a batch") as told:
        run = evaluate(Coupled(), CLIPS, [], out=tmp_path, batch_size=2, save_clips=0, quiet=True)
    assert len([one for one in told if "share a batch" in str(one.message)]) == 1
    said = [caution for caution in cautions(load_series([run.path])) if "share a batch" in caution.text]
    assert [caution.serious for caution in said] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(ConvNet(classes=8), CLIPS, [], out=tmp_path / "honest", batch_size=2, save_clips=0, quiet=True)
