"""What the documented Python functions take, and what they say of what they do not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import robustvideo as rv
from robustvideo.attacks import FGSM, PGD
from robustvideo.errors import InputError
from robustvideo.evaluation import Run, open_run
from robustvideo.evaluation.validated import validated
from robustvideo.report import build_report
from robustvideo.report.leaderboard import build_leaderboard

DATA = "embedded:kinetic?split=test&clips=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = str(tmp_path_factory.mktemp("api") / "run")
    return rv.evaluate("embedded:r3d", DATA, "fgsm(eps=4/255)", out=out, quiet=True)


@pytest.fixture
def clip() -> rv.Clip:
    return rv.Clip(torch.full((2, 3, 2, 4, 4), 0.5))


@pytest.fixture
def model() -> rv.Model:
    class Mean(nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return video.mean((2, 3, 4))

    return rv.wrap(Mean(), frames=None, size=None)


def test_a_place_is_a_path_or_its_name(run: Run, tmp_path: Path) -> None:
    name = str(run.path)
    assert open_run(name).manifest == run.manifest
    assert validated(name)[0].path == run.path
    assert build_report(name) == run.path / "report.html"
    assert build_report([name], str(tmp_path / "page.html")) == tmp_path / "page.html"
    assert build_report(run.path, tmp_path) == tmp_path / "report.html"
    for place, site in ((name, tmp_path / "a"), ([name], tmp_path / "b"), (run.path, tmp_path / "c")):
        assert build_leaderboard(place, str(site)) == site / "index.html"


def test_attacks_and_defences_may_be_specs(run: Run, tmp_path: Path) -> None:
    assert run.manifest.configuration["attacks"] == ["fgsm(eps=4/255)"]
    given: dict[str, Any] = {"out": tmp_path / "run", "quiet": True, "save_clips": 0}
    mixed = rv.evaluate(
        "embedded:r3d", DATA, ["noise", FGSM(eps=2 / 255)], defenses=["none", "bit_depth"], codecs="h264:23", **given
    )
    assert mixed.manifest.configuration["attacks"] == ["noise(eps=8/255)", "fgsm(eps=2/255)"]
    assert [name for name, _ in mixed.manifest.configuration["defenses"]] == ["none", "bit_depth"]
    assert mixed.manifest.configuration["codecs"] == ["h264:23"]
    shutil.rmtree(mixed.path)
    one = rv.evaluate("embedded:r3d", DATA, FGSM(eps=2 / 255), defenses="bit_depth", **given)
    assert one.manifest.configuration["attacks"] == ["fgsm(eps=2/255)"]
    assert [name for name, _ in one.manifest.configuration["defenses"]] == ["bit_depth"]


def test_what_is_no_model_or_attack_or_data_is_said_to_be_none(tmp_path: Path, model: rv.Model) -> None:
    given: dict[str, Any] = {"out": tmp_path / "run", "quiet": True}
    with pytest.raises(InputError, match=r"Linear is no robustvideo model: .*rv\.wrap\("):
        rv.evaluate(nn.Linear(1, 1), DATA, "fgsm", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"int is no attack: .*rv\.load_attack\("):
        rv.evaluate(model, DATA, [3], **given)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"int is no defence: .*rv\.load_defense\("):
        rv.evaluate(model, DATA, "fgsm", defenses=[3], **given)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"list is no data set: .*rv\.load_data\("):
        rv.evaluate(model, [1, 2], "fgsm", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_an_attack_takes_labels_as_python_has_them(model: rv.Model, clip: rv.Clip) -> None:
    attack = PGD(eps=8 / 255, steps=2)
    expected = attack(model, clip, torch.tensor([1, 1]))
    assert torch.equal(attack(model, clip, [1, 1]).clip.video, expected.clip.video)
    assert torch.equal(attack.craft(model, clip, (1, 1)).video, expected.clip.video)
    single = clip.select([0])
    assert torch.equal(attack(model, single, 1).clip.video, expected.clip.video[:1])
    for wrong in (1, [1], [1.0, 1.0], ["a", "b"], [True, False], torch.tensor([1.0, 1.0]), "Biking", None):
        with pytest.raises(InputError, match="Labels are 2 class numbers"):
            attack(model, clip, wrong)  # type: ignore[arg-type]


def test_an_attack_says_what_a_model_is(clip: rv.Clip) -> None:
    with pytest.raises(InputError, match=r"Linear is no robustvideo model: .*rv\.wrap\("):
        FGSM()(nn.Linear(1, 1), clip, [0, 0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'embedded:r3d' is a name, no model: .*rv\.load_model\("):
        FGSM().craft("embedded:r3d", clip, [0, 0])  # type: ignore[arg-type]


def test_an_attack_says_what_a_clip_is(model: rv.Model) -> None:
    with pytest.raises(InputError, match=r"Tensor is no clip: .*rv\.Clip\("):
        FGSM()(model, torch.zeros(1, 3, 2, 4, 4), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sound", [False, True])
def test_a_clip_of_arrays_says_what_it_needs(sound: bool) -> None:
    video, audio = np.zeros((1, 3, 2, 4, 4), dtype=np.float32), np.zeros((1, 1, 8), dtype=np.float32)
    arguments: Any = (torch.as_tensor(video), audio, 8000) if sound else (video,)
    with pytest.raises(InputError, match=r"got ndarray: torch\.as_tensor\("):
        rv.Clip(*arguments)


@pytest.mark.parametrize("eps", ["8/255", None, [0.1]])
def test_a_budget_is_a_number(eps: Any) -> None:
    for make in (rv.Linf, rv.L2):
        with pytest.raises(InputError, match="A budget is a number, such as 8 / 255, got"):
            make(eps)
    if eps is not None:
        with pytest.raises(InputError, match="A budget is a number"):
            PGD(eps=eps)
