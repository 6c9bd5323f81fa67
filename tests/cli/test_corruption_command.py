"""`robustvideo corruption` says of untrained models what can be known: nothing is masked at 0 %, and files agree."""

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


def test_every_model_is_masked_and_the_first_one_attacked(tmp_path: Path) -> None:
    run(tmp_path, MODELS)
    found = json.loads((tmp_path / "corruption.json").read_text())
    assert found["clips"] == 8
    for spec in MODELS:
        points = found[f"accuracy of {spec}"]
        assert len({p["accuracy"]["estimate"] for p in points if p["ratio"] == 0}) == 1
        assert {p["mode"] for p in points} == {"video", "audio", "synchronous", "asynchronous"}
    by_name = {p["attack"]: p for p in found["alignment and transfer"]}
    assert list(by_name) == ["fgsm", "ifgsm", "mifgsm", "nifgsm"]
    assert by_name["ifgsm"]["alignment"] == by_name["fgsm"]["alignment"]  # of one step
    assert all(-1 <= p["alignment"] <= 1 for p in by_name.values())


def test_clips_without_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound"):
        run(tmp_path, MODELS[:1], "embedded:kinetic?split=test")
