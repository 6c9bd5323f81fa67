"""Runs of a real trainer that are broken off and go on: what the tests of methods with a memory share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from robustvideo.training import Recipe, train
from robustvideo.training.recipe import make_recipe
from robustvideo.training.trainer import Trainer

TINY = Path(__file__).with_name("tiny.py")


def tiny_recipe(training: str, **changes: Any) -> Recipe:
    """Sixteen clips in two batches per epoch, two epochs."""
    content = {
        "title": "tiny",
        "model": f"file:{TINY}:build",
        "data": {"train": "embedded:kinetic?clips=16", "val": "embedded:kinetic?split=val&clips=8"},
        "training": training,
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.05,
        **changes,
    }
    return make_recipe(content, "tiny")


def epochs_of(folder: Path) -> list[dict[str, float]]:
    """What was logged of every epoch, but for the time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: number for name, number in line.items() if name != "seconds"} for line in lines]


class Interrupted(Exception):
    """Stands for a kill."""


def check_resumption(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Train at one go and with a break in every batch: weights and metrics must be the same.

    Returns:
        What was logged of every epoch.
    """
    train(recipe, folder / "whole", quiet=True)
    plain = Trainer._batch
    breaks = 0

    def once(trainer: Trainer, parts: Any) -> None:
        nonlocal breaks
        if getattr(trainer, "moved", False):
            breaks += 1
            raise Interrupted
        trainer.moved = True  # type: ignore[attr-defined]
        plain(trainer, parts)

    monkeypatch.setattr(Trainer, "_batch", once)
    while True:
        try:
            train(recipe, folder / "broken", quiet=True, checkpoint_seconds=0)
            break
        except Interrupted:
            continue
    monkeypatch.setattr(Trainer, "_batch", plain)
    assert breaks == 3, "every one of the four batches but the last ends in a break"
    one, other = (load_file(folder / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(one[name].equal(other[name]) for name in one)
    assert epochs_of(folder / "whole") == epochs_of(folder / "broken")
    return epochs_of(folder / "whole")
