"""`robustvideo corruption` says of untrained models what can be known, in numbers, on a page and on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustvideo.cli.corruption import corruption
from robustvideo.errors import InputError

DATA = "embedded:kinetic?split=test&audio=true"
MODELS = [f"{name}?scale=small&classes=8" for name in ("AcV", "AsV")]


def run(out: Path, models: list[str], data: str = DATA) -> None:
    corruption(models, data, out=out, clips=8, seeds=1, steps=1, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corruption")
    run(out, MODELS)
    return out


def test_every_model_is_masked_and_the_first_one_attacked(written: Path) -> None:
    found = json.loads((written / "corruption.json").read_text())
    assert found["clips"] == 8
    for spec in MODELS:
        points = found[f"accuracy of {spec}"]
        assert len({p["accuracy"]["estimate"] for p in points if p["ratio"] == 0}) == 1
        assert {p["mode"] for p in points} == {"video", "audio", "synchronous", "asynchronous"}
        assert {p["share"] for p in points} == {0, 1 / 8, 2 / 8}  # 16 frames are 8 steps of these models
    by_name = {p["attack"]: p for p in found["alignment and transfer"]}
    assert list(by_name) == ["clean", "fgsm", "ifgsm", "mifgsm", "nifgsm"]
    assert by_name["ifgsm"]["alignment"] == by_name["fgsm"]["alignment"]  # of one step
    for point in by_name.values():
        assert -1 <= point["alignment"]["low"] <= point["alignment"]["estimate"] <= point["alignment"]["high"] <= 1


def test_the_page_has_a_chart_per_model_and_the_scatter(written: Path) -> None:
    page = (written / "corruption.html").read_text(encoding="utf-8")
    assert page.count('class="chart"') == len(MODELS) + 1
    assert all(page.count(spec.replace("&", "&amp;")) > 2 for spec in MODELS)
    assert "on 8 clips of" in page
    assert "with 1 random mask per" in page
    assert "nifgsm(threat=audio_visual(), steps=1)" in page


def test_progress_counts_all_clips_and_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, MODELS[:1])
    out, err = capsys.readouterr()
    assert "masked time steps: 224/224, 0:00 left" in err  # 4 modes, 7 ratios, 8 clips
    assert "adversarial" not in err
    assert "12.5%: " in out
    assert out.splitlines()[-1] == str(tmp_path / "corruption.html")


def test_clips_without_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound"):
        run(tmp_path, MODELS[:1], "embedded:kinetic?split=test")
