"""The examples of CONTRIBUTING.md do what they say."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from robustvideo.attacks.attack import attacks
from robustvideo.clip import Clip
from robustvideo.models import load_model
from robustvideo.training.method import Step, trainings

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# src/robustvideo/\w+/(\w+)\.py\n(.*?)```", TEXT, flags=re.DOTALL))


@pytest.fixture
def _leave_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (attacks, trainings):
        monkeypatch.setattr(registry, "_added", dict(registry._added))


@pytest.mark.usefixtures("_leave_no_entry")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("embedded:r3d")
    clip, labels = Clip(torch.rand(2, 3, 16, 48, 48)), torch.tensor([0, 1])
    for name, code in EXAMPLES.items():
        (tmp_path / f"example_{name}.py").write_text(code)
        importlib.import_module(f"example_{name}")
    assert attacks.build("normalised(steps=2)")(model, clip, labels).clip.video.shape == clip.video.shape
    step = Step(forward=model, network=model, clip=clip, labels=labels, progress=0.0, seed=0)
    (loss,) = trainings.build("noisy").losses(step)
    assert loss.value.isfinite()
